#!/bin/sh
# Runs a command in a root as on a machine without systemd: ROOT FOLDER COMMAND...
#
# FOLDER is seen as /run/harness/given. This computer's way to packages (proxies, pip's index,
# apt's mirror, certificates) holds while the command runs and is not left in the root: it is in
# the environment, and below /run, which is gone afterwards. As root.
set -eu
if [ "${IN_ROOT_APART:-}" != yes ]; then
    IN_ROOT_APART=yes exec unshare --mount --pid --fork --kill-child "$0" "$@"
fi
root=$1 given=$2
shift 2
harness=$root/run/harness

mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
mkdir -p "$harness/given" "$harness/certs" "$root/run/systemd/resolve"
mount --bind "$given" "$harness/given"
cp -L /etc/resolv.conf "$root/run/systemd/resolve/stub-resolv.conf"
set -- HOME=/root "$@"

# pip's own variables, and whatever programs know of proxies; paths of certificates are others in
# the root.
if [ -d /etc/ssl/certs ]; then
    mount --rbind -o ro /etc/ssl/certs "$harness/certs"
fi
for name in PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST PIP_DEFAULT_TIMEOUT PIP_CERT \
    SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE \
    http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
    value=$(printenv "$name" || true)
    case $value in
    '') ;;
    /etc/ssl/certs*) set -- "$name=/run/harness/certs${value#/etc/ssl/certs}" "$@" ;;
    *) set -- "$name=$value" "$@" ;;
    esac
done

# apt's way, and its mirror in the place of Debian's own.
apt-config dump Acquire |
    grep -E '::(proxy|https?::|Check-|Retries|CaInfo|Verify)' |
    sed 's|"/etc/ssl/certs|"/run/harness/certs|' >"$harness/apt.conf" || true
echo 'DPkg::Options { "--force-unsafe-io"; };' >>"$harness/apt.conf"
if [ -n "${MIRROR:-}" ]; then
    echo "deb $MIRROR bookworm main" >"$harness/sources.list"
    echo 'Dir::Etc::SourceList "/run/harness/sources.list";' >>"$harness/apt.conf"
fi

exec chroot "$root" /usr/bin/env -i APT_CONFIG=/run/harness/apt.conf \
    PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
