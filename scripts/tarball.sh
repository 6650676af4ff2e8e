#!/usr/bin/env bash
# Packs dist/autoport and what scripts/build.sh puts beside it: dist/autoport-VERSION-TRIPLE.tar.gz, with
# executables, man pages, completions, units and licences, and the list of what is linked into the executables,
# dist/autoport-VERSION-TRIPLE.cdx.json. The same sources give the same bytes.
#
#   scripts/tarball.sh [EXECUTABLE [FOLDER]]
set -euo pipefail
export LC_ALL=C
umask 022
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/artifact.sh
executable=${1:-dist/autoport}
out=${2:-dist}
built=$(dirname "$executable")
for needed in "$executable" "$built"/{autoport-agent,man,completions,licenses,autoport.cdx.json}; do
    [ -e "$needed" ] || {
        echo "scripts/tarball.sh: $needed is not there: run make build" >&2
        exit 1
    }
done

name=autoport-$version-$(triple "$executable")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
folder=$work/$name
mkdir -p "$folder"/{man,completions,systemd,licenses} "$out"
install -m 0755 "$executable" "$folder/autoport"
install -m 0755 "$built/autoport-agent" "$folder/autoport-agent"
for part in man completions licenses; do install -m 0644 "$built/$part"/* "$folder/$part/"; done
install -m 0644 deploy/autoport-*.{service,timer} "$folder/systemd/"
install -m 0644 LICENSE NOTICE CHANGELOG.md "$folder/"
archive "$work/$name.tar" "$work" "$name"
gzip -9n "$work/$name.tar"
mv "$work/$name.tar.gz" "$out/"
install -m 0644 "$built/autoport.cdx.json" "$out/$name.cdx.json"
echo "$out/$name.tar.gz: $(stat -c %s "$out/$name.tar.gz") bytes"
