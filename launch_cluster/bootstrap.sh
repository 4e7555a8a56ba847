#!/bin/sh
# Made by launch-cluster. Fetches the cluster's package and has it set this machine up. No secret.
set -u
@SETTINGS@
root=${EC2SPAWNER_ROOT:-}  # another place than /, for trying this out
console=${EC2SPAWNER_CONSOLE:-/dev/console}
bundle=$root/opt/ec2spawner-bundle

say() { echo "$tag: $*"; }

has_boto3() { python3 -c 'import boto3' 2>/dev/null; }

install_boto3() {
    has_boto3 && return
    apt-get -q -o DPkg::Lock::Timeout=300 update &&
        DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 \
            install --no-install-recommends python3-boto3 && has_boto3
}

download() {
    python3 - "$region" "$bucket" "$1" "$2" <<'END'
import sys
import boto3
region, bucket, key, path = sys.argv[1:]
try:
    boto3.client("s3", region_name=region).download_file(bucket, key, path)
except Exception as error:
    sys.exit(f"s3://{bucket}/{key}: {error}")
END
}

# The rights of the machine's role may come a little after the machine.
persist() {
    left=$tries
    until "$@"; do
        left=$((left - 1))
        [ $left -gt 0 ] || return 1
        sleep 5
    done
}

fetch() {
    key=$1 digest=$2 folder=$3
    mkdir -p "$root/opt" && archive=$(mktemp "$root/opt/fetched.XXXXXX") || return 1
    persist download "$key" "$archive" || {
        say "failed to fetch $key"
        return 1
    }
    echo "$digest  $archive" | sha256sum --check --status || {
        say "failed: $key is not what was put there (its SHA-256 differs)"
        return 1
    }
    rm -rf "$folder"
    mkdir -p "$folder" && tar -xzf "$archive" -C "$folder" --no-same-owner && rm "$archive"
}

# A builder of which nothing is heard ends by itself, also if this script hangs or is killed.
bound() {
    late="echo '$tag: failed: not done after $minutes minutes' >$console; poweroff"
    systemd-run --quiet --on-active="${minutes}min" sh -c "$late" || {
        say "failed to set the time after which this machine switches itself off"
        return 1
    }
}

set_up() {
    [ -z "$minutes" ] || bound || return 1
    say "phase fetching the package"
    persist install_boto3 || {
        say "failed to install python3-boto3"
        return 1
    }
    fetch "$package" "$sha256" "$bundle" || return 1
    if [ -n "$course" ]; then
        export COURSE="$root/opt/ec2spawner-course"
        fetch "$course" "$course_sha256" "$COURSE" || return 1
    fi
    export BUNDLE="$bundle"
    for script in $scripts; do
        sh "$bundle/provision/$script" || {
            say "failed in $script (exit code $?)"
            return 1
        }
    done
    [ -z "$minutes" ] || rm -rf "$bundle" "$root/opt/ec2spawner-course"  # no part of the image
    say "done"
}

set_up 2>&1 | tee -a ${log:+"$root$log"} >"$console"
[ -z "$minutes" ] || poweroff
