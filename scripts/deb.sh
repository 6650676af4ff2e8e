#!/usr/bin/env bash
# Makes a Debian package of dist/autoport, and of dist/autoport-agent beside it:
# dist/autoport_VERSION_ARCHITECTURE.deb.
# Needs dpkg-deb and no root. The same sources give the same bytes. DEBFULLNAME and DEBEMAIL, as in
# debchange(1), say who maintains it.
#
#   scripts/deb.sh [EXECUTABLE [FOLDER]]
set -euo pipefail
export LC_ALL=C
umask 022
cd "$(dirname "${BASH_SOURCE[0]}")/.."
executable=${1:-dist/autoport}
out=${2:-dist}
agent=$(dirname "$executable")/autoport-agent
for needed in "$executable" "$agent" dist/man/autoport{,-agent}.1 dist/completions/autoport{,-agent}.bash; do
    [ -e "$needed" ] || {
        echo "scripts/deb.sh: $needed is not there: run make build" >&2
        exit 1
    }
done

version=$("$executable" --version)
version=${version#autoport }
architecture=$(dpkg --print-architecture)
maintainer="${DEBFULLNAME:-The autoport authors} <${DEBEMAIL:-autoport@example.org}>"
# When the last commit was made; where there is none, the changelog says.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 0755 "$root"
put() { install -D -m "$1" "$2" "$root/$3"; }
pack() { gzip -9nc "$1" | install -D -m 0644 /dev/stdin "$root/$2"; }

put 0755 "$executable" usr/lib/cni/autoport
mkdir -p "$root/usr/sbin"
ln -s ../lib/cni/autoport "$root/usr/sbin/autoport"
put 0755 "$agent" usr/sbin/autoport-agent
# Debian's folders of plugins and of the administrator's programs.
for unit in deploy/autoport-*.{service,timer}; do
    sed -e 's,/opt/cni/bin/,/usr/lib/cni/,g' -e 's,/usr/local/sbin/,/usr/sbin/,g' "$unit" |
        install -D -m 0644 /dev/stdin "$root/lib/systemd/system/${unit##*/}"
done

for page in dist/man/*.[1-8]; do
    pack "$page" "usr/share/man/man${page##*.}/${page##*/}.gz"
done
for name in autoport autoport-agent; do
    put 0644 "dist/completions/$name.bash" "usr/share/bash-completion/completions/$name"
    put 0644 "dist/completions/_$name" "usr/share/zsh/vendor-completions/_$name"
    put 0644 "dist/completions/$name.fish" "usr/share/fish/vendor_completions.d/$name.fish"
done

doc=usr/share/doc/autoport
put 0644 deploy/debian/copyright "$doc/copyright"
put 0644 NOTICE "$doc/NOTICE"
pack CHANGELOG.md "$doc/NEWS.gz"
printf 'autoport (%s) unstable; urgency=medium\n\n  * See NEWS.gz.\n\n -- %s  %s\n' \
    "$version" "$maintainer" "$(date -uRd "@$SOURCE_DATE_EPOCH")" >"$root/changelog"
pack "$root/changelog" "$doc/changelog.gz"
rm "$root/changelog"
for example in conflist-examples/*; do
    put 0644 "$example" "$doc/examples/${example##*/}"
done
put 0644 deploy/debian/overrides usr/share/lintian/overrides/autoport

put 0755 deploy/debian/prerm DEBIAN/prerm
sed -e "s/@VERSION@/$version/" -e "s/@MAINTAINER@/$maintainer/" -e "s/@ARCHITECTURE@/$architecture/" \
    -e "s/@SIZE@/$(du -k --apparent-size -s "$root" | cut -f1)/" deploy/debian/control >"$root/DEBIAN/control"
(cd "$root" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | sort -z | xargs -0 md5sum) >"$root.md5sums"
install -m 0644 "$root.md5sums" "$root/DEBIAN/md5sums"
rm "$root.md5sums"
find "$root" -depth -newermt "@$SOURCE_DATE_EPOCH" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +

mkdir -p "$out"
deb=$out/autoport_${version}_$architecture.deb
dpkg-deb --root-owner-group -Zxz --build "$root" "$deb" >/dev/null
echo "$deb: $(stat -c %s "$deb") bytes"
