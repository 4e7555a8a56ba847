#!/bin/sh
# Gets Debian's chromium for the browser tests where that is possible; else the tests say why not.
set -eu
cd "$(dirname "$0")/.."
log=.chromium-install.log

command -v chromium >/dev/null && exit 0
grep -qs '^ID=debian' /etc/os-release || exit 0
[ "$(id -u)" = 0 ] || exit 0
echo "test: installing Debian's chromium for the browser tests ..."
{ apt-get update -q && apt-get install -q -y --no-install-recommends chromium; } >$log 2>&1 ||
    echo "test: chromium could not be installed; see $log" >&2
