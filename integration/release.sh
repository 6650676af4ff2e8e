#!/usr/bin/env bash
# Whether a release depends on the commit alone: clones HEAD into two folders, makes the release in each, with
# other settings of the environment, and compares the bytes. Then it looks at what it consists of.
#
#   integration/release.sh [TRIPLE...]
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools=${AUTOPORT_TOOLS:-$PWD/target/tools}
repo=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

die() {
    printf 'release: error: %s\n' "$*" >&2
    exit 1
}

# make FOLDER UMASK ZONE [TRIPLE...] leaves the release in FOLDER.
make() {
    local folder=$1 mask=$2 zone=$3 began=$SECONDS
    shift 3
    (
        umask "$mask"
        cd "$folder/clone"
        env -u CARGO_TARGET_DIR -u SOURCE_DATE_EPOCH TZ="$zone" AUTOPORT_TOOLS="$tools" scripts/release.sh "$@" >"$folder/log" 2>&1
    ) || {
        tail -n 20 "$folder/log" >&2
        die "scripts/release.sh failed in $folder/clone"
    }
    mkdir "$folder/release"
    while read -r _ name; do mv "$folder/clone/dist/$name" "$folder/release/"; done <"$folder/clone/dist/SHA256SUMS"
    mv "$folder/clone/dist/SHA256SUMS" "$folder/release/"
    rm -rf "$folder/clone"
    echo "release: built in $folder in $((SECONDS - began)) s"
}

# Both now: HEAD may be another commit when the first is built.
for folder in a a-folder-with-a-longer-name/b; do
    mkdir -p "$work/$folder"
    git -c safe.directory='*' clone --quiet "$repo" "$work/$folder/clone"
done
make "$work/a" 022 UTC "$@"
make "$work/a-folder-with-a-longer-name/b" 077 Asia/Tokyo "$@"
a=$work/a/release
b="$work/a-folder-with-a-longer-name/b/release"
cat "$a/SHA256SUMS"
diff "$a/SHA256SUMS" "$b/SHA256SUMS" || die "the two are not the same bytes"
for folder in "$a" "$b"; do (cd "$folder" && sha256sum --quiet --check SHA256SUMS); done
echo "release: the same bytes in both folders"
for file in "$a"/*; do printf 'release: %10d bytes  %s\n' "$(stat -c %s "$file")" "${file##*/}"; done

for archive in "$a"/*.tar.gz; do
    name=${archive##*/} name=${name%.tar.gz}
    tar -xzf "$archive" -C "$work"
    for path in autoport autoport-agent LICENSE NOTICE licenses/THIRD-PARTY licenses/GPL-3 man/autoport.1 man/autoport-agent.1 \
        completions/autoport.bash systemd/autoport-repair.service; do
        [ -s "$work/$name/$path" ] || die "$name lacks $path"
    done
    ! grep -aqF -e "$work" -e "$HOME/" "$work/$name"/autoport{,-agent} || die "$name has a path of this machine in it"
done
# With several triples it is an index of as many images.
if [ $# -gt 1 ]; then
    found=$(skopeo inspect --raw "oci-archive:$(echo "$a"/*.oci.tar)" | grep -o '"architecture":"[^"]*"' | sort -u | wc -l)
    [ "$found" -eq $# ] || die "the index has $found architectures, not $#"
fi
echo "release: all well"
