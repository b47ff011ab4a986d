#!/usr/bin/env bash
# Installs the official openai package into a virtual environment beside the build and runs the check with it.
set -euo pipefail
cd "$(dirname "$0")/.."
environment="${CARGO_TARGET_DIR:-target}/client-check"

if [ ! -x "$environment/bin/python" ]; then
    # Where Debian's venv module lacks ensurepip, the system's pip installs into the new environment.
    python3 -m venv "$environment" 2>/dev/null || python3 -m venv --without-pip "$environment"
fi
if ! "$environment/bin/python" -c 'import openai' 2>/dev/null; then
    python3 -m pip --python "$environment/bin/python" install --quiet --disable-pip-version-check openai
fi
"$environment/bin/python" scripts/openai_client_check.py
exec "$environment/bin/python" scripts/multimodal_check.py
