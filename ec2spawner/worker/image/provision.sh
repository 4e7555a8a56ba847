#!/bin/sh
# Makes a worker of the machine that this runs on, as root: Debian 12 or Ubuntu 24.04, also in a
# chroot where no systemd runs. May be run again at any time; what is as it should be stays.
#
# From the environment:
#   BUNDLE             folder with the wheel ec2spawner-*.whl and worker.lock
#   WORKER_USERNAME    who runs notebooks
#   WORKER_SSH_PORT    where sshd listens
#   WORKER_SUDO        1: the notebook user may become root
#   COURSE             folder with a course's apt.txt, requirements.txt or environment.yml, postBuild
set -eu
umask 022
export PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
unset PYTHONPATH PYTHONHOME

here=$(cd "$(dirname "$0")" && pwd)
server=/opt/ec2spawner
notebook=/opt/notebook
units=/etc/systemd/system
# Home volumes outlive images, so the owner of their files has one number in all of them.
notebook_uid=1000
base_users="admin debian ubuntu"
ssh_user=ec2spawner

phase() {
    echo "ec2spawner-image: phase $1"
}

give_up() {
    echo "provision: $1" >&2
    exit 1
}

retry() {
    for pause in 2 10 30 0; do
        "$@" && return
        [ "$pause" = 0 ] || sleep "$pause"
    done
    return 1
}

# ---- what it is given

read_inputs() {
    [ "$(id -u)" = 0 ] || give_up "must be run as root"
    bundle=${BUNDLE:?is the folder of the bundle}
    username=${WORKER_USERNAME:?is the notebook user}
    ssh_port=${WORKER_SSH_PORT:-22}
    sudo_allowed=${WORKER_SUDO:-0}
    course=${COURSE:-}
    printf '%s' "$username" | grep -Eqx '[a-z_][a-z0-9_-]{0,31}' ||
        give_up "WORKER_USERNAME: $username is no user name"
    case $username in
    root | "$ssh_user") give_up "WORKER_USERNAME: $username manages the worker" ;;
    esac
    case $sudo_allowed in
    0 | 1) ;;
    *) give_up "WORKER_SUDO: must be 0 or 1, not $sudo_allowed" ;;
    esac
    case $ssh_port in
    '' | *[!0-9]*) give_up "WORKER_SSH_PORT: $ssh_port is no port" ;;
    esac
    [ -f "$bundle/worker.lock" ] || give_up "BUNDLE: $bundle has no worker.lock"
    set -- "$bundle"/ec2spawner-*.whl
    [ $# = 1 ] && [ -f "$1" ] || give_up "BUNDLE: $bundle must hold one wheel ec2spawner-*.whl"
    wheel=$1
    [ -z "$course" ] || [ -d "$course" ] || give_up "COURSE: $course is no folder"
}

# ---- packages

install_packages() {
    phase "installing Debian packages"
    retry apt-get update -q
    apt_get upgrade
    apt_get install python3 python3-venv openssh-server sudo nftables unattended-upgrades \
        e2fsprogs util-linux ca-certificates cloud-init cloud-guest-utils systemd-resolved
    if [ -n "$course" ] && [ -f "$course/apt.txt" ]; then
        phase "installing the course's Debian packages"
        sed 's/#.*//' "$course/apt.txt" | xargs -r \
            apt-get -q -y -o DPkg::Lock::Timeout=600 install --no-install-recommends
    fi
    apt-get clean
}

apt_get() {
    apt-get -q -y -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 \
        -o Dpkg::Options::=--force-confold "$@" --no-install-recommends
}

# ---- users

make_users() {
    phase "making users"
    remove_base_users
    if ! getent passwd "$ssh_user" >/dev/null; then
        useradd --system --create-home --home-dir "/home/$ssh_user" --shell /bin/sh "$ssh_user"
    fi
    if ! getent passwd "$username" >/dev/null; then
        taken=$(getent passwd $notebook_uid | cut -d: -f1)
        [ -z "$taken" ] || give_up "user $notebook_uid, whose files homes hold, is $taken here"
        useradd --uid $notebook_uid --user-group --no-create-home --shell /bin/bash "$username"
    fi
    [ "$(id -u "$username")" = $notebook_uid ] ||
        give_up "$username must be user $notebook_uid, since homes outlive images"
    # No password that could be entered; not locked either, which sshd without PAM would refuse.
    usermod --password '*' "$ssh_user"
    usermod --password '*' --groups '' "$username"
    # The home is a volume; what lies below its mount point would be nobody's.
    install -d -m 755 -o root -g root "/home/$username"
    install -D -m 440 "$here/sudoers.conf" /etc/sudoers.d/ec2spawner
    allow_sudo
    visudo -q -c || give_up "sudo's rules are wrong"
}

# The users whom base images bring have every right, and nobody needs them; one who is the notebook
# user stays, without the rights.
remove_base_users() {
    rm -f /etc/sudoers.d/90-cloud-init-users
    for user in $base_users; do
        if [ "$user" != "$username" ] && getent passwd "$user" >/dev/null; then
            userdel --remove --force "$user" 2>/dev/null || give_up "cannot remove the user $user"
        fi
    done
}

allow_sudo() {
    rule=/etc/sudoers.d/ec2spawner-notebook
    rm -f "$rule"
    if [ "$sudo_allowed" = 1 ]; then
        echo "$username ALL=(ALL:ALL) NOPASSWD: ALL" >"$rule.new"
        chmod 440 "$rule.new"
        mv "$rule.new" "$rule"
    fi
}

# ---- Python environments

is_made_of() { # FOLDER WHAT: whether the folder was made of the same, to the end
    [ "$(cat "$1/.made-of" 2>/dev/null)" = "$2" ]
}

fingerprint() {
    { python3 --version; cat "$@"; } | sha256sum | cut -d' ' -f1
}

pip() { # FOLDER ARGUMENTS
    folder=$1
    shift
    retry "$folder/bin/python" -I -m pip --disable-pip-version-check --no-input --no-cache-dir \
        -qq install "$@"
}

# Students cannot write there, so that Python would compile anew at each of their starts.
compile() {
    "$1/bin/python" -I -W ignore -m compileall -q -j 0 "$1/lib" >/dev/null 2>&1 ||
        true # some packages hold samples that do not compile
}

make_server() {
    want=$(fingerprint "$bundle/worker.lock" "$wheel")
    is_made_of $server "$want" && return
    phase "installing JupyterLab and ec2spawner-worker"
    rm -rf $server
    python3 -m venv $server
    # All dependencies are in the lock, but for what is left out on purpose.
    pip $server --no-compile --no-deps --require-hashes --only-binary :all: \
        -r "$bundle/worker.lock"
    pip $server --no-compile --no-deps --no-index "$wheel"
    # Notebooks do not run in the server's environment.
    rm -rf $server/share/jupyter/kernels
    compile $server
    echo "$want" >$server/.made-of
}

make_notebook() {
    set -- "$here/notebook.lock" "$here/kernel.json"
    for name in requirements.txt environment.yml postBuild; do
        [ -n "$course" ] && [ -f "$course/$name" ] && set -- "$@" "$course/$name"
    done
    want=$(fingerprint "$@")
    is_made_of $notebook "$want" && return
    phase "installing what notebooks run in"
    rm -rf $notebook
    if [ -n "$course" ] && [ -f "$course/environment.yml" ]; then
        make_conda_environment
    else
        # With the system's packages, for then what a student adds lands in the home and is found.
        python3 -m venv --system-site-packages $notebook
        pip $notebook --no-compile --no-deps --require-hashes --only-binary :all: \
            --ignore-installed -r "$here/notebook.lock"
    fi
    install_course
    write_kernelspec
    compile $notebook
    echo "$want" >$notebook/.made-of
}

make_conda_environment() {
    phase "making the course's conda environment"
    tool=$(mktemp -d)
    python3 -m venv "$tool"
    pip "$tool" --no-deps --require-hashes --only-binary :all: -r "$here/conda.lock"
    HOME=$tool XDG_CACHE_HOME=$tool/cache \
        "$tool/bin/python" -I "$here/conda_environment.py" "$course/environment.yml" $notebook
    rm -rf "$tool"
    if [ -s $notebook/pip-requirements.txt ]; then
        pip $notebook --no-compile -r $notebook/pip-requirements.txt
    fi
}

install_course() {
    [ -n "$course" ] || return 0
    if [ -f "$course/requirements.txt" ]; then
        phase "installing the course's Python packages"
        pip $notebook --no-compile -r "$course/requirements.txt"
    fi
    if [ -f "$course/postBuild" ]; then
        phase "running the course's postBuild"
        run_post_build
    fi
    $notebook/bin/python -I -c 'import ipykernel' ||
        give_up "the course's packages broke the notebook environment: ipykernel cannot be imported"
}

# As repo2docker does: by the notebook user, in the course's files, and what it puts into the
# environment stays. Its home is none that a student has, for theirs are volumes.
run_post_build() {
    scratch=$(mktemp -d)
    mkdir "$scratch/home"
    cp -R "$course" "$scratch/course"
    chmod +x "$scratch/course/postBuild"
    group=$(id -g "$username")
    chown -R "$username:$group" "$scratch" $notebook
    (cd "$scratch/course" && PATH="$notebook/bin:$PATH" HOME="$scratch/home" USER="$username" \
        LOGNAME="$username" setpriv --reuid "$username" --regid "$group" --clear-groups ./postBuild)
    chown -R root:root $notebook
    rm -rf "$scratch"
}

# In place of the one that ipykernel brings, whose "python" would be the server's.
write_kernelspec() {
    install -D -m 644 "$here/kernel.json" $notebook/share/jupyter/kernels/python3/kernel.json
}

# ---- the system

install_units() {
    phase "installing systemd units"
    ours=$($server/bin/python -I -c \
        'from ec2spawner.worker import systemd; print(*systemd.__path__)')
    install -m 644 "$ours"/*.service "$ours"/*.timer "$here"/*.service $units/
    drop_ins=$units/ec2spawner-server@.service.d
    rm -rf $drop_ins
    install -D -m 644 "$here/server.conf" $drop_ins/image.conf
    [ "$sudo_allowed" = 0 ] || install -D -m 644 "$ours/sudo.conf" $drop_ins/sudo.conf
    install -D -m 644 "$here/metadata.nft" /etc/ec2spawner/metadata.nft
    install -D -m 644 "$here/journal.conf" /etc/systemd/journald.conf.d/ec2spawner.conf
    install -m 644 "$here/profile.sh" /etc/profile.d/ec2spawner.sh
    install -m 644 "$here/worker.network" /etc/systemd/network/10-ec2spawner.network
    systemctl enable -q systemd-networkd.service
    systemctl enable -q ec2spawner-watchdog.timer ec2spawner-notices.service \
        ec2spawner-firewall.service ec2spawner-hostkey.service ec2spawner-settled.service
}

harden_sshd() {
    phase "hardening sshd"
    install -D -m 755 "$here/command.sh" /usr/local/bin/ec2spawner-worker
    install -D -m 755 "$here/ssh-command.sh" /usr/local/lib/ec2spawner/ssh-command
    install -D -m 644 "$here/sshd.conf" /etc/ssh/sshd_config.d/00-ec2spawner.conf
    echo "Port $ssh_port" >>/etc/ssh/sshd_config.d/00-ec2spawner.conf
    # Ubuntu starts sshd at the first connection, which a student would wait for.
    if [ -e /usr/lib/systemd/system/ssh.socket ]; then
        systemctl disable -q ssh.socket
        rm -f $units/ssh.service.d/00-socket.conf $units/ssh.socket.d/addresses.conf
    fi
    systemctl enable -q ssh.service
    install -d -m 755 /run/sshd
    [ -s /etc/ssh/ssh_host_ed25519_key ] ||
        ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
    sshd -t || give_up "sshd refuses its configuration"
}

schedule_updates() {
    phase "scheduling security updates"
    install -m 644 "$here/updates.conf" /etc/apt/apt.conf.d/90ec2spawner
    for timer in apt-daily apt-daily-upgrade; do
        install -D -m 644 "$here/$timer.conf" $units/$timer.timer.d/ec2spawner.conf
    done
    if [ -d /etc/needrestart ]; then
        echo '$nrconf{override_rc}{qr(^ec2spawner-)} = 0;' |
            install -D -m 644 /dev/stdin /etc/needrestart/conf.d/ec2spawner.conf
    fi
}

trim_boot() {
    phase "trimming the boot"
    install -D -m 644 "$here/cloud-init.cfg" /etc/cloud/cloud.cfg.d/99-ec2spawner.cfg
    if dpkg -s snapd >/dev/null 2>&1; then
        apt_get purge snapd
    fi
    systemctl set-default -q multi-user.target
    for unit in $(sed 's/#.*//' "$here/needless-units.txt"); do
        [ ! -e "/usr/lib/systemd/system/$unit" ] || systemctl mask -q "$unit"
    done
    # Two more starts of Python, with nothing to do. Newer versions are one process, which waits for
    # all of its stages.
    if [ ! -e /usr/lib/systemd/system/cloud-init-main.service ]; then
        systemctl mask -q cloud-config.service cloud-final.service
    fi
    if [ -f /boot/grub/grub.cfg ]; then
        printf 'GRUB_TIMEOUT=0\nGRUB_RECORDFAIL_TIMEOUT=0\n' |
            install -D -m 644 /dev/stdin /etc/default/grub.d/90-ec2spawner.cfg
        update-grub
    fi
}

check() {
    phase "checking"
    $server/bin/python -I -m ec2spawner.worker.cli --version
    $server/bin/python -I -c 'import jupyterhub.singleuser, jupyterlab'
    $notebook/bin/python -I -m ipykernel --version >/dev/null
    systemd-analyze verify $units/ec2spawner-*.service
}

read_inputs
install_packages
make_users
make_server
make_notebook
install_units
harden_sshd
schedule_updates
trim_boot
check
