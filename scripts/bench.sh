#!/usr/bin/env bash
# Measures dist/autoport beside portmap, and writes docs/performance.md's tables and pictures.
# Arguments go to the benchmark: the parts to measure; or --quick, which measures a debug build a few
# times only and leaves the documentation alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
target=$(cargo metadata --locked --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
built=$target/$host
if [ "${1:-}" = --quick ]; then
    cargo build --locked --workspace --bins --target "$host"
    scripts/namespaces.sh "$built/debug/autoport-bench" load --quick
    exec scripts/namespaces.sh "$built/debug/autoport-bench" "$@"
fi
cargo build --locked --release --package autoport-bench --bin floor --target "$host"
cargo build --locked --profile measure --package autoport-bench --bin autoport-bench --target "$host"
# As the plugin is installed.
objcopy --strip-all "$built/release/floor" "$built/measure/floor"
exec scripts/namespaces.sh "$built/measure/autoport-bench" --autoport dist/autoport "$@"
