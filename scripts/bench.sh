#!/usr/bin/env bash
# Measures dist/autoport beside portmap, and writes docs/performance.md's tables and pictures.
# Arguments go to the benchmark: --quick, or the parts to measure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
target=$(cargo metadata --locked --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
cargo build --locked --release --package autoport-bench --bin floor --target "$host"
cargo build --locked --profile measure --package autoport-bench --bin autoport-bench --target "$host"
# As the plugin is installed.
objcopy --strip-all "$target/$host/release/floor" "$target/$host/measure/floor"
exec scripts/namespaces.sh "$target/$host/measure/autoport-bench" --autoport dist/autoport "$@"
