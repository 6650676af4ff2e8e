#!/usr/bin/env bash
# Boots Debian's kernels in an emulated machine and runs suites of the
# integration tests there, as root: scripts/kernels.sh RELEASE...
#
# The machine has neither disk nor network. All that it needs is in an initramfs,
# put together from the programs of the machine it runs on, the kernel's modules
# and the tests. It has two serial ports: the kernel's console, and what the
# tests print. Both are kept below target/kernels, by release.
#
# A kernel passes if every suite has run and passed, none was empty, and the
# kernel did not complain.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

tools=${AUTOPORT_TOOLS:-$PWD/target/tools}
limit=${LIMIT:-3600}
processors=2
memory=1536 # MiB

# What depends on the kernel. `kernel` says which way the plugin took; `sctp` is for these kernels only, since
# others may lack the module.
suites=(kernel sctp lifecycle traffic udp gc recovery damage choosing race oracle policy adopt)
[ -z "${SUITES:-}" ] || read -ra suites <<<"$SUITES"

# What they call.
programs=(ip nft iptables strace flock setpriv unshare)
plugins=(bridge host-local ptp portmap)

fail() {
    echo "scripts/kernels.sh: $1" >&2
    exit 1
}

[ $# -gt 0 ] || fail "usage: $0 RELEASE..."
[ "$(uname -m)" = x86_64 ] || fail "these are kernels for x86-64"
busybox=$tools/busybox/bin/busybox
for file in "$busybox" "${@/#/$tools/kernels/}"; do
    [ -e "$file" ] || fail "$file is missing: KERNELS=\"$*\" integration/setup.sh kernels"
done

metadata() { cargo metadata --locked --no-deps --format-version 1 | sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }
kept=$(metadata target_directory)/kernels
mkdir -p "$kept"
work=$(mktemp -d "$kept/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT

# --- what every machine has --------------------------------------------------

root=$work/root

# put FILE... where they are here.
put() {
    local file
    for file; do install -D -m 0755 "$file" "$root$file"; done
}

# put_program FILE... the same, with the libraries.
put_program() {
    local file libraries
    for file; do
        put "$file"
        libraries=$(ldd "$file" 2>/dev/null | grep -o '/[^ ]*' || true)
        # shellcheck disable=SC2086 # a list of names without blanks
        put $libraries
    done
}

mkdir -p "$root"/{proc,sys,dev,run,tmp,root,etc,var/lib,usr/{bin,sbin,lib,lib64}}
for folder in bin sbin lib lib64; do ln -s "usr/$folder" "$root/$folder"; done
for program in "${programs[@]}"; do
    path=$(command -v "$program") || fail "there is no $program here: integration/setup.sh kernels"
    put_program "$path"
done
put_program "${plugins[@]/#//usr/lib/cni/}"
for plugin in "${plugins[@]}"; do
    install -D "$tools/cni-sid/$plugin" "$root/tools/cni-sid/$plugin"
done
put /usr/lib/x86_64-linux-gnu/xtables/*.so
put /etc/protocols /etc/services /etc/passwd /etc/group /etc/nsswitch.conf
cp "$busybox" "$root/usr/bin/busybox"
for applet in $("$busybox" --list); do
    [ -e "$root/usr/bin/$applet" ] || [ -e "$root/usr/sbin/$applet" ] || ln -s /usr/bin/busybox "$root/usr/bin/$applet"
done
ln -s /usr/bin/busybox "$root/usr/sbin/modprobe" # what the kernel calls

# The tests are static, like all executables of this project. They know the plugin by its path.
cargo test --locked --test integration --no-run --message-format json >"$work/built"
built() { sed -n "s/.*\"kind\":\[\"$1\"\].*\"name\":\"$2\".*\"executable\":\"\([^\"]*\)\".*/\1/p" "$work/built" | tail -n 1; }
tests=$(built test integration)
plugin=$(built bin autoport)
[ -x "$tests" ] && [ -x "$plugin" ] || fail "cargo did not say where the tests and the plugin are"
mkdir -p "$root$(dirname "$plugin")" "$root$PWD/tests"
objcopy --strip-debug "$tests" "$root/integration"
objcopy --strip-debug "$plugin" "$root$plugin"
cp -R tests/golden "$root$PWD/tests/"

# --- what it does -------------------------------------------------------------

{
    printf 'suites="%s"\nfolder=%s\n' "${suites[*]}" "$PWD"
    cat <<'INIT'
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/0 /dev/stdin
ln -s /proc/self/fd/1 /dev/stdout
ln -s /proc/self/fd/2 /dev/stderr
exec >/dev/ttyS1 2>&1
stty -F /dev/ttyS1 raw
export PATH=/usr/sbin:/usr/bin HOME=/root AUTOPORT_TOOLS=/tools RUST_BACKTRACE=0
cd "$folder"
ip link set lo up
# Whatever else is needed the kernel loads on demand. Of these busybox's modprobe would tell a second
# program that they are there while they are being loaded, or tests set their sysctls before.
modprobe -a veth bridge br_netfilter nf_tables nf_conntrack_netlink tcp_diag udp_diag sctp sctp_diag
echo "kernels: begin $(uname -r)"
for suite in $suites; do
    echo "kernels: suite $suite"
    began=$(cut -d. -f1 /proc/uptime)
    # A suite's name is the beginning of its tests' names, and may be in the middle of others'.
    /integration --list --include-ignored "$suite::" 2>/dev/null | sed -n "s/^\($suite::.*\): test$/\1/p" >/tmp/list
    ignored=
    [ "$suite" = sctp ] && ignored=--include-ignored
    /integration --exact --nocapture $ignored $(cat /tmp/list)
    echo "kernels: $suite status $? seconds $(($(cut -d. -f1 /proc/uptime) - began))"
done
echo "kernels: end"
sync
poweroff -f
INIT
} >"$work/init"
{ printf '#!/bin/busybox sh\n'; cat "$work/init"; } >"$root/init"
chmod 0755 "$root/init"
mkdir -p "$root$PWD"

# --- the machines -------------------------------------------------------------

# boot RELEASE runs the machine to its end.
boot() {
    local release=$1
    rm -rf "$root/usr/lib/modules"
    cp -R "$tools/kernels/$release/modules" "$root/usr/lib/modules"
    (cd "$root" && find . | "$busybox" cpio -o -H newc) >"$work/initramfs" 2>/dev/null
    timeout --kill-after 10 "$limit" qemu-system-x86_64 \
        -accel tcg,thread=multi -machine pc -cpu qemu64,+rdrand,-cx16 -smp "$processors" -m "$memory" \
        -nodefaults -no-user-config -display none -nic none -no-reboot \
        -kernel "$tools/kernels/$release/vmlinuz" -initrd "$work/initramfs" \
        -append "console=ttyS0 panic=-1 oops=panic mitigations=off nokaslr clocksource=hpet tsc=unstable quiet" \
        -serial "file:$kept/$release.console" -serial "file:$kept/$release.tests" </dev/null
}

for release; do
    began=$SECONDS
    boot "$release" || echo "status $?"
    echo "$release: $((SECONDS - began)) s"
    grep -aE '^kernels:|^test |test result|^path:' "$kept/$release.tests"
done
