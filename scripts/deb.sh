#!/usr/bin/env bash
# Makes a Debian package of dist/autoport, and of what scripts/build.sh puts beside it:
# dist/autoport_VERSION_ARCHITECTURE.deb.
# Needs dpkg-deb and no root. The same sources give the same bytes. DEBFULLNAME and DEBEMAIL, as in
# debchange(1), say who maintains it.
#
#   scripts/deb.sh [EXECUTABLE [FOLDER]]
set -euo pipefail
export LC_ALL=C
umask 022
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/artifact.sh
executable=${1:-dist/autoport}
out=${2:-dist}
built=$(dirname "$executable")
agent=$built/autoport-agent
for needed in "$executable" "$agent" "$built"/man/autoport{,-agent}.1 "$built"/completions/autoport{,-agent}.bash "$built/licenses/THIRD-PARTY"; do
    [ -e "$needed" ] || {
        echo "scripts/deb.sh: $needed is not there: run make build" >&2
        exit 1
    }
done

architecture=$(architecture "$executable")
maintainer="${DEBFULLNAME:-The autoport authors} <${DEBEMAIL:-autoport@example.org}>"

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

for page in "$built"/man/*.[1-8]; do
    pack "$page" "usr/share/man/man${page##*.}/${page##*/}.gz"
done
for name in autoport autoport-agent; do
    put 0644 "$built/completions/$name.bash" "usr/share/bash-completion/completions/$name"
    put 0644 "$built/completions/_$name" "usr/share/zsh/vendor-completions/_$name"
    put 0644 "$built/completions/$name.fish" "usr/share/fish/vendor_completions.d/$name.fish"
done

doc=usr/share/doc/autoport
put 0644 deploy/debian/copyright "$doc/copyright"
put 0644 NOTICE "$doc/NOTICE"
pack "$built/licenses/THIRD-PARTY" "$doc/THIRD-PARTY.gz"
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
    -e "s,@HOMEPAGE@,$(field repository)," \
    -e "s/@SIZE@/$(du -k --apparent-size -s "$root" | cut -f1)/" deploy/debian/control >"$root/DEBIAN/control"
(cd "$root" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | sort -z | xargs -0 md5sum) >"$root.md5sums"
install -m 0644 "$root.md5sums" "$root/DEBIAN/md5sums"
rm "$root.md5sums"
find "$root" -depth -newermt "@$SOURCE_DATE_EPOCH" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +

mkdir -p "$out"
deb=$out/autoport_${version}_$architecture.deb
dpkg-deb --root-owner-group -Zxz --build "$root" "$deb" >/dev/null
echo "$deb: $(stat -c %s "$deb") bytes"
