#!/usr/bin/env bash
# build.sh [NAME...] builds dist/NAME: autoport, which is built if none is named, or autoport-agent. Each is
# one static executable, with its debug symbols in dist/NAME.debug. Shell completions go to dist/completions,
# man pages to dist/man, licences to dist/licenses, and the list of what is linked into them to
# dist/autoport.cdx.json.
#
# TARGET=aarch64-unknown-linux-gnu builds for another machine than this one, into dist/TARGET:
# integration/setup.sh build installs what that needs. The same commit gives the same bytes in every folder.
set -euo pipefail
export LC_ALL=C
umask 022
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/artifact.sh

host=$(rustc -vV | sed -n 's/^host: //p')
target=${TARGET:-$host}
built=$(cargo metadata --locked --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
out=dist prefix='' packages=''
if [ "$target" != "$host" ]; then
    out=dist/$target
    . scripts/cross.sh
fi

# Where this machine keeps sources differs everywhere, so no path of it is in what is built.
flags='' cflags=''
for pair in "$PWD=autoport" "$built=target" "${CARGO_HOME:-$HOME/.cargo}/registry/src=cargo"; do
    flags+="'--remap-path-prefix=$pair',"
    cflags+=" -ffile-prefix-map=$pair"
done
export CFLAGS="${CFLAGS:-}$cflags"

# What `autoport version` shows. A source archive has no history.
commit=$(git -c safe.directory="$PWD" describe --always --dirty --abbrev=12 --exclude '*' 2>/dev/null || true)
[ -z "$commit" ] || export AUTOPORT_COMMIT=$commit

fail() {
    echo "scripts/build.sh: $1" >&2
    rm -f "$out/.autoport.new"
    exit 1
}

# build PACKAGE PROFILE BYTES: an executable of that name, not larger than that. A package by itself: the plugin
# gets no features that only the agent needs.
build() {
    local name=$1 profile=$2 max=$3 linked size
    cargo build --locked --profile "$profile" --package "$name" --bin "$name" --target "$target" --config "build.rustflags=[$flags]"
    # The link has a check sum of the symbols, and the name without a folder.
    "${prefix}objcopy" --only-keep-debug "$built/$target/$profile/$name" "$out/$name.debug"
    chmod -x "$out/$name.debug"
    "${prefix}objcopy" --strip-all --add-gnu-debuglink="$out/$name.debug" "$built/$target/$profile/$name" "$out/.autoport.new"
    linked=$(ldd "$out/.autoport.new" 2>&1 || true)
    [[ $linked == *"not a dynamic executable"* || $linked == *"statically linked"* ]] ||
        fail "$out/$name needs shared libraries: $linked"
    size=$(stat -c %s "$out/.autoport.new")
    [ "$size" -le "$max" ] || fail "$out/$name has $size bytes, more than $max"
    mv "$out/.autoport.new" "$out/$name"
    echo "$out/$name: $size bytes, static, for $target"
}

mkdir -p "$out"
[ $# -gt 0 ] || set -- autoport
for name in "$@"; do
    case $name in
    autoport) build autoport release $((9 << 19)) ;;
    autoport-agent) build autoport-agent agent $((12 << 20)) ;;
    *) fail "there is no program $name" ;;
    esac
done

# The libraries that no crate contains.
versions=(
    "libnftnl=$(${packages:+env "PKG_CONFIG_LIBDIR=$packages"} pkg-config --modversion libnftnl)"
    "glibc=$(printf '#include <features.h>\n__GLIBC__ __GLIBC_MINOR__\n' | "${prefix}gcc" -E - | awk 'END { print $1 "." $2 }')"
    "libgcc=$("${prefix}gcc" -dumpfullversion)"
    "rust-std=$(rustc --version | cut -d ' ' -f 2)"
)
cargo run --quiet --locked --package generate -- "$out" "$target" "${versions[@]}"
