#!/usr/bin/env bash
# Makes an OCI image from scratch, of dist/autoport, and of autoport-agent and licenses/ beside it:
# dist/autoport_VERSION_ARCHITECTURE.oci.tar, which `podman load`, `docker load`, `skopeo copy oci-archive:`
# and `ctr images import` take. Of several executables for several processors it makes one image with an
# index, FOLDER/autoport_VERSION.oci.tar. No engine and no root are needed. The same executables give the same bytes.
#
#   scripts/image.sh [FOLDER [EXECUTABLE...]]
set -euo pipefail
shopt -s inherit_errexit
export LC_ALL=C
umask 022
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/artifact.sh
out=${1:-dist}
shift || true
[ $# -gt 0 ] || set -- dist/autoport
for executable; do
    for needed in "$executable" "$(dirname "$executable")"/{autoport-agent,licenses}; do
        [ -e "$needed" ] || {
            echo "scripts/image.sh: $needed is not there: run make build" >&2
            exit 1
        }
    done
done

created=$(date -ud "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
name=localhost/autoport:$version
type=application/vnd.oci.image

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
hash() { sha256sum <"$1" | cut -d' ' -f1; }
blobs=$work/image/blobs/sha256
mkdir -p "$blobs"
blob() { # blob FILE: moves it to where its hash says; prints type-less descriptor fields
    local digest
    digest=$(hash "$1")
    printf '"digest":"sha256:%s","size":%s' "$digest" "$(stat -c %s "$1")"
    mv "$1" "$blobs/$digest"
}

# one EXECUTABLE: its image; prints the descriptor of its manifest, and leaves what `docker load` reads.
one() {
    local architecture root=$work/root diff layer config manifest labels label
    architecture=$(architecture "$1")
    rm -rf "$root"
    mkdir -p "$root/licenses"
    install -m 0755 "$1" "$root/autoport"
    install -m 0755 "$(dirname "$1")/autoport-agent" "$root/autoport-agent"
    install -m 0644 "$(dirname "$1")"/licenses/* "$root/licenses/"
    archive "$work/layer.tar" "$root" autoport autoport-agent licenses
    diff=$(hash "$work/layer.tar")
    gzip -9n "$work/layer.tar"
    layer=$(blob "$work/layer.tar.gz")

    labels=
    for label in title=autoport "version=$version" "source=$(field repository)" licenses=GPL-3.0-or-later; do
        labels+=",\"org.opencontainers.image.${label%%=*}\":\"${label#*=}\""
    done
    printf '{"created":"%s","architecture":"%s","os":"linux","config":{"Entrypoint":["/autoport"],"Labels":{%s}},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]},"history":[{"created":"%s","created_by":"scripts/image.sh"}]}' \
        "$created" "$architecture" "${labels#,}" "$diff" "$created" >"$work/config.json"
    config=$(blob "$work/config.json")
    printf '{"schemaVersion":2,"mediaType":"%s.manifest.v1+json","config":{"mediaType":"%s.config.v1+json",%s},"layers":[{"mediaType":"%s.layer.v1.tar+gzip",%s}]}' \
        "$type" "$type" "$config" "$type" "$layer" >"$work/manifest.json"
    manifest=$(blob "$work/manifest.json")
    # For engines that do not read the OCI layout, and know one processor only.
    [ -e "$work/image/manifest.json" ] ||
        printf '[{"Config":"%s","RepoTags":["%s"],"Layers":["%s"]}]' "$(path "$config")" "$name" "$(path "$layer")" \
            >"$work/image/manifest.json"
    printf '{"mediaType":"%s.manifest.v1+json",%s,"platform":{"architecture":"%s","os":"linux"}}' \
        "$type" "$manifest" "$architecture"
}
path() { sed 's/.*sha256:\([0-9a-f]*\).*/blobs\/sha256\/\1/' <<<"$1"; }
# index DESCRIPTORS
index() { printf '{"schemaVersion":2,"mediaType":"%s.index.v1+json","manifests":[%s]}' "$type" "$1"; }

images=
for executable; do images+=,$(one "$executable"); done
images=${images#,}
tar=$out/autoport_${version}_$(architecture "$1").oci.tar
if [ $# -gt 1 ]; then
    index "$images" >"$work/index.json"
    images=$(printf '{"mediaType":"%s.index.v1+json",%s}' "$type" "$(blob "$work/index.json")")
    tar=$out/autoport_$version.oci.tar
fi
named=$(printf '"annotations":{"io.containerd.image.name":"%s","org.opencontainers.image.ref.name":"%s"}' "$name" "$name")
index "${images%\}},$named}" >"$work/image/index.json"
printf '{"imageLayoutVersion":"1.0.0"}' >"$work/image/oci-layout"

mkdir -p "$out"
archive "$tar" "$work/image" blobs index.json manifest.json oci-layout
echo "$tar: $(stat -c %s "$tar") bytes, $name"
