#!/usr/bin/env bash
# Builds what is handed out (archive, Debian package, OCI image, manifests, units) and inspects each with the
# programs that will have to take it. Uses the executables of `make build`, or the one that is named and
# autoport-agent beside it.
#
#   integration/packages.sh [EXECUTABLE]
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/.."
TOOLS=${TOOLS:-${AUTOPORT_TOOLS:-target/tools}}
executable=${1:-dist/autoport}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

step() { printf 'packages: %s\n' "$*"; }
die() {
    printf 'packages: error: %s\n' "$*" >&2
    exit 1
}
# equal WHAT FOUND EXPECTED
equal() { [ "$2" = "$3" ] || die "$1: found $2, expected $3"; }
# holds TEXT PATTERN
holds() { [[ $1 == *"$2"* ]] || die "\"$2\" is not in: $1"; }
one() { # the one file that matches
    if [ $# -ne 1 ] || [ ! -e "$1" ]; then die "not exactly one file: $*"; fi
    echo "$1"
}

agent=$(dirname "$executable")/autoport-agent
for needed in "$executable" "$agent"; do
    [ -x "$needed" ] || die "$needed is not there: run make build"
done
version=$("$executable" --version)
[[ $version =~ ^autoport\ [0-9]+\.[0-9]+\.[0-9]+ ]] || die "it says $version"

step "no path of this machine in the executables"
for file in "$executable" "$agent"; do
    if grep -aqF -e "$PWD/" -e "${CARGO_HOME:-$HOME/.cargo}/" "$file"; then die "$file has a path of this machine in it"; fi
done

step "the archive"
for folder in a b; do scripts/tarball.sh "$executable" "$work/$folder" >/dev/null; done
for file in "$work"/a/*; do cmp "$file" "$work/b/${file##*/}" || die "${file##*/} is another each time"; done
archive=$(one "$work"/a/autoport-*.tar.gz)
equal "whose the files are" "$(tar --numeric-owner -tvzf "$archive" | awk '{ print $2 }' | sort -u)" 0/0
mkdir "$work/archive"
tar -xzf "$archive" --strip-components=1 -C "$work/archive"
equal "what the archive has" "$("$work/archive/autoport" --version)" "$version"
equal "its folders" "$(cd "$work/archive" && echo ./*)" \
    "./CHANGELOG.md ./LICENSE ./NOTICE ./autoport ./autoport-agent ./completions ./licenses ./man ./systemd"
list=$(one "$work"/a/*.cdx.json)
# Each crate is in the list and, unless it is this project's, below a licence.
"$TOOLS/kubernetes-validate/bin/python" - "$list" "$work/archive/licenses/THIRD-PARTY" <<'PYTHON'
import json, sys

with open(sys.argv[1]) as file:
    bill = json.load(file)
with open(sys.argv[2]) as file:
    licences = file.read()
assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5"), bill
names = set()
for part in bill["components"]:
    assert part["version"] and part["licenses"][0]["expression"], part
    names.add(part["bom-ref"])
    if "hashes" in part:
        line = f'\n{part["name"]} {part["version"]} ({part["licenses"][0]["expression"]})\n'
        assert line in licences, line
assert len(names) == len(bill["components"]) > 100, len(names)
assert {name.split("@")[0] for name in names} >= {"glibc", "libgcc", "libnftnl", "rust-std", "pkg:cargo/nftnl", "pkg:cargo/kube"}
for part in bill["dependencies"]:
    assert names >= {part["ref"], *part["dependsOn"]}, part
PYTHON

step "the Debian package"
for folder in a b; do scripts/deb.sh "$executable" "$work/$folder" >/dev/null; done
deb=$(one "$work"/a/*.deb)
cmp "$deb" "$(one "$work"/b/*.deb)" || die "the package is another each time"
lintian --fail-on error,warning "$deb"
contents=$(dpkg-deb --contents "$deb")
for path in ./usr/lib/cni/autoport './usr/sbin/autoport -> ../lib/cni/autoport' \
    ./usr/sbin/autoport-agent ./usr/share/doc/autoport/THIRD-PARTY.gz ./lib/systemd/system/autoport-{repair.service,gc.service,gc.timer} \
    ./lib/systemd/system/autoport-agent{,-standby}.service; do
    holds "$contents" "$path"
done
[[ $contents != *./opt/* && $contents != *./etc/* ]] || die "what belongs to the administrator: $contents"
for path in man/man1/autoport{,-install,-agent}.1.gz bash-completion/completions/autoport{,-agent} \
    zsh/vendor-completions/_autoport{,-agent} fish/vendor_completions.d/autoport{,-agent}.fish; do
    holds "$contents" "./usr/share/$path"
done
dpkg-deb -x "$deb" "$work/unpacked"
equal "what the package has" "$("$work/unpacked/usr/sbin/autoport" --version)" "$version"
equal "its agent" "$("$work/unpacked/usr/sbin/autoport-agent" --version)" "autoport-agent ${version#autoport }"
while read -r program; do
    [ -x "$work/unpacked$program" ] || die "a unit of the package runs $program, which it does not contain"
done < <(sed -n 's,^Exec[A-Za-z]*=[-@:+!]*\([^ ]*\).*,\1,p' "$work"/unpacked/lib/systemd/system/*)
dpkg-deb -e "$deb" "$work/control"
(cd "$work/unpacked" && md5sum --quiet -c "$work/control/md5sums")

step "its completions, in bash, zsh and fish"
(
    PATH=$work/unpacked/usr/sbin:$PATH
    share=$work/unpacked/usr/share
    for shell in bash zsh fish; do
        for program in autoport autoport-agent; do
            case $shell in
            bash) file=bash-completion/completions/$program ;;
            zsh) file=zsh/vendor-completions/_$program ;;
            fish) file=fish/vendor_completions.d/$program.fish ;;
            esac
            "$shell" -n "$share/$file" || die "$file is no script of $shell"
        done
    done
    # shellcheck disable=SC2016 # the variables are those of the shells
    completed=$(bash --norc -c 'source "$1"; COMP_WORDS=(autoport unin) COMP_CWORD=1; _autoport; echo "${COMPREPLY[@]}"' \
        bash "$share/bash-completion/completions/autoport")
    equal "what bash completes" "$completed" uninstall
    completed=$(HOME=$work fish --no-config -c "source $share/fish/vendor_completions.d/autoport.fish; complete -C 'autoport unin'")
    equal "what fish completes" "$completed" uninstall
    # The first key of a session loads the file.
    ZDOTDIR=$work timeout 60 zsh -f -s -- "$share/zsh/vendor-completions" <<'EOS' || die "zsh completes nothing"
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "fpath=($1 \$fpath); autoload -Uz compinit; compinit -u -D; echo re''ady"
zpty -r shell seen '*ready*'
zpty -w shell $'autoport unin\t--help | grep Usage'
zpty -r shell seen '*Usage: autoport uninstall*'
EOS
)

step "its removal, while a network names it"
mkdir -p "$work/etc"
sed "s,/etc/cni/net.d,$work/etc,g" "$work/control/prerm" >"$work/prerm"
echo '{"plugins":[{"type":"autoport"}]}' >"$work/etc/10-a.conflist"
if text=$(sh "$work/prerm" remove 2>&1); then die "it went without a word"; fi
holds "$text" "autoport uninstall"
sh "$work/prerm" upgrade 1.0
rm "$work/etc/10-a.conflist"
sh "$work/prerm" remove

step "the image"
for folder in a b; do scripts/image.sh "$work/$folder" "$executable" >/dev/null; done
image=$(one "$work"/a/*.oci.tar)
cmp "$image" "$(one "$work"/b/*.oci.tar)" || die "the image is another each time"
inspected=$(skopeo inspect --config "oci-archive:$image")
holds "$inspected" '"/autoport"'
holds "$inspected" '"linux"'
# What is copied is checked against its hashes.
skopeo copy --quiet "oci-archive:$image" "dir:$work/layers"
skopeo copy --quiet "docker-archive:$image" "dir:$work/docker"
mkdir "$work/rootfs"
for blob in "$work"/layers/*; do
    if gzip -t "$blob" 2>/dev/null; then tar -xzf "$blob" -C "$work/rootfs"; fi
done
equal "what the image has" "$(cd "$work/rootfs" && find . -type f | sort | xargs)" \
    "./autoport ./autoport-agent ./licenses/GPL-3 ./licenses/LGPL-2.1 ./licenses/LICENSE ./licenses/NOTICE ./licenses/THIRD-PARTY"
# Nothing else is there: no loader, no library, no shell, no /proc.
unshare=(unshare --root="$work/rootfs")
[ "$EUID" -eq 0 ] || unshare=(unshare --user --map-root-user --root="$work/rootfs")
equal "what it says in the image" "$("${unshare[@]}" /autoport --version)" "$version"
equal "what the agent says" "$("${unshare[@]}" /autoport-agent --version)" "autoport-agent ${version#autoport }"

step "an image for two processors"
# For the other one it has the same executables, whose header says that they are for it.
mkdir "$work/other"
cp -r "$(dirname "$executable")/licenses" "$executable" "$agent" "$work/other/"
case $(uname -m) in x86_64) other=arm64 code='\xb7' ;; *) other=amd64 code='\x3e' ;; esac
for name in autoport autoport-agent; do
    printf '%b' "$code" | dd of="$work/other/$name" bs=1 seek=18 conv=notrunc status=none
done
scripts/image.sh "$work/index" "$executable" "$work/other/autoport" >/dev/null
image=oci-archive:$(one "$work"/index/*.oci.tar)
equal "the architectures" "$(skopeo inspect --raw "$image" | grep -o '"architecture":"[^"]*"' | sort | cut -d '"' -f 4 | xargs)" "amd64 arm64"
for architecture in amd64 arm64; do
    holds "$(skopeo --override-arch "$architecture" inspect --config "$image")" "\"architecture\": \"$architecture\""
done
skopeo --override-arch "$other" copy --quiet "$image" "dir:$work/layers-other"
mkdir "$work/rootfs-other"
for blob in "$work"/layers-other/*; do
    if gzip -t "$blob" 2>/dev/null; then tar -xzf "$blob" -C "$work/rootfs-other"; fi
done
cmp "$work/other/autoport" "$work/rootfs-other/autoport" || die "the image for $other has another executable"

step "the systemd units"
units=$work/units
mkdir "$units"
for unit in deploy/*.service deploy/*.timer; do
    # Of this machine only what is there can be verified: an executable, and no manual page.
    sed -e "s,/opt/cni/bin/autoport,$(realpath "$executable"),g" -e "s,/usr/local/sbin/autoport-agent,$(realpath "$agent"),g" \
        -e '/^Documentation=/d' "$unit" >"$units/${unit##*/}"
done
text=$(systemd-analyze verify "$units"/* 2>&1) || die "$text"
equal "what systemd-analyze says" "$text" ""
# systemd.exec(5): what gives a service a mount namespace, in which `gc` could judge nobody.
if grep -E '^(Protect(System|Home|Kernel|ControlGroups|Proc|Clock)|Private(Tmp|Devices|Mounts)|(ReadWrite|ReadOnly|Inaccessible|Exec|NoExec)Paths|(Temporary)?FileSystem|Bind|Root|MountFlags|MountAPIVFS|DynamicUser|(Runtime|State|Cache|Logs)Directory)' \
    deploy/autoport-{gc,agent,agent-standby}.service; then
    die "a unit would not see what the plugin sees"
fi

step "the manifests"
kustomized=$work/manifest.yaml
# manifests FOLDER KUBERNETES...: renders the folder, and judges it by these versions' schemas
manifests() {
    local folder=$1 kubernetes text
    "$TOOLS/kubectl/usr/bin/kubectl" kustomize "$folder" >"$kustomized"
    holds "$(<"$kustomized")" "image: localhost/autoport:${version#autoport }"
    for kubernetes in "${@:2}"; do
        text=$("$TOOLS/kubernetes-validate/bin/kubernetes-validate" --strict --quiet --kubernetes-version "$kubernetes" "$kustomized" 2>&1) ||
            die "$folder, Kubernetes $kubernetes: $text"
    done
}
manifests deploy/kubernetes/uninstall 1.28 1.32 1.37
# Components are for overlays, which are in folders of their own.
overlay=$(mktemp -d overlay.XXXXXX -p "$work")
cp -r deploy/kubernetes "$overlay/deploy"
printf '%s: ["deploy%s"]\n' resources "" components /startup-taint >"$overlay/kustomization.yaml"
manifests "$overlay" 1.32 1.37
equal "which containers remove the taint" "$(grep -c -- '- --startup-taint$' "$kustomized")" 1
printf '%s: ["deploy%s"]\n' resources "" components /discovery >"$overlay/kustomization.yaml"
manifests "$overlay" 1.28 1.32 1.37
equal "which containers make EndpointSlices" "$(grep -c -- '- --discovery$' "$kustomized")" 2
printf '%s: ["deploy%s"]\n' resources "" components /bind-hook >"$overlay/kustomization.yaml"
manifests "$overlay" 1.28 1.32 1.37
equal "which containers load programs of eBPF" "$(grep -c -- '- BPF$' "$kustomized")" 2
equal "which containers write to the cgroups" \
    "$(grep -A 2 -- 'mountPath: /sys/fs/cgroup' "$kustomized" | grep -c 'readOnly: false')" 2
# The others bring objects of their own, which need no change of the base. The operator of Prometheus has types of its own.
for component in agent-policy admission admission/requests monitoring; do
    printf 'resources: ["deploy"]\ncomponents: ["deploy/%s"]\n' "$component" >"$overlay/kustomization.yaml"
    case $component in
    monitoring)
        "$TOOLS/kubectl/usr/bin/kubectl" kustomize "$overlay" >"$kustomized"
        for kind in PodMonitor PrometheusRule; do holds "$(<"$kustomized")" "kind: $kind"; done
        holds "$(<"$kustomized")" "name: autoport-dashboard"
        ;;
    */requests) manifests "$overlay" 1.36 1.37 ;;
    *) manifests "$overlay" 1.30 1.32 1.37 ;;
    esac
done
printf 'resources: ["deploy"]\ncomponents: [%s]\n' \
    "deploy/agent-policy, deploy/admission, deploy/admission/requests, deploy/discovery, deploy/startup-taint, deploy/bind-hook, deploy/platforms/selinux" \
    >"$overlay/kustomization.yaml"
manifests "$overlay" 1.36 1.37
for folder in deploy/kubernetes/platforms/*/; do
    component=$(basename "$folder")
    for base in "" /uninstall; do
        printf 'resources: ["deploy%s"]\ncomponents: ["deploy/platforms/%s"]\n' "$base" "$component" >"$overlay/kustomization.yaml"
        manifests "$overlay" 1.37
        rendered=$(<"$kustomized")
        if [ "$component" = selinux ]; then
            [ -n "$base" ] || holds "$rendered" "type: spc_t"
            continue
        fi
        plugins=$(sed -n 's/.*"--bin-dir=\([^"]*\)".*/\1/p' "$folder/kustomization.yaml")
        networks=$(sed -n 's/.*"--conf-dir=\([^"]*\)".*/\1/p' "$folder/kustomization.yaml")
        if [ -n "$base" ]; then
            for argument in uninstall --host --stay "--bin-dir=$plugins" "--conf-dir=$networks"; do
                grep -q -- "^ *- $argument\$" "$kustomized" || die "$component: $argument is no argument of uninstall"
            done
        else
            # In the container the directories are always where they usually are.
            holds "$rendered" "- hostPath:
          path: $plugins
          type: Directory
        name: plugins"
            holds "$rendered" "- hostPath:
          path: $networks
          type: Directory
        name: networks"
        fi
    done
done
manifests deploy/kubernetes 1.28 1.32 1.37
equal "which containers load programs of eBPF by default" "$(grep -c -- '- BPF$' "$kustomized" || true)" 0
equal "what the agents may do" "$(sed -n '/^kind: ClusterRole$/,/^---$/ { /^rules:/,/^---$/p }' "$kustomized" | xargs)" \
    "rules: - apiGroups: -  resources: - pods verbs: - get - list - watch \
- apiGroups: -  resources: - pods/status verbs: - patch - apiGroups: - events.k8s.io resources: - events verbs: - create ---"
equal "how many containers have their token" \
    "$(grep -c 'mountPath: /var/run/secrets/kubernetes.io/serviceaccount' "$kustomized")" 2
step "the chart"
helm=$TOOLS/helm/helm
chart=deploy/helm/autoport
# It finds that the directory of the manifests is a link.
quiet() { "$@" 2>"$work/said" || die "$* says: $(<"$work/said")"; }
holds "$(quiet "$helm" lint --strict "$chart")" "0 chart(s) failed"
equal "the version of the chart" "$(sed -n 's/^\(version\|appVersion\): //p' "$chart/Chart.yaml" | xargs)" \
    "${version#autoport } ${version#autoport }"
# same BASE COMPONENTS VALUES: the chart renders with these values what kubectl does with these components
same() {
    local base=$1 components=$2 values=$3
    printf 'resources: ["deploy%s"]\ncomponents: [%s]\n' "$base" "$components" >"$overlay/kustomization.yaml"
    "$TOOLS/kubectl/usr/bin/kubectl" kustomize "$overlay" >"$kustomized"
    quiet "$helm" template autoport "$chart" --namespace kube-system --set "$values" >"$work/chart.yaml"
    "$TOOLS/kubernetes-validate/bin/python" - "$kustomized" "$work/chart.yaml" <<'PYTHON' || die "the chart with $values has other objects"
import sys, yaml

def objects(path):
    with open(path) as file:
        all = [one for one in yaml.safe_load_all(file) if one]
    for one in all:
        # kubectl puts those that a component changes first.
        if one["kind"] == "DaemonSet":
            one["spec"]["template"]["spec"].get("volumes", []).sort(key=lambda volume: volume["name"])
    return {(one["kind"], one["metadata"]["name"]): one for one in all}, len(all)

(expected, count), (found, number) = map(objects, sys.argv[1:])
assert expected.keys() == found.keys() and count == number == len(found), (expected.keys(), found.keys())
for name, one in expected.items():
    assert one == found[name], (name, one, found[name])
PYTHON
}
same "" "" configuration.agent=required
components=() values=
for pair in agent-policy=agentPolicy admission=admission admission/requests=requests discovery=discovery startup-taint=startupTaint bind-hook=bindHook \
    monitoring=monitoring platforms/selinux=selinux; do
    same "" "\"deploy/${pair%=*}\"" "${pair#*=}=true"
    components+=("\"deploy/${pair%=*}\"")
    values+=${pair#*=}=true,
done
same "" "$(IFS=,; echo "${components[*]}"),\"deploy/platforms/k3s\"" "${values}platform=k3s"
for platform in gke k3s microk8s; do
    same "" "\"deploy/platforms/$platform\"" "platform=$platform"
    same /uninstall "\"deploy/platforms/$platform\"" "platform=$platform,uninstall=true"
done
same /uninstall "" uninstall=true
for wrong in platform=aks bindhook=true configuration.portrange=1-2 configuration.allocation=first image.repository=; do
    if "$helm" template autoport "$chart" --set "$wrong" >/dev/null 2>"$work/said"; then die "the chart takes $wrong"; fi
    holds "$(<"$work/said")" "values don't meet the specifications"
done
rendered=$(quiet "$helm" template autoport "$chart" --namespace networking --set image.repository=registry.example.org/autoport,image.tag=9.9.9 \
    --set agentPolicy=true,startupTaint=true,admission=true)
[[ $rendered != *kube-system* ]] || die "the chart names another namespace than its own"
holds "$rendered" "system:serviceaccount:networking:autoport-agent"
holds "$rendered" "image: registry.example.org/autoport:9.9.9"
quiet "$helm" package "$chart" --destination "$work" >/dev/null
equal "what the packed chart renders" "$(quiet "$helm" template autoport "$(one "$work"/autoport-*.tgz)" --set monitoring=true | sha256sum)" \
    "$(quiet "$helm" template autoport "$chart" --set monitoring=true | sha256sum)"

step "the alerts"
mkdir "$work/alerts"
cp integration/alerts.yaml "$work/alerts/"
sed '1,/^spec:$/d' deploy/kubernetes/monitoring/rules.yaml >"$work/alerts/rules.yaml"
promtool=$TOOLS/prometheus/usr/bin/promtool
holds "$("$promtool" check rules --lint-fatal "$work/alerts/rules.yaml" 2>&1)" "SUCCESS: 7 rules found"
text=$("$promtool" test rules "$work/alerts/alerts.yaml" 2>&1) || die "$text"
step "all well"
