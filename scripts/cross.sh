# shellcheck shell=bash disable=SC2034,SC2154 # `target` is the sourcing script's, `prefix` and `packages` are for it
# What cargo needs to build for TARGET on a machine of another kind, as variables. Sourced, in the root of the
# repository, with the triple in `target`.

prefix=${target/-unknown/}-
libraries=${AUTOPORT_TOOLS:-$PWD/target/tools}/cross/$target
if [ ! -d "$(rustc --print target-libdir --target "$target")" ] || ! command -v "${prefix}gcc" >/dev/null ||
    [ ! -d "$libraries" ]; then
    echo "${0#"$PWD/"}: what builds for $target is missing: TARGET=$target integration/setup.sh build" >&2
    exit 1
fi
packages=$libraries/usr/lib/${prefix%-}/pkgconfig
# With the name of the target in each, since cargo builds programs for this machine as well.
linker=CARGO_TARGET_${target//-/_}_LINKER
export "${linker^^}=${prefix}gcc"
export "CC_${target//-/_}=${prefix}gcc" "AR_${target//-/_}=${prefix}ar"
export "PKG_CONFIG_ALLOW_CROSS_${target//-/_}=1"
export "PKG_CONFIG_SYSROOT_DIR_${target//-/_}=$libraries" "PKG_CONFIG_LIBDIR_${target//-/_}=$packages"
