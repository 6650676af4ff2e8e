#!/usr/bin/env bash
# Boots Debian's kernels in an emulated machine and runs suites of the
# integration tests there, as root: scripts/kernels.sh RELEASE...
#
# SUITES="udp gc" limits them. Without SUITES the first of these kernels is booted
# once more at the end, without nf_tables, for the suite `tableless`.
# TARGET=aarch64-unknown-linux-gnu makes it a machine, a kernel and tests of that kind,
# and PLUGIN=FILE takes that plugin instead of the one that is built with the tests.
#
# The machine has neither disk nor network. All that it needs is in an initramfs,
# put together from Debian's programs, the kernel's modules and the tests. It has
# two serial ports: the kernel's console, and what the tests print. Both are kept
# below target/kernels.
#
# The suite `packets` is no test but a part of the benchmark, and goes alone: SUITES=packets, with BENCH=FILE,
# the executable of the benchmark, and PLUGIN=FILE. Its figures are put into FIGURES=FILE.
#
# A kernel passes if every suite ran to its end and passed, none was empty or
# left a test out, and the kernel did not complain.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tools=${AUTOPORT_TOOLS:-$PWD/target/tools}
limit=3600 # seconds from power on to power off
memory=1536 # MiB

# Unless SUITES names others. They show which way the plugin takes, traffic, what becomes of flows, and that
# kernel and records agree, also after damage and among many. The suite `hook` is the node agent's.
suites=(kernel sctp traffic race choosing udp offload gc recovery hook)
[ -z "${SUITES:-}" ] || read -ra suites <<<"$SUITES"

# What they call.
programs=(ip nft iptables-nft strace flock setpriv unshare nsenter)
plugins=(bridge host-local ptp portmap)

fail() {
    echo "scripts/kernels.sh: $1" >&2
    exit 1
}

[ $# -gt 0 ] || fail "usage: $0 RELEASE..."
host=$(rustc -vV | sed -n 's/^host: //p')
target=${TARGET:-$host}
gnu=${target/-unknown/}
# Its time is counted in instructions, four nanoseconds each, and leaps where nobody computes. So every wait
# and every timeout is as on a small processor, however busy this machine is and however slow the emulation.
# It has one processor: two do not start that way, and without it they mostly wait for each other.
qemu=(-accel "tcg,thread=single" -icount "shift=2,sleep=off" -m "$memory")
qemu+=(-nodefaults -no-user-config -display none -nic none -no-reboot)
case $target in
x86_64-*)
    arch=amd64
    # Without cx16: QEMU 7.2 leaves random flags behind when newer kernels allocate memory by that instruction.
    qemu=(qemu-system-x86_64 -machine pc -cpu "qemu64,+rdrand,-cx16" "${qemu[@]}")
    console=ttyS0 output=ttyS1 second=(-serial chardev:tests)
    parameters=(mitigations=off nokaslr tsc=reliable)
    ;;
aarch64-*)
    arch=arm64
    qemu=(qemu-system-aarch64 -machine virt -cpu cortex-a57 "${qemu[@]}")
    # The machine has one port of its own. The other one is on its PCI bus.
    console=ttyAMA0 output=ttyS0 second=(-device "pci-serial,chardev=tests")
    parameters=(mitigations=off nokaslr)
    ;;
*) fail "there is no emulated machine for $target" ;;
esac
busybox=$tools/busybox/bin/busybox
debian=$tools/machine/$arch
needed=("$busybox" "$debian" "${@/#/$tools/kernels/$arch/}")
# Debian's servers are there for this machine's processor alone.
servers=()
if [[ " ${suites[*]} " == *" hook "* && $target == "$host" ]]; then servers=(servers java rootfs); fi
for file in "${needed[@]}" "${servers[@]/#/$tools/}"; do
    [ -e "$file" ] || fail "$file is missing: ${TARGET:+TARGET=$TARGET }KERNELS=\"$*\" integration/setup.sh kernels"
done
if [ "$target" != "$host" ]; then . scripts/cross.sh; fi

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

mkdir -p "$root"/{proc,sys,dev,run,tmp,root,etc,var/lib,usr/{bin,sbin,lib,lib64}}
for folder in bin sbin lib lib64; do ln -s "usr/$folder" "$root/$folder"; done
for program in "${programs[@]}"; do
    path=$(find "$debian"/{,usr/}{bin,sbin} -name "$program" | head -n 1)
    [ -e "$path" ] || fail "there is no $program in $debian"
    install "$path" "$root/usr/bin/$program"
done
ln -s iptables-nft "$root/usr/bin/iptables" # Debian's choice, made when its package is configured
for plugin in "${plugins[@]}"; do
    install -D "$debian/usr/lib/cni/$plugin" "$root/usr/lib/cni/$plugin"
    install -D "$debian/cni-sid/$plugin" "$root/tools/cni-sid/$plugin"
done
# Some packages have not moved below /usr.
for folder in lib usr/lib; do
    cp -R --no-dereference "$debian/$folder/$gnu" "$root/usr/lib/"
done
rm -rf "$root/usr/lib/$gnu"/{gconv,perl*}
cp -P "$debian"/lib*/ld-linux-*.so.* "$root/usr/lib/"
[ ! -d "$debian/lib64" ] || cp -P "$debian"/lib64/* "$root/usr/lib64/"
put /etc/protocols /etc/services /etc/passwd /etc/group /etc/nsswitch.conf
install "$debian/bin/busybox" "$root/usr/bin/busybox"
for applet in $("$busybox" --list); do
    [ -e "$root/usr/bin/$applet" ] || ln -s /usr/bin/busybox "$root/usr/bin/$applet"
done
mkdir -p "$root/usr/sbin"
ln -s /usr/bin/busybox "$root/usr/sbin/modprobe" # what the kernel calls

built() { sed -n "s/.*\"kind\":\[\"$1\"\].*\"name\":\"$2\".*\"executable\":\"\([^\"]*\)\".*/\1/p" "$work/built" | tail -n 1; }
if [ "${suites[*]}" = packets ]; then
    install "${BENCH:?}" "$root/bench"
    install "${PLUGIN:?}" "$root/autoport"
    mkdir -p "$root$PWD"
else
# The tests are static, like all executables of this project. They know the plugin by its path.
cargo test --locked --profile emulated --target "$target" --test integration --no-run --message-format json >"$work/built"
tests=$(built test integration)
plugin=$(built bin autoport)
if [ ! -x "$tests" ] || [ ! -x "$plugin" ]; then fail "cargo did not say where the tests and the plugin are"; fi
install "$tests" "$root/integration"
install -D "${PLUGIN:-$plugin}" "$root$plugin"
mkdir -p "$root$PWD/tests"
cp -R tests/golden "$root$PWD/tests/"
fi

# Those of the agent, which know it by its path too.
if [[ " ${suites[*]} " == *" hook "* ]]; then
    cargo test --locked --profile emulated --target "$target" --package autoport-agent --lib --test node --no-run --message-format json >"$work/built"
    for what in lib:autoport_agent:agent-lib test:node:agent-node; do
        IFS=: read -r kind name file <<<"$what"
        executable=$(built "$kind" "$name")
        [ -x "$executable" ] || fail "cargo did not say where the agent's tests are"
        install "$executable" "$root/$file"
    done
    agent=$(built bin autoport-agent)
    [ -x "$agent" ] || fail "cargo did not say where the agent is"
    put "$agent"
    install "$debian/usr/bin/python3" "$root/usr/bin/"
    cp -R "$debian"/usr/lib/python3* "$root/usr/lib/"
    [ ${#servers[@]} -eq 0 ] || cp -R "${servers[@]/#/$tools/}" "$root/tools/"
fi

# --- what it does -------------------------------------------------------------

# The list of suites comes from the kernel's command line.
{
    printf '#!/bin/busybox sh\ncd=%s\noutput=/dev/%s\n' "$PWD" "$output"
    cat <<'INIT'
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/0 /dev/stdin
exec >$output 2>&1
stty -F $output raw
export PATH=/usr/sbin:/usr/bin HOME=/root AUTOPORT_TOOLS=/tools
cd "$cd"
ip link set lo up
# Whatever else is needed the kernel loads on demand. Of these busybox's modprobe would tell a second
# program that they are there while they are being loaded, or tests set their sysctls before.
for module in veth bridge br_netfilter nf_tables nf_conntrack_netlink tcp_diag udp_diag sctp sctp_diag; do
    modprobe $module
done
# The seconds of the machine that runs this one; its own clock counts instructions.
clock() { cat /sys/class/rtc/rtc0/since_epoch; }
echo "kernels: begin $(uname -r)"
for suite in $(echo $suites | tr , ' '); do
    echo "kernels: suite $suite"
    began=$(clock)
    status=0
    if [ $suite = packets ]; then
        mkdir -p /run/figures
        /bench --autoport /autoport --floor /autoport --raw /run/figures packets || status=$?
        sed 's/^/figures: /' /run/figures/packets.jsonl
        echo "kernels: status $status after $(($(clock) - began)) s"
        continue
    fi
    # Not what a test runs as a process of its own, nor measurements, nor what needs systemd, which starts too slowly.
    without='-e :act$ -e :figures: -e :systemd:'
    [ -e /tools/servers ] || without="$without -e :programs:"
    programs=/integration filter=::$suite::
    [ $suite != hook ] || programs='/agent-lib /agent-node' filter=hook::
    for program in $programs; do
        tests=$($program --list "$filter" 2>/dev/null | sed -n "s/: test$//p" | grep -v $without)
        # Without a name all tests would run.
        $program --exact --include-ignored --nocapture --test-threads 2 ${tests:-none} || status=$?
    done
    echo "kernels: status $status after $(($(clock) - began)) s"
done
echo "kernels: end"
poweroff -f
INIT
} >"$root/init"
chmod 0755 "$root/init"

# --- the machines -------------------------------------------------------------

# boot RELEASE NAME LIST PARAMETER... runs a machine to its end.
boot() {
    local release=$1 name=$2 list=$3
    shift 3
    rm -rf "$root/usr/lib/modules" "$kept/$name".{console,tests}
    cp -R "$tools/kernels/$arch/$release/modules" "$root/usr/lib/modules"
    (cd "$root" && find . | "$busybox" cpio -o -H newc) >"$work/initramfs" 2>"$work/cpio"
    timeout --kill-after 10 "$limit" "${qemu[@]}" \
        -kernel "$tools/kernels/$arch/$release/vmlinuz" -initrd "$work/initramfs" \
        -append "console=$console loglevel=5 panic=-1 oops=panic ${parameters[*]} suites=$list $*" \
        -chardev "file,id=console,path=$kept/$name.console" -serial chardev:console \
        -chardev "file,id=tests,path=$kept/$name.tests" "${second[@]}" </dev/null
}

# judge NAME LIST prints what came of it, a line per suite; fails if that is not what it should be.
judge() {
    local name=$1 list=$2 complaints
    [ -e "$kept/$name.tests" ] || return 1
    tr -d '\r' <"$kept/$name.tests" | awk -v name="$name" -v list="$list" '
        /^kernels: begin / { printf "%s: Linux %s\n", name, $3 }
        /^kernels: suite / { suite = $3; result = "" }
        /^way: / { print "    " $0 }
        /^test .* FAILED$/ { print "    " $0 }
        /^test result: / { result = $0 }
        /^kernels: status / {
            good = $3 == 0 && (suite == "packets" || match(result, /^test result: ok\. [1-9][0-9]* passed; 0 failed; 0 ignored; /))
            split(result, word, " ")
            printf "  %-10s %s, %d passed, %d failed, %d s\n", suite, good ? "ok" : "FAILED", word[4], word[6], $5
            if (good) passed[suite] = 1
        }
        /^kernels: end$/ { end = 1 }
        END {
            if (!end) print "  it did not reach the end; " suite " was the last suite"
            bad = !end
            number = split(list, wanted, ",")
            for (i = 1; i <= number; i++) if (!(wanted[i] in passed)) bad = 1
            exit bad
        }' || return 1
    complaints=$(grep -aE 'WARNING: |BUG: |Oops|Kernel panic|general protection' "$kept/$name.console" || true)
    [ -z "$complaints" ] || {
        printf '  the kernel complained:\n%s\n' "$complaints"
        return 1
    }
}

failed=()
# run RELEASE NAME LIST PARAMETER... does both.
run() {
    local began=$SECONDS status=0
    boot "$@" || status=$?
    judge "$2" "$3" || failed+=("$2")
    [ "$status" -eq 0 ] || {
        echo "  qemu ended with status $status (124: after $limit s)"
        failed+=("$2")
    }
    echo "  $((SECONDS - began)) s in all"
}

for release; do
    run "$release" "$release-$arch" "$(IFS=, && echo "${suites[*]}")"
done
[ -n "${SUITES:-}" ] || run "$1" "$1-$arch-tableless" tableless module_blacklist=nf_tables

[ -z "${FIGURES:-}" ] || tr -d '\r' <"$kept/$1-$arch.tests" | sed -n 's/^figures: //p' >"$FIGURES"
[ ${#failed[@]} -eq 0 ] || fail "failed: ${failed[*]}; what they printed is in $kept"
echo "scripts/kernels.sh: passed in $SECONDS s"
