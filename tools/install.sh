#!/bin/sh
# Install the pins of a requirements file into the current folder's .venv, which is made if missing:
# install.sh FILE [PYTHON]
set -eu
tools=$(dirname "$0")
. "$tools/folder_lock.sh"
lock_folder 'make install' "$tools"

sh "$tools/venv.sh" make "${2:-}"
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$1"
sh "$tools/site_cache.sh"
