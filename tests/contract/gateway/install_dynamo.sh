#!/bin/sh
# Dynamo's frontend and its mocker (simulated engines, which need no GPU) in an environment of
# their own, for test_dynamo.py. --no-deps: ai-dynamo asks for packages that these two do not
# import (a simulator without wheels, Kubernetes' client).
set -eu
home="${XDG_CACHE_HOME:-$HOME/.cache}/lemnos/tests/dynamo-1.6.1"
[ -e "$home/installed" ] && exit 0
root=$(cd "$(dirname "$0")/../../.." && pwd)
mkdir -p "$home"
cd "$home" # where this repository's own pins do not bind
uv() { sh "$root/scripts/uv" "$@"; }
uv venv --quiet --clear --python 3.11 "$home/venv"
uv pip install --quiet --python "$home/venv" --no-deps ai-dynamo==1.6.1 ai-dynamo-runtime==1.6.1
uv pip install --quiet --python "$home/venv" --only-binary :all: \
    aiohttp==3.14.5 msgspec==0.22.0 prometheus-client==0.26.0 pydantic==2.13.5 pyyaml==6.0.3 \
    pyzmq==27.3.0 tqdm==4.70.1 transformers==5.23.0 uvloop==0.23.0 zstandard==0.25.0
touch "$home/installed"
