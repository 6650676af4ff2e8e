#!/usr/bin/env bash
# Makes an OCI image of dist/autoport, and of dist/autoport-agent beside it, from scratch:
# dist/autoport_VERSION_ARCHITECTURE.oci.tar, which `podman load`, `docker load`, `skopeo copy oci-archive:`
# and `ctr images import` take. No engine and no root are needed. The same executables give the same bytes.
#
#   scripts/image.sh [EXECUTABLE [FOLDER]]
set -euo pipefail
export LC_ALL=C
umask 022
cd "$(dirname "${BASH_SOURCE[0]}")/.."
executable=${1:-dist/autoport}
out=${2:-dist}
agent=$(dirname "$executable")/autoport-agent
for needed in "$executable" "$agent"; do
    [ -x "$needed" ] || {
        echo "scripts/image.sh: $needed is not there: run make build" >&2
        exit 1
    }
done

version=$("$executable" --version)
version=${version#autoport }
architecture=$(dpkg --print-architecture) # Go's names are Debian's, for amd64, arm64 and riscv64
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}
created=$(date -ud "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
name=localhost/autoport:$version

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
archive() { # archive FILE FOLDER WHAT...
    local file=$1 folder=$2
    shift 2
    tar --format=ustar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
        -C "$folder" -cf "$file" "$@"
}
hash() { sha256sum <"$1" | cut -d' ' -f1; }
blobs=$work/image/blobs/sha256
mkdir -p "$work/root/licenses" "$blobs"
blob() { # blob FILE: moves it to where its hash says; prints type-less descriptor fields
    local digest
    digest=$(hash "$1")
    printf '"digest":"sha256:%s","size":%s' "$digest" "$(stat -c %s "$1")"
    mv "$1" "$blobs/$digest"
}

install -m 0755 "$executable" "$work/root/autoport"
install -m 0755 "$agent" "$work/root/autoport-agent"
install -m 0644 LICENSE NOTICE "$work/root/licenses/"
archive "$work/layer.tar" "$work/root" autoport autoport-agent licenses
diff=$(hash "$work/layer.tar")
gzip -9n "$work/layer.tar"
layer=$(blob "$work/layer.tar.gz")

labels="\"org.opencontainers.image.title\":\"autoport\",\"org.opencontainers.image.version\":\"$version\",\"org.opencontainers.image.licenses\":\"GPL-3.0-or-later\""
printf '{"created":"%s","architecture":"%s","os":"linux","config":{"Entrypoint":["/autoport"],"Labels":{%s}},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]},"history":[{"created":"%s","created_by":"scripts/image.sh"}]}' \
    "$created" "$architecture" "$labels" "$diff" "$created" >"$work/config.json"
config=$(blob "$work/config.json")

type=application/vnd.oci.image
printf '{"schemaVersion":2,"mediaType":"%s.manifest.v1+json","config":{"mediaType":"%s.config.v1+json",%s},"layers":[{"mediaType":"%s.layer.v1.tar+gzip",%s}]}' \
    "$type" "$type" "$config" "$type" "$layer" >"$work/manifest.json"
manifest=$(blob "$work/manifest.json")
printf '{"schemaVersion":2,"mediaType":"%s.index.v1+json","manifests":[{"mediaType":"%s.manifest.v1+json",%s,"platform":{"architecture":"%s","os":"linux"},"annotations":{"io.containerd.image.name":"%s","org.opencontainers.image.ref.name":"%s"}}]}' \
    "$type" "$type" "$manifest" "$architecture" "$name" "$name" >"$work/image/index.json"
printf '{"imageLayoutVersion":"1.0.0"}' >"$work/image/oci-layout"
# For engines that do not read the OCI layout.
path() { sed 's/.*sha256:\([0-9a-f]*\).*/blobs\/sha256\/\1/' <<<"$1"; }
printf '[{"Config":"%s","RepoTags":["%s"],"Layers":["%s"]}]' "$(path "$config")" "$name" "$(path "$layer")" \
    >"$work/image/manifest.json"

mkdir -p "$out"
tar=$out/autoport_${version}_$architecture.oci.tar
archive "$tar" "$work/image" blobs index.json manifest.json oci-layout
echo "$tar: $(stat -c %s "$tar") bytes, $name"
