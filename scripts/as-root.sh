#!/usr/bin/env bash
# Runs a command as root, with the environment it has: container runtimes need
# mounts, devices and cgroups, which a user namespace does not give.
set -euo pipefail
if [ "$EUID" -eq 0 ]; then
    exec "$@"
fi
exec sudo --preserve-env -- "$@"
