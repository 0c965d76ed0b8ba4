#!/bin/sh
# Install what a requirements file pins into .venv, which is made if need be: install.sh FILE [PYTHON]
set -eu
. tools/alone.sh
alone 'make install' tools

sh tools/venv.sh make "${2:-}"
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$1"
sh tools/site_cache.sh
