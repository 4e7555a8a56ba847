#!/bin/sh
# Forgets the demo's users, files and machines; refuses while a demo runs.
set -eu
cd "$(dirname "$0")/.."
state=${1:-.demo}

[ -d "$state" ] || exit 0
[ -f "$state/lock" ] || { echo "demo-clean: $state holds no demo" >&2; exit 1; }
if ! flock --nonblock "$state/lock" rm -rf "$state"; then
    echo "demo-clean: a demo is running with the state in $state; end it first (Ctrl-C)" >&2
    exit 1
fi
