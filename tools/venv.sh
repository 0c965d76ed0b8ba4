#!/bin/sh
# Is .venv usable (venv.sh check)? Make it if not (venv.sh make). It is not where it is missing, where
# another PYTHON is asked for than it was made with, and where the folder was moved: the scripts in
# .venv/bin name their interpreter by its whole path.
#
#   venv.sh check|make [PYTHON]      without PYTHON: python3, and any .venv will do
set -eu
python=${2:-python3}

tell() { # the version and the installation of a Python, whatever its age; nothing if it is none
  "$1" -c 'import sys; print("%d.%02d %s" % (sys.version_info[0], sys.version_info[1],
    getattr(sys, "base_prefix", sys.prefix)))' 2> /dev/null || true
}

usable() {
  # The first line of a script, or the second where the path has a space.
  interpreter=$(sed -n '1,2s|^[^/]*\(/.*/bin/python[0-9.]*\).*|\1|p' .venv/bin/pip 2> /dev/null)
  [ -x "$interpreter" ] &&
    { [ -z "${2:-}" ] || [ "$(tell .venv/bin/python)" = "$(tell "$python")" ]; }
}

if usable "$@"; then
  [ "$1" = make ] || echo usable
  exit
fi
[ "$1" = make ] || exit 0
version=$(tell "$python" | cut -d ' ' -f 1 | tr -d .)
if [ "${version:-0}" -lt 311 ]; then
  echo "error: PYTHON=$python: not a Python 3.11 or newer; name one: make PYTHON=<path>" >&2
  exit 1
fi
# Not a Python of the .venv that is about to go.
python=$("$python" -c 'import sys; print(sys._base_executable)')
echo "Making .venv with $python and installing the pinned packages: some minutes."
rm -rf .venv
"$python" -m venv .venv
