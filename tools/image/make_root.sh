#!/bin/sh
# Makes the root of a Debian 12 cloud image, as a builder instance would find it:
# ROOT MIRROR [ARCHITECTURE]. The mirror is used here and not kept. As root.
set -eu
root=$1 mirror=$2 architecture=${3:-amd64}
debian=http://deb.debian.org/debian
include=systemd-sysv,dbus,udev,ca-certificates,iproute2,cloud-init,cloud-guest-utils,netplan.io
include=$include,systemd-resolved,libpam-systemd,openssh-server,sudo,python3
include=$include,linux-image-cloud-$architecture,initramfs-tools

# The initial RAM disk needs no more than qemu's disks: it is made, and started, the faster.
# shellcheck disable=SC2016 # mmdebstrap's shell knows the root as $1
initrd='mkdir -p "$1/etc/initramfs-tools/conf.d" &&
    echo MODULES=list >"$1/etc/initramfs-tools/conf.d/harness" &&
    printf "%s\n" virtio_pci virtio_blk ext4 >"$1/etc/initramfs-tools/modules"'

mmdebstrap --quiet --mode=root --architectures="$architecture" --variant=apt --dpkgopt=force-unsafe-io \
    --aptopt='APT::Install-Recommends "false"' --include="$include" \
    --essential-hook="$initrd" bookworm "$root" "$mirror"
echo "deb $debian bookworm main" >"$root/etc/apt/sources.list"
rm -f "$root"/etc/apt/apt.conf.d/99mmdebstrap "$root"/etc/dpkg/dpkg.cfg.d/99mmdebstrap
