#!/usr/bin/env bash
# build.sh SOURCE GOROOT FOLDER OUT: Kubernetes' programs for one node, into OUT,
# from Debian's archive of its source and without the network. FOLDER is for the
# build; what is there of an earlier try is used. Called by integration/setup.sh.
#
# There are two kubelets. The CRI of `kubelet` is v1alpha2, which containerd 2 no
# longer has; that of `kubelet-v1` is v1, whose messages are the same. `kubelet-v1`
# also asks device plugins as kubelets since 1.26 do, under the authority
# `localhost` (kubernetes#112597): before, it was the path of the socket.
set -euo pipefail
source=$1 goroot=$2 folder=$3 out=$4
programs=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl)

version=${source##*really} version=${version%%[!0-9.]*} version=${version%.}
[[ $version =~ ^([0-9]+)\.([0-9]+)\.[0-9]+$ ]] || { echo "no version in $source" >&2; exit 1; }

package=k8s.io/kubernetes
tree=$folder/gopath/src/$package
if [ ! -e "$folder/unpacked" ]; then
    rm -rf "$tree"
    mkdir -p "$tree"
    tar -xf "$source" -C "$tree" --strip-components=1
    : >"$folder/unpacked"
fi
cd "$tree"
mkdir -p "$folder/home" "$folder/tmp" "$folder/bin" "$out"

# As it was built in its day: without modules, in a GOPATH.
go() {
    env -i PATH="$PATH" HOME="$folder/home" GOROOT="$goroot" GOPATH="$folder/gopath" \
        GOCACHE="$folder/gocache" GOTMPDIR="$folder/tmp" GOENV=off GOTOOLCHAIN=local \
        GO111MODULE=off GOPROXY=off GOFLAGS= CGO_ENABLED=0 "$goroot/bin/go" "$@"
}

# A generated file that is in no archive: the OpenAPI of all that carries the tag.
generated=pkg/generated/openapi/zz_generated.openapi.go
if [ ! -e "$generated" ]; then
    go build -o "$folder/bin/openapi-gen" "$package/vendor/k8s.io/kube-openapi/cmd/openapi-gen"
    inputs=$(
        {
            # Below vendor are links to staging.
            grep -rl --include=doc.go '+k8s:openapi-gen=true' pkg vendor/k8s.io staging/src/k8s.io |
                sed -e 's|/doc.go$||' -e "s|^staging/src/|vendor/|" -e "s|^|$package/|"
            printf "$package/vendor/k8s.io/apimachinery/pkg/%s\n" \
                apis/meta/v1 runtime version api/resource util/intstr
        } | sort -u | paste -sd ,
    )
    (
        export GOROOT=$goroot GOPATH=$folder/gopath GO111MODULE=off GOCACHE=$folder/gocache
        PATH=$goroot/bin:$PATH HOME=$folder/home "$folder/bin/openapi-gen" \
            -i "$inputs" -p "$package/pkg/generated/openapi" -O zz_generated.openapi.new \
            -h hack/boilerplate/boilerplate.generatego.txt -o "$folder/gopath/src" -r "$folder/violations"
    )
    mv "${generated%.go}.new.go" "$generated"
fi

# Without a version the components refuse each other.
flags='-s -w'
for where in "$package/vendor/k8s.io/component-base/version" "$package/vendor/k8s.io/client-go/pkg/version"; do
    flags+=" -X $where.gitVersion=v$version -X $where.gitMajor=${BASH_REMATCH[1]} -X $where.gitMinor=${BASH_REMATCH[2]}"
done
# Without the clouds and Docker a tenth of the packages goes, and a good part of the time.
build=(go build -trimpath -tags 'providerless dockerless' -ldflags "$flags")
"${build[@]}" -o "$folder/bin/" "${programs[@]/#/$package/cmd/}"

# The tree stays as it is: the compiler gets to see other files in place of some.
overlay=()
# replaces FILE EXPRESSION: the file as sed changes it, which has to be a change.
replaces() {
    local file=$1 new
    new=$folder/overlay-${file//\//-}
    sed -E "$2" "$file" >"$new"
    if cmp -s "$file" "$new"; then echo "$file has nothing to change" >&2; exit 1; fi
    overlay+=("\"$tree/$file\":\"$new\"")
}
replaces vendor/k8s.io/cri-api/pkg/apis/runtime/v1alpha2/api.pb.go \
    's/runtime\.v1alpha2\.(Runtime|Image)Service/runtime.v1.\1Service/'
replaces pkg/kubelet/cm/devicemanager/endpoint.go \
    's/grpc\.DialContext\(ctx, unixSocketPath, /&grpc.WithAuthority("localhost"), /'
(IFS=, && printf '{"Replace":{%s}}\n' "${overlay[*]}") >"$folder/overlay.json"
"${build[@]}" -overlay "$folder/overlay.json" -o "$folder/bin/kubelet-v1" "$package/cmd/kubelet"
programs+=(kubelet-v1)
mv "${programs[@]/#/$folder/bin/}" "$out/"
