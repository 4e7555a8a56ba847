#!/bin/sh
# ec2spawner-worker for the hub's SSH user, who may run this one command as root.
exec sudo -n /opt/ec2spawner/bin/python -I -m ec2spawner.worker.cli "$@"
