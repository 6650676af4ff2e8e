#!/usr/bin/env bash
# Measures what attackers can do to the commands of others. Arguments go to the benchmark:
# --autoport PATH measures another executable than dist/autoport, --quick shows only that it works.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
target=$(cargo metadata --locked --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
cargo build --locked --profile measure --package autoport-bench --bin autoport-bench --bin floor --target "$host"
[[ " $* " == *" --autoport "* ]] || set -- --autoport dist/autoport "$@"
exec scripts/namespaces.sh "$target/$host/measure/autoport-bench" load "$@"
