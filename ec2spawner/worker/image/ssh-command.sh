#!/bin/sh
# All that sshd runs here: ec2spawner-worker, for which the hub asks by this name.
case ${SSH_ORIGINAL_COMMAND-} in
"ec2spawner-worker "*)
    set -f
    # shellcheck disable=SC2086 # words, and none of them is a pattern
    set -- $SSH_ORIGINAL_COMMAND
    shift
    exec /usr/local/bin/ec2spawner-worker "$@"
    ;;
esac
echo "this account runs ec2spawner-worker, and nothing else" >&2
exit 126
