#!/bin/sh
# Gets what test-image needs (qemu, and what makes a Debian root) where that is possible; with the
# word "full" also what runs arm64 programs. Where it is not, the tests say why.
set -eu
cd "$(dirname "$0")/.."
log=.qemu-install.log
packages="qemu-system-x86 qemu-utils mmdebstrap debian-archive-keyring e2fsprogs util-linux"
programs="qemu-system-x86_64 qemu-img mmdebstrap"
if [ "${1:-}" = full ]; then
    packages="$packages qemu-user-static binfmt-support arch-test"
    programs="$programs qemu-aarch64-static update-binfmts arch-test"
fi
grep -qs '^ID=debian' /etc/os-release || exit 0
[ "$(id -u)" = 0 ] || exit 0

missing=
for program in $programs; do
    command -v "$program" >/dev/null || missing=$program
done
if [ -n "$missing" ]; then
    echo "test-image: installing qemu and mmdebstrap ..."
    # shellcheck disable=SC2086 # names without spaces
    { apt-get update -q && apt-get install -q -y --no-install-recommends $packages; } >$log 2>&1 ||
        echo "test-image: qemu could not be installed; see $log" >&2
fi

# Where no systemd runs, nothing has told the kernel who runs arm64 programs.
binfmt=/proc/sys/fs/binfmt_misc
if [ "${1:-}" = full ] && [ ! -e $binfmt/qemu-aarch64 ]; then
    {
        [ -e $binfmt/status ] || mount -t binfmt_misc none $binfmt
        update-binfmts --enable qemu-aarch64
    } >>$log 2>&1 || echo "test-image: the kernel runs no arm64 programs; see $log" >&2
fi
