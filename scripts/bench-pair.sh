#!/usr/bin/env bash
# bench-pair.sh OLD [ARGUMENT...] compares ADD and DEL of one port by dist/autoport and by another build.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

old=${1:?the path of another build of autoport}
shift
host=$(rustc -vV | sed -n 's/^host: //p')
target=$(cargo metadata --locked --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
cargo build --locked --profile measure --package autoport-bench --bin autoport-bench --bin floor --target "$host"
exec scripts/namespaces.sh "$target/$host/measure/autoport-bench" pair --autoport dist/autoport --against "$old" "$@"
