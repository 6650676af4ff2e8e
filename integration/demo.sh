#!/usr/bin/env bash
# Shows autoport at work: a node, a client beside it and two pods, all in
# namespaces of their own that end with this script. `make demo` installs and
# builds what it needs.
#
# As root it needs nothing else. As an ordinary user it makes a user namespace,
# in which it is root.
set -euo pipefail
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
unset "${!CNI_@}" CAP_ARGS NETCONFPATH || true

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(dirname "$here")
node_ip=192.0.2.1 client_ip=192.0.2.100

# --- talking -----------------------------------------------------------------

bold='' dim='' green='' red='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
fi

number=0
step() {
    number=$((number + 1))
    printf '\n%s%d. %s%s\n' "$bold" "$number" "$1" "$plain"
}
say() { printf '   %s\n' "$@"; }
good() { printf '   %s✓%s %s\n' "$green" "$plain" "$1"; }
command_line() { printf '\n   %s$ %s%s\n' "$dim" "$*" "$plain"; }
indent() { expand -t 4 | sed 's/^/     /'; }

# Commands that fail without a word of ours end here, too.
stop() {
    printf '\n   %s✗ %s%s\n' "$red" "$1" "$plain" >&2
    exit 1
}

# --- the throwaway node ------------------------------------------------------

tools=${AUTOPORT_TOOLS:-$repo/target/tools}
for file in "$repo/dist/autoport" "$tools/bin/cnitool" /usr/lib/cni/bridge; do
    [ -x "$file" ] || stop "$file is missing. \`make demo\` installs and builds it."
done

if [ "${1:-}" != --inside ]; then
    become_root=()
    [ "$EUID" -eq 0 ] || become_root=(--user --map-root-user)
    if ! unshare "${become_root[@]}" --net --mount true; then
        stop "This user may not make network namespaces. Run \`make demo\` as root, outside of any locked-down container."
    fi
    exec unshare "${become_root[@]}" --net --mount -- "$BASH" "$here/demo.sh" --inside
fi

servers=()
end_servers() {
    [ "${#servers[@]}" -eq 0 ] || kill "${servers[@]}" 2>/dev/null || true
    servers=()
}
trap end_servers EXIT
trap 'stop "Line $LINENO of $0 failed: $BASH_COMMAND"' ERR
set -E

# What is needed from the repository is opened first: it may lie below a folder
# that is covered up next.
exec 5<"$repo/dist/autoport" 6<"$tools/bin/cnitool" 7<"$repo/conflist-examples/10-bridge.conflist"
cd /
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /var/lib # CNI plugins keep state in /var/lib/cni
[ ! -d /etc/cni ] || mount -t tmpfs -o mode=755 tmpfs /etc/cni
mkdir -p /run/demo/bin /run/demo/net.d
cat <&5 >/run/demo/bin/autoport
cat <&6 >/run/demo/bin/cnitool
cat <&7 >/run/demo/net.d/10-bridge.conflist
exec 5<&- 6<&- 7<&-
chmod +x /run/demo/bin/*
ln -s /usr/lib/cni/bridge /run/demo/bin/
PATH=/run/demo/bin:$PATH
export CNI_PATH=/run/demo/bin:/usr/lib/cni NETCONFPATH=/run/demo/net.d

inside() { nsenter --net="/run/netns/$1" -- "${@:2}"; }

printf '%sautoport: host ports for containers, on a temporary node%s\n' "$bold" "$plain"
say "Everything below happens in network and mount namespaces of its own." \
    "The network of this machine is not touched."

step "A node and a client"
ip link set lo up
ip netns add client
ip link add uplink type veth peer name eth0 netns client
ip addr add $node_ip/24 dev uplink
ip link set uplink up
inside client ip link set lo up
inside client ip addr add $client_ip/24 dev eth0
inside client ip link set eth0 up
say "The node has the address $node_ip. The client, $client_ip, is one cable away."
say "The network of the pods is conflist-examples/10-bridge.conflist:" \
    "bridge and host-local from Debian, then autoport."

# --- pods --------------------------------------------------------------------

# pod NAME makes a network namespace in which a page server runs.
pod() {
    local page=/run/demo/$1/cgi-bin
    ip netns add "$1"
    inside "$1" ip link set lo up
    mkdir -p "$page"
    printf '#!/bin/sh\nprintf "Content-Type: text/plain\\r\\n\\r\\n"\n' >"$page/index.cgi"
    # shellcheck disable=SC2016 # the variable is the page's
    printf 'echo "Hello from pod %s. You are $REMOTE_ADDR."\n' "$1" >>"$page/index.cgi"
    chmod +x "$page/index.cgi"
    inside "$1" setpriv --pdeathsig KILL busybox httpd -f -p 0.0.0.0:80 -h "/run/demo/$1" &
    servers+=($!)
}

# cni add|del POD HOST_PORT calls the whole chain, as a container runtime does.
# Host port 0 leaves the choice to the node.
cni() {
    CAP_ARGS='{"portMappings":[{"hostPort":'$3',"containerPort":80,"protocol":"tcp"}]}' \
        CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAMESPACE=demo;K8S_POD_NAME=$2;K8S_POD_UID=$2-uid" \
        CNI_IFNAME=eth0 cnitool "$1" pods "/run/netns/$2"
}

# fetch PORT from the client
fetch() { inside client curl -sS --noproxy '*' --max-time 5 "http://$node_ip:$1/"; }

# page WHO_ASKS EXPECTED COMMAND... shows the page if it is the right one.
page() {
    local text try
    for try in 1 2 3 4 5 6 7 8 9 10; do # a server needs a moment to start
        text=$("${@:3}" 2>&1) && break
        sleep "0.$try"
    done
    [[ $text == "$2" ]] || stop "$1 should have read \"$2\", but got: $text"
    printf '     %s\n' "$text"
}

step "A pod, attached with cnitool, asks for host port 8080"
pod web
command_line "cnitool add pods /run/netns/web    # portMappings: 8080 -> 80/tcp"
cni add web 8080 2>&1 >/run/demo/result | indent
command_line "curl http://$node_ip:8080/    # on the client"
page "The client" "Hello from pod web. You are $client_ip." fetch 8080
command_line "curl http://127.0.0.1:8080/     # on the node itself"
page "The node" "Hello from pod web. You are 10.200.0.1." curl -sS --noproxy '*' --max-time 5 http://127.0.0.1:8080/
good "Both reached the pod. It saw the client's own address; only 127.0.0.1 had to be replaced."

step "A second pod asks for the same port, is rejected, and lets the node choose a port"
pod api
command_line "cnitool add pods /run/netns/api    # portMappings: 8080 -> 80/tcp"
if cni add api 8080 >/run/demo/result 2>&1; then
    stop "Two pods hold one port."
fi
sed '/^ *$/d' /run/demo/result | fold -s -w 90 | indent
grep -q demo/web /run/demo/result || stop "The error does not name the holder."
cni del api 8080
command_line "cnitool add pods /run/netns/api    # portMappings: 0 -> 80/tcp"
cni add api 0 2>&1 >/run/demo/result | indent
env_file=/run/autoport/pods/api-uid/ports.env
command_line "cat $env_file    # mounted into its containers"
indent <"$env_file"
chosen=$(sed -n "s/^AUTOPORT_HOST_PORT_80_TCP='\([0-9]*\)'$/\1/p" "$env_file")
[[ $chosen =~ ^[0-9]+$ ]] || stop "The file does not name one chosen port."
page "The client" "Hello from pod api. You are $client_ip." fetch "$chosen" >/dev/null
good "The node chose port $chosen, out of portRange (20000-29999), and it answers."

step "Who holds which port"
command_line "autoport list"
autoport list >/run/demo/list
indent </run/demo/list
grep -q "$chosen.*demo/api" /run/demo/list || stop "The list does not show demo/api on $chosen."
command_line "autoport show $chosen"
autoport show "$chosen" | indent
doctor=(autoport doctor --conf-dir "$NETCONFPATH" --bin-dir /run/demo/bin)
command_line "autoport doctor    # with --conf-dir and --bin-dir of this demo"
"${doctor[@]}" >/run/demo/report || stop "Something is wrong with this node: $(cat /run/demo/report)"
indent </run/demo/report

step "A firewall is loaded on the node, and port $chosen does not answer any more"
nft -f - <<'RULES'
table inet firewall {
    chain forward {
        type filter hook forward priority filter; policy drop;
    }
}
RULES
! fetch "$chosen" >/dev/null 2>&1 || stop "The firewall lets the client through."
command_line "autoport trace $chosen --from $client_ip"
if autoport trace "$chosen" --from "$client_ip" >/run/demo/trace; then
    stop "trace does not notice the firewall: $(cat /run/demo/trace)"
fi
indent </run/demo/trace
command_line "autoport doctor"
! "${doctor[@]}" >/run/demo/report || stop "doctor does not notice the firewall."
grep -A1 '^failed' /run/demo/report | indent
remedy=$(sed -n 's/^ *-> \(nft insert rule .*\)/\1/p' /run/demo/report)
[ -n "$remedy" ] || stop "doctor has no remedy: $(cat /run/demo/report)"
command_line "$remedy"
$remedy
command_line "curl http://$node_ip:$chosen/    # on the client"
page "The client" "Hello from pod api. You are $client_ip." fetch "$chosen"
good "trace named the chain, doctor the remedy, and the port answers again."

# --- and gone ----------------------------------------------------------------

step "Both pods are deleted"
command_line "cnitool del pods /run/netns/web; cnitool del pods /run/netns/api"
cni del web 8080
cni del api 0
for port in 8080 "$chosen"; do
    ! refused=$(fetch "$port" 2>&1) || stop "Port $port still answers: $refused"
    [[ $refused == *"refused"* || $refused == *"Couldn't connect"* ]] || stop "Port $port is not refused: $refused"
done
good "The client's connections to 8080 and $chosen are refused."
command_line "autoport list"
autoport list | indent
# The interface towards pods stays guarded as long as route_localnet is set on it.
left=$(nft list table inet autoport | sed '/set guarded {/,/^\t}/d')
[[ $left != *elements* ]] || stop "Elements are left: $left"
good "No element of a pod is left in the kernel's table."
left=$(find /run/autoport/attachments /run/autoport/ports -mindepth 2)$(ls -A /run/autoport/attachments)
[ -z "$left" ] || stop "Records are left: $left"
[ ! -e "$env_file" ] || stop "$env_file is left."
good "No record is left, and no file for a container."
end_servers

printf '\n%sWhat happened%s\n' "$bold" "$plain"
say "A real CNI chain attached two pods to a bridge. For each pod, autoport recorded the holder" \
    "of the host port and added two elements to its nftables table, without iptables, daemon or" \
    "child process. A request for a port in use was rejected with the name of the holder. Another" \
    "port was chosen by the node and published to the container. When a firewall dropped the" \
    "packets, one command showed where they stopped. After DEL, no port answers and nothing is" \
    "recorded. The node disappears with this script."
