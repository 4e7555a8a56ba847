#!/bin/sh
# Prints where a program is: on PATH, else out of the distribution's package, which is unpacked into
# .programs without being installed, and so without root. Exit 1, and why on stderr, if neither.
#
#   debian_program.sh PROGRAM PACKAGE
set -eu
cd "$(dirname "$0")/.."
program=$1 package=$2
folder=$PWD/.programs/$package
inside=$folder/root/usr/bin/$program

give_up() {
    echo "$program: $1" >&2
    exit 1
}

# Into the current folder; whoever calls has it for itself.
download() {
    timeout 60 apt-get -q download -o APT::Sandbox::User=root "$package" >log 2>&1
}

command -v "$program" && exit 0
if [ ! -x "$inside" ]; then
    for tool in apt-get dpkg flock; do
        command -v "$tool" >/dev/null || give_up "not on PATH, and no $tool here to fetch it by"
    done
    mkdir -p "$folder"
    exec 9>"$folder/lock"
    flock --wait 120 9 || give_up "another run has been fetching it for two minutes"
fi
if [ ! -x "$inside" ]; then
    cd "$folder"
    rm -rf root.new ./*.deb
    echo "$program: fetching the package $package ..." >&2
    # Lists that are too old, or none: only root can have new ones.
    download || { timeout 120 apt-get -q update >log 2>&1 && download; } ||
        give_up "the package $package cannot be fetched: $(tail -n 1 log)"
    dpkg -x ./*.deb root.new || give_up "the package $package cannot be unpacked"
    mv -T root.new root
    rm -f ./*.deb
    [ -x "$inside" ] || give_up "the package $package does not hold it"
fi
echo "$inside"
