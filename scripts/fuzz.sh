#!/usr/bin/env bash
# Feeds each target of fuzz/ for a number of seconds. With a nightly toolchain libFuzzer does it, which sees
# where the bytes lead; without, the corpus is changed at random (FUZZ_SEED=1).
# What is found stays below target/fuzz, as does the corpus that libFuzzer grows.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seconds=${1:-60}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || {
    echo "usage: $0 SECONDS" >&2
    exit 2
}
tools=${AUTOPORT_TOOLS:-$PWD/target/tools}
export PATH=$tools/bin:$PATH

if [[ $(rustup toolchain list 2>/dev/null) != *nightly* ]]; then
    echo "scripts/fuzz.sh: no nightly toolchain, so no libFuzzer: changing the corpus at random"
    FUZZ_SECONDS=$seconds exec cargo test --locked --release --package autoport --package autoport-agent --test corpus -- --nocapture
fi

found=$PWD/target/fuzz
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/fuzz
cargo +nightly fuzz build
for target in request annotation record netlink nri; do
    mkdir -p "$found/$target"
    echo "scripts/fuzz.sh: $target, $seconds s"
    # libFuzzer prints each input that leads somewhere new; the figures are at the end.
    cargo +nightly fuzz run "$target" "$found/$target" "fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -timeout=20 -print_final_stats=1 -artifact_prefix="$found/" \
        >"$found/$target.log" 2>&1 || {
        tail -n 40 "$found/$target.log" >&2
        exit 1
    }
    grep -E '^(Done|stat::number_of_executed_units|stat::average_exec_per_sec)' "$found/$target.log"
done
