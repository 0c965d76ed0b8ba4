#!/bin/sh
# Check whether .venv is usable, or make it if it is not. It is not if it is missing, if it was made with
# another PYTHON, or if the folder was moved: scripts in .venv/bin name their interpreter by full path.
#
#   venv.sh check|make [PYTHON]      without PYTHON: any .venv is accepted, python3 makes a new one
set -eu
python=${2:-python3}

describe() { # the version and the installation of a Python of any age; nothing if it is none
  "$1" -c 'import sys; print("%d.%02d %s" % (sys.version_info[0], sys.version_info[1],
    getattr(sys, "base_prefix", sys.prefix)))' 2> /dev/null || true
}

usable() {
  # The first line of a script, or the second if the path has a space.
  interpreter=$(sed -n '1,2s|^[^/]*\(/.*/bin/python[0-9.]*\).*|\1|p' .venv/bin/pip 2> /dev/null)
  [ -x "$interpreter" ] &&
    { [ -z "${2:-}" ] || [ "$(describe .venv/bin/python)" = "$(describe "$python")" ]; }
}

if usable "$@"; then
  [ "$1" = make ] || echo usable
  exit
fi
[ "$1" = make ] || exit 0
version=$(describe "$python" | cut -d ' ' -f 1 | tr -d .)
if [ "${version:-0}" -lt 311 ]; then
  echo "error: PYTHON=$python: not a Python 3.11 or newer; name one: make install PYTHON=<path>" >&2
  exit 1
fi
# The base interpreter, since $python may be in the .venv that is removed below.
python=$("$python" -c 'import sys; print(sys._base_executable)')
echo "Making .venv with $python and installing the pinned packages: some minutes."
rm -rf .venv
"$python" -m venv .venv
