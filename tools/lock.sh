#!/bin/sh
# Resolves pyproject.toml and launch_cluster/manager/proxy/package.json anew into the lock files.
#
# The locks hold exact versions with hashes and no address of any registry: where packages come
# from is the business of the machine that installs them.
set -eu
cd "$(dirname "$0")/.."

.venv/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9'

# One lock for all extras and for every Python from 3.10 on, with markers where they differ.
.venv/bin/uv pip compile pyproject.toml --all-extras --universal --python-version 3.10 \
    --upgrade --generate-hashes --no-header --no-annotate --quiet \
    --output-file tools/requirements.lock

# What the worker image holds: its servers' environment, the one that students' code runs in, and
# what makes the latter where a course brings an environment.yml.
# Left out of the former: rfc3987-syntax, which jsonschema does without and whose import is slow.
image=ec2spawner/worker/image
compile_for_image() {
    .venv/bin/uv pip compile "$@" --universal --python-version 3.11 --upgrade \
        --constraint tools/requirements.lock --generate-hashes --no-header --no-annotate --quiet
}
# Of the project a worker needs what the extra says, and nothing of the launch command's.
.venv/bin/python tools/extra.py worker >.venv/worker.in
compile_for_image .venv/worker.in --no-emit-package rfc3987-syntax \
    --no-emit-package lark --output-file $image/worker.lock
for name in notebook conda; do
    compile_for_image $image/$name.in --output-file $image/$name.lock
done

# What the manager installs: the hub, the proxy's Node, and the driver of PostgreSQL.
.venv/bin/uv pip compile pyproject.toml --extra manager --universal --python-version 3.11 \
    --constraint tools/requirements.lock --upgrade --generate-hashes --no-header --no-annotate \
    --quiet --output-file launch_cluster/manager/hub.lock

.node/bin/node .node/npm-cli.js install --prefix launch_cluster/manager/proxy --package-lock-only \
    --omit-lockfile-registry-resolved --no-audit --no-fund --no-update-notifier
.venv/bin/python tools/drop_urls.py launch_cluster/manager/proxy/package-lock.json
