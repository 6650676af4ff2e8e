#!/usr/bin/env bash
# Counts instructions and system calls, and compares them with bench/figures. Arguments go to the
# benchmark: --accept puts on record what is counted now.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
target=$(cargo metadata --locked --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
cargo build --locked --profile measure --target "$host" --package autoport --package autoport-bench \
    --bin autoport --bin autoport-bench --bin floor --bin pure
exec scripts/namespaces.sh "$target/$host/measure/autoport-bench" --check "$@"
