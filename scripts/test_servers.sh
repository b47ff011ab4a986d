#!/usr/bin/env bash
# Gets the database servers that tests start: redis-server (a Debian package), and SecantusDB, which speaks MongoDB's protocol, in a
# Python environment of its own. The latter is GPL: it runs as a separate process in tests, and is no part of fusiond.
# Where one can't be had, it says so and goes on: the tests that want it say that they were skipped.
set -uo pipefail

venv="$HOME/.cache/fusiond/secantus/venv"
if [ -z "${MONGO_URI:-}" ] && [ ! -x "$venv/bin/secantusd-py" ]; then
    if ! { python3 -m venv "$venv" && "$venv/bin/pip" install -q "SecantusDB==0.7.0b3"; }; then
        rm -rf "$venv"
        echo "test servers: SecantusDB can't be installed here; tests on MongoDB are skipped, unless MONGO_URI names a server" >&2
    fi
fi

if ! command -v redis-server >/dev/null 2>&1; then
    root=()
    [ "$(id -u)" -eq 0 ] || root=(sudo -n)
    if ! command -v apt-get >/dev/null 2>&1 ||
        ! { ${root[@]+"${root[@]}"} apt-get update -q && ${root[@]+"${root[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends redis-server; }; then
        echo "test servers: redis-server can't be installed here; tests on Redis are skipped" >&2
    fi
fi
exit 0
