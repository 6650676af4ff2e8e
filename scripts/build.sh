#!/usr/bin/env bash
# Builds dist/autoport, one static executable for this machine's architecture,
# with its debug symbols in dist/autoport.debug, its shell completions in
# dist/completions and its man pages in dist/man.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/.."

max=$((4 << 20)) # bytes

host=$(rustc -vV | sed -n 's/^host: //p')
target=$(cargo metadata --locked --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
# Where this machine keeps other people's sources is nobody's business, and differs everywhere.
remap="'--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}/registry/src=cargo'"
cargo build --locked --release --bin autoport --target "$host" --config "build.rustflags=[$remap]"
built=$target/$host/release/autoport

mkdir -p dist
objcopy --only-keep-debug "$built" dist/autoport.debug
chmod -x dist/autoport.debug
objcopy --strip-all --add-gnu-debuglink=dist/autoport.debug "$built" dist/.autoport.new

fail() {
    echo "scripts/build.sh: $1" >&2
    rm -f dist/.autoport.new
    exit 1
}
linked=$(ldd dist/.autoport.new 2>&1 || true)
[[ $linked == *"not a dynamic executable"* || $linked == *"statically linked"* ]] ||
    fail "dist/autoport needs shared libraries: $linked"
size=$(stat -c %s dist/.autoport.new)
[ "$size" -le "$max" ] || fail "dist/autoport has $size bytes, more than $max"
mv dist/.autoport.new dist/autoport
cargo run --quiet --locked --package generate -- dist
echo "dist/autoport: $size bytes, static, for $host"
