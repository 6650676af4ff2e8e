#!/usr/bin/env bash
# Counts the instructions of packets on Debian's kernel in an emulated machine, where a clock tick is an
# instruction, and puts the figures into target/bench and docs/performance.md.
# PLUGIN=FILE measures another build of the plugin, and leaves the documentation alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
target=$(cargo metadata --locked --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
cargo build --locked --profile measure --package autoport-bench --bin autoport-bench --target "$host"
bench=$target/$host/measure/autoport-bench
mkdir -p target/bench
figures=target/bench/packets.jsonl
[ -z "${PLUGIN:-}" ] || figures=target/bench/packets.other.jsonl
SUITES=packets BENCH=$bench PLUGIN=${PLUGIN:-dist/autoport} FIGURES=$figures scripts/kernels.sh trixie
[ -n "${PLUGIN:-}" ] || exec "$bench" --autoport dist/autoport --floor dist/autoport report
