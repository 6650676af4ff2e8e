#!/usr/bin/env bash
# Makes everything that a release consists of, in dist, and dist/SHA256SUMS of it:
#
#   autoport-VERSION-TRIPLE.tar.gz and .cdx.json    scripts/tarball.sh
#   autoport_VERSION_ARCHITECTURE.deb               scripts/deb.sh
#   autoport_VERSION_ARCHITECTURE.oci.tar           scripts/image.sh; for several processors autoport_VERSION.oci.tar
#
#   scripts/release.sh [TRIPLE...]
#
# Without a triple it is for this machine. Two clones of one commit give the same bytes, wherever they are.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/artifact.sh

fail() {
    echo "scripts/release.sh: $1" >&2
    exit 1
}
host=$(rustc -vV | sed -n 's/^host: //p')
[ $# -gt 0 ] || set -- "$host"
grep -q "^## \[$version\]" CHANGELOG.md || fail "CHANGELOG.md has no section [$version]"
tags=$(git -c safe.directory="$PWD" tag --points-at HEAD 'v*' 2>/dev/null || true)
[ -z "$tags" ] || [ "$tags" = "v$version" ] || fail "this commit has the tag $tags, and Cargo.toml the version $version"

made=()
executables=()
for target; do
    TARGET=$target scripts/build.sh autoport autoport-agent
    executable=dist/$target/autoport
    [ "$target" != "$host" ] || executable=dist/autoport
    executables+=("$executable")
    scripts/tarball.sh "$executable"
    scripts/deb.sh "$executable"
    made+=("autoport-$version-$target".{tar.gz,cdx.json} "autoport_${version}_$(architecture "$executable").deb")
done
image=$(scripts/image.sh dist "${executables[@]}")
echo "$image"
image=${image%%: *}
made+=("${image##*/}")
(cd dist && sha256sum "${made[@]}" >SHA256SUMS)
cat dist/SHA256SUMS
