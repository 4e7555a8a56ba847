#!/bin/sh
# Gets Debian's chromium for the browser tests where that is possible; else the tests say so.
set -eu
for name in chromium chromium-browser google-chrome; do
    command -v "$name" >/dev/null && exit 0
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "test: installing Debian's chromium for the browser tests ..."
    { apt-get update -q && apt-get install -q -y --no-install-recommends chromium; } >.chromium-install.log 2>&1 ||
        echo "test: chromium could not be installed; see .chromium-install.log" >&2
fi
