#!/usr/bin/env bash
# build.sh [NAME...] builds dist/NAME: autoport, which is built if none is named, or autoport-agent. Each is
# one static executable for this machine's architecture, with its debug symbols in dist/NAME.debug. The
# plugin's shell completions go to dist/completions and its man pages to dist/man.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
target=$(cargo metadata --locked --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
# Where this machine keeps other people's sources is nobody's business, and differs everywhere.
remap="'--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}/registry/src=cargo'"

# What `autoport version` shows. A source archive has no history.
commit=$(git -c safe.directory="$PWD" describe --always --dirty --abbrev=12 --exclude '*' 2>/dev/null || true)
[ -z "$commit" ] || export AUTOPORT_COMMIT=$commit

fail() {
    echo "scripts/build.sh: $1" >&2
    rm -f dist/.autoport.new
    exit 1
}

# build PACKAGE BYTES: an executable of that name, not larger than that. A package by itself: the plugin gets
# no features that only the agent needs.
build() {
    local name=$1 max=$2 built=$target/$host/release/$1 linked size
    cargo build --locked --release --package "$name" --bin "$name" --target "$host" --config "build.rustflags=[$remap]"
    objcopy --only-keep-debug "$built" "dist/$name.debug"
    chmod -x "dist/$name.debug"
    objcopy --strip-all --add-gnu-debuglink="dist/$name.debug" "$built" dist/.autoport.new
    linked=$(ldd dist/.autoport.new 2>&1 || true)
    [[ $linked == *"not a dynamic executable"* || $linked == *"statically linked"* ]] ||
        fail "dist/$name needs shared libraries: $linked"
    size=$(stat -c %s dist/.autoport.new)
    [ "$size" -le "$max" ] || fail "dist/$name has $size bytes, more than $max"
    mv dist/.autoport.new "dist/$name"
    echo "dist/$name: $size bytes, static, for $host"
}

mkdir -p dist
[ $# -gt 0 ] || set -- autoport
for name in "$@"; do
    case $name in
    autoport) build autoport $((9 << 19)) ;;
    autoport-agent) build autoport-agent $((12 << 20)) ;;
    *) fail "there is no program $name" ;;
    esac
done
cargo run --quiet --locked --package generate -- dist
