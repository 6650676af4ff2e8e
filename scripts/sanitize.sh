#!/usr/bin/env bash
# Runs under AddressSanitizer and Miri what they can run; needs a nightly
# toolchain with Miri (rustup component add miri rust-src --toolchain nightly)
# and, for the integration tests, what `make test` needs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Miri has no libnftnl: it runs what of the unsafe code is Rust alone.
cargo +nightly miri test --locked --package mnl-sys

# Not the static executable of a release: the sanitizer's runtime is dynamic.
# The plugin then runs with it on every command that the integration tests make.
export RUSTFLAGS=-Zsanitizer=address
target="$(rustc +nightly --version --verbose | sed -n 's/^host: //p')"
folder="${CARGO_TARGET_DIR:-target}/sanitize"
cargo +nightly test --locked --lib --target "$target" --target-dir "$folder"
scripts/namespaces.sh cargo +nightly test --locked --test integration \
    --target "$target" --target-dir "$folder" -- \
    oracle:: lifecycle:: damage:: intruders::
