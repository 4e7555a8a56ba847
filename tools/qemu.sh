#!/bin/sh
# Gets what test-image needs (qemu, and what makes a Debian root) where that is possible; else the
# tests say why not.
set -eu
cd "$(dirname "$0")/.."
log=.qemu-install.log
packages="qemu-system-x86 qemu-utils mmdebstrap debian-archive-keyring e2fsprogs util-linux"

command -v qemu-system-x86_64 >/dev/null && command -v qemu-img >/dev/null &&
    command -v mmdebstrap >/dev/null && exit 0
grep -qs '^ID=debian' /etc/os-release || exit 0
[ "$(id -u)" = 0 ] || exit 0
echo "test-image: installing qemu and mmdebstrap ..."
# shellcheck disable=SC2086 # names without spaces
{ apt-get update -q && apt-get install -q -y --no-install-recommends $packages; } >$log 2>&1 ||
    echo "test-image: qemu could not be installed; see $log" >&2
