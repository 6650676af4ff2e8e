#!/usr/bin/env bash
# Runs the demo and puts what it prints into docs/demo.md, between the markers.
# tests/documents/ says when that is no longer what the demo has.
set -euo pipefail
export LC_ALL=C.UTF-8 NO_COLOR=1
cd "$(dirname "${BASH_SOURCE[0]}")/.."

begin='<!-- demo -->'
end='<!-- /demo -->'
for marker in "$begin" "$end"; do
    [ "$(grep -cxF "$marker" docs/demo.md)" -eq 1 ] || {
        echo "$0: docs/demo.md has to have one line $marker" >&2
        exit 1
    }
done

trap 'rm -f docs/demo.md.demo docs/demo.md.new' EXIT

# What differs at every run is no news: hardware addresses, the instance, and the machine's kernel.
integration/demo.sh |
    sed -E -e 's/[0-9a-f]{2}(:[0-9a-f]{2}){5}/02:00:00:00:00:01/g' \
        -e 's/(Linux [0-9]+\.[0-9]+)[^;]*/\1/' -e 's/(instance )[0-9a-f]{32}/\16adb11791303ed583415879c4d16cc30/' -e 's/[[:space:]]+$//' >docs/demo.md.demo

{
    sed "/^$begin\$/q" docs/demo.md
    echo '```'
    cat docs/demo.md.demo
    echo '```'
    sed -n "/^${end//\//\\/}\$/,\$p" docs/demo.md
} >docs/demo.md.new
mv docs/demo.md.new docs/demo.md
echo "docs/demo.md: $(wc -l <docs/demo.md.demo) lines of the demo"
