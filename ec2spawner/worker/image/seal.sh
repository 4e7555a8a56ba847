#!/bin/sh
# Takes from a provisioned machine what must not be in two of them, or in an image at all. As root,
# and last: sshd answers nobody afterwards until the next boot.
set -eu
export PATH=/usr/sbin:/usr/bin:/sbin:/bin

# Who it is.
rm -f /etc/ssh/ssh_host_*
: >/etc/machine-id
[ -L /var/lib/dbus/machine-id ] || rm -f /var/lib/dbus/machine-id
rm -f /etc/hostname /var/lib/systemd/random-seed /var/lib/systemd/credential.secret
rm -rf /var/lib/ec2spawner

# Who may enter.
for home in /root /home/*; do
    rm -rf "$home/.ssh" "$home/.cache" "$home/.bash_history" "$home/.sudo_as_admin_successful"
done

# What cloud-init did for this instance: its state, its network, that it is done.
rm -rf /var/lib/cloud/* /run/cloud-init /etc/cloud/cloud-init.disabled
rm -f /etc/netplan/50-cloud-init.yaml /etc/network/interfaces.d/50-cloud-init \
    /etc/sudoers.d/90-cloud-init-users /etc/ssh/sshd_config.d/50-cloud-init.conf
rm -rf /var/lib/dhcp/* /var/lib/NetworkManager/* /run/systemd/netif/leases/*

# What happened here.
rm -rf /var/log/journal/* /var/lib/systemd/coredump/* /var/lib/systemd/timers/* /var/crash/*
find /var/log -type f -delete
find /tmp /var/tmp -mindepth 1 -xdev -delete 2>/dev/null || true
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb
sync
