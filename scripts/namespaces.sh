#!/usr/bin/env bash
# Runs a command where it may make network namespaces: as root as it is, for an
# ordinary user as root of a user namespace.
set -euo pipefail
if [ "$EUID" -eq 0 ]; then
    exec "$@"
fi
exec unshare --user --map-root-user --net --mount -- "$@"
