#!/bin/sh
# Brings hub and proxy to another package of the cluster's bucket, and back if the hub then fails:
#
#   upgrade.sh SHA256
#   upgrade.sh refresh    stay with the package; take over what else the bucket holds
#
# A service does it (ec2spawner-upgrade@.service), so the end of whoever called does not end it; and
# whatever ends the service, it is settled after. What is on its way stands in upgrade.state: from
# which release to which. While that file is not there, everything is as one release wants it.
set -eu

root=${EC2SPAWNER_ROOT:-} # another place than /, for tests
base=$root/opt/ec2spawner
state=$base/upgrade.state
saved=$base/upgrade.saved
copy=$root/var/lib/jupyterhub/backup/before-upgrade
refreshed="ec2spawner/manager.env jupyterhub/server_config.json
    jupyterhub/.server_config.fetched.json"
health_seconds=${EC2SPAWNER_HEALTH_SECONDS:-300}

say() { echo "ec2spawner-upgrade: $*"; }

current() { basename "$(readlink "$base/current")"; }

use() { # RELEASE COMMAND…
    release=$1
    shift
    "$base/releases/$release/bin/python" -I -m ec2spawner.manager "$@"
}

switch() { sh "$base/releases/$1/manager/provision.sh" switch "$1"; }

# ---- forwards

run() {
    [ ! -e "$state" ] || settle
    from=$(current)
    to=$from
    [ "$1" = refresh ] || stage "$1"
    say "phase saving the database"
    save_database "$from"
    save_files
    begin_state "$from" "$to" "$1"
    news=$(use "$to" refresh)
    say "$news"
    if [ "$from" = "$to" ] && [ "$news" = "nothing new in the bucket" ]; then
        end_state
        say "done: $to is in use already"
        return
    fi
    say "phase changing from $from to $to"
    systemctl stop ec2spawner-hub.service
    save_database "$from" # what was written since; nobody writes now
    switch "$to"
    start_services
    if healthy "$to"; then
        end_state
        [ "$from" = "$to" ] || prune "$from"
        say "done: $to is in use"
    else
        say "the hub does not answer"
        journalctl --no-pager --quiet --lines=20 --output=cat --unit=ec2spawner-hub.service || true
        go_back "$from" "$to"
        say "failed: back at $from"
        return 1
    fi
}

stage() {
    sha256=$1
    say "phase fetching the package"
    bundle=$base/bundles/$sha256
    mkdir -p "${bundle%/*}"
    use "$from" package "$sha256" "$bundle"
    export BUNDLE="$bundle"
    say "phase installing it beside the old one"
    sh "$bundle/provision/manager/provision.sh" stage
    to=$(sh "$bundle/provision/manager/provision.sh" name)
}

save_database() {
    code=0
    use "$1" copy "$copy" || code=$?
    case $code in
    0) ;;
    3) rm -f "$copy" ;; # not ours to copy; why was said
    *) say "failed: the database could not be saved" && return 1 ;;
    esac
}

# What the operator or the launch command wrote may be for one release only.
save_files() {
    rm -rf "$saved"
    mkdir -p "$saved.new"
    for file in $refreshed; do
        [ ! -e "$root/etc/$file" ] || cp -p "$root/etc/$file" "$saved.new/${file##*/}"
    done
    mv -fT "$saved.new" "$saved"
}

begin_state() {
    echo "$1 $2 $3" >"$state.new"
    sync -f "$state.new"
    mv -fT "$state.new" "$state"
}

end_state() {
    rm -f "$state"
    rm -rf "$saved"
}

start_services() {
    pid=$(systemctl show --property=MainPID --value ec2spawner-proxy.service)
    if [ "$(readlink "$root/proc/$pid/exe")" != "$(readlink "$base/proxy")/bin/node" ] ||
        [ "$(hosts_wanted)" != "$(hosts_routed)" ]; then
        say "phase restarting the proxy, which drops what is open"
        systemctl restart ec2spawner-proxy.service
    fi
    systemctl restart ec2spawner-metadata.service
    systemctl restart ec2spawner-hub.service
    # Nothing is dropped where nothing of its configuration has changed.
    systemctl reload-or-restart ec2spawner-caddy.service || say "Caddy cannot be reloaded"
}

# Whether users' servers have host names of their own: as configured, and as the proxy was started.
hosts_wanted() { use "$(current)" routing 2>/dev/null | grep -o host-routing || true; }
hosts_routed() { grep -os host-routing "$root/run/ec2spawner-proxy/routing.env" || true; }

healthy() { use "$1" health "$health_seconds"; }

# Keep the old release for the way back by hand, and nothing older.
prune() {
    for folder in "$base"/releases/* "$base"/bundles/* "$base"/proxies/*; do
        case ${folder##*/} in
        "$1" | "$(current)" | "${sha256:-none}") continue ;;
        esac
        readlink "$base/releases/$1/proxy" "$base/releases/$(current)/proxy" |
            grep -qx "$folder" || rm -rf "$folder"
    done
}

# ---- and back

# Each step may have been done before; the state goes last.
go_back() {
    from=$1 to=$2
    systemctl stop ec2spawner-hub.service
    restore "$from" "$to"
    start_services
    end_state
}

restore() {
    for file in $refreshed; do
        [ -e "$saved/${file##*/}" ] || continue
        cp -p "$saved/${file##*/}" "$root/etc/$file.back"
        mv -fT "$root/etc/$file.back" "$root/etc/$file"
    done
    # The new release has touched the database only if it was in use.
    if [ "$(current)" = "$2" ] && [ "$1" != "$2" ] && [ -e "$copy" ]; then
        use "$1" restore "$copy" || [ $? = 3 ]
    fi
    switch "$1"
}

# After an end in the middle. Nothing to do after any other.
settle() {
    [ -e "$state" ] || return 0
    read -r from to _ <"$state"
    # Where only the configuration is another, a hub that answers may still have the old one.
    [ "$from" != "$to" ] || start_services
    if [ "$(current)" = "$to" ] && healthy "$to"; then
        end_state
        say "settled: $to is in use"
        return
    fi
    go_back "$from" "$to"
    say "settled: back at $from"
}

settle_before_the_hub() {
    [ -e "$state" ] || return 0
    read -r from to _ <"$state"
    restore "$from" "$to"
    end_state
    say "settled: back at $from"
}

call() {
    unit=ec2spawner-upgrade@$1.service
    code=0
    systemctl reset-failed "$unit" 2>/dev/null || true
    since=$(date +%s)
    systemctl start "$unit" || code=1
    journalctl --no-pager --quiet --output=cat --since="@$since" --unit="$unit"
    return "$code"
}

# Read as a whole before it begins: this file itself is replaced on the way.
main() {
    umask 022
    exec 9>"$base/upgrade.lock"
    case ${1:-} in
    --run)
        flock --nonblock 9 || { say "failed: another upgrade is on its way" && exit 1; }
        run "$2"
        ;;
    --settle) # what another one has begun is its own to settle
        grep -qs " $2\$" "$state" || exit 0
        flock --wait 60 9
        settle
        ;;
    --settle-before-the-hub) settle_before_the_hub ;;
    refresh) call refresh ;;
    *[!0-9a-f]* | "") echo "usage: upgrade.sh SHA256 | refresh" >&2 && exit 2 ;;
    *) call "$1" ;;
    esac
}

main "$@"
exit
