#!/usr/bin/env bash
# build-api.sh LIBRARIES GOROOT FOLDER OUT: the API server of integration/cluster/apiserver, as OUT,
# with the Go libraries below LIBRARIES and without the network. FOLDER is for the build. Called by
# integration/setup.sh.
set -euo pipefail
libraries=$1 goroot=$2 folder=$3 out=$4
source=$(dirname "${BASH_SOURCE[0]}")/apiserver
package=autoport/apiserver
tree=$folder/gopath/src/$package
mkdir -p "$tree/openapi" "$folder/home" "$folder/tmp"
cp "$source"/*.go "$tree/"

# Debian's libraries make a GOPATH.
environment=(env -i PATH="$goroot/bin:$PATH" HOME="$folder/home" GOROOT="$goroot" GOPATH="$folder/gopath:$libraries"
    GOCACHE="$folder/gocache" GOTMPDIR="$folder/tmp" GOENV=off GOTOOLCHAIN=local
    GO111MODULE=off GOPROXY=off GOFLAGS= CGO_ENABLED=0)

# What describes the types is in no package: it is generated.
"${environment[@]}" go build -o "$folder/openapi-gen" k8s.io/kube-openapi/cmd/openapi-gen
mapfile -t inputs < <(
    cd "$libraries/src"
    grep -rl --include=doc.go '+k8s:openapi-gen=true' k8s.io/api k8s.io/apiextensions-apiserver/pkg/apis | sed 's|/doc.go$||'
    printf 'k8s.io/apimachinery/pkg/%s\n' apis/meta/v1 runtime version api/resource util/intstr
)
: >"$folder/header"
(
    cd "$tree"
    "${environment[@]}" "$folder/openapi-gen" --output-dir "$tree/openapi" --output-pkg "$package/openapi" \
        --output-file zz_generated.go --go-header-file "$folder/header" --report-filename "$folder/violations" "${inputs[@]}"
)
"${environment[@]}" go build -trimpath -ldflags '-s -w' -o "$out" "$package"
