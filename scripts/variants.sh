#!/usr/bin/env bash
# Builds the plugin in several ways, for `make bench STAGE=variants`: dist/variants/NUMBER-NAME, stripped.
# Arguments are patterns of the names to build (default: all); each takes some minutes of processor time.
# What is not installed (a linker) is left out, and said.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
target=$(cargo metadata --locked --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
mkdir -p dist/variants
wanted=("${@:-*}")

# variant NAME [RUSTFLAG... --] [--config SETTING]...
variant() {
    local name=$1 pattern flags=()
    shift
    for pattern in "${wanted[@]}"; do
        # shellcheck disable=SC2254 # it is a pattern
        case $name in $pattern) break ;; *) pattern= ;; esac
    done
    [ -n "$pattern" ] || return 0
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        flags+=("'$1'")
        shift
    done
    shift
    local list
    list=$(IFS=,; echo "${flags[*]}")
    echo "scripts/variants.sh: $name"
    cargo build --quiet --locked --release --bin autoport --target "$host" --target-dir "$target/variants" \
        ${list:+--config "build.rustflags=[$list]"} "$@"
    objcopy --strip-all "$target/variants/$host/release/autoport" "dist/variants/$name"
}

profile() { printf -- '--config\nprofile.release.%s\n' "$1"; }

# linker NAME PROGRAM RUSTFLAG... links the shipped code with another program.
linker() {
    local name=$1 program=$2
    shift 2
    command -v "$program" >/dev/null || {
        echo "scripts/variants.sh: $program is not installed; without $name"
        return 0
    }
    variant "$name" "$@" --
}

variant 0-shipped --
for setting in 'opt-level="s"' 'opt-level=2' 'opt-level=3' 'lto=false' 'lto="thin"' 'codegen-units=16' 'panic="unwind"'; do
    mapfile -t config < <(profile "$setting")
    name=${setting//\"/}
    variant "1-${name//=/ }" -- "${config[@]}"
done
variant '2-position-independent' -Crelocation-model=pic --
linker '3-ld.bfd' ld.bfd -Clink-arg=-fuse-ld=bfd
linker '3-gold' ld.gold -Clink-arg=-fuse-ld=gold
linker '3-mold' mold -Clink-arg=-fuse-ld=mold
variant '3-without RELRO' -Crelro-level=off --
