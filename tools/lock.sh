#!/bin/sh
# Write the lock files: each pin with the SHA-256 of all files that PyPI has of that version.
#
# The pins are complete and exact, so nothing is resolved. uv reads none of the user's settings, so that
# the name of a private index gets into no lock file.
set -eu

lock() { # its name, and the requirements files that it locks
  name=$1
  shift
  cat << END > "$name.tmp"
# The pins of $(echo "$*" | sed 's/ / and /'),
# each with the SHA-256 of all its files on PyPI. No stage depends on this file; \`make lock\` writes it.
# How to install by it: docs/supply-chain.md
#
# torch and torchvision are in no lock file: each version has two builds, PyPI's with CUDA (and some
# gigabytes of NVIDIA's packages), and one without on PyTorch's own index. You choose one.

END
  cat "$@" | grep -Ev '^(-r|torch==|torchvision==)' |
    uv pip compile - --quiet --no-config --universal --no-deps --generate-hashes --no-annotate \
      --no-header --python-version 3.11 --default-index https://pypi.org/simple >> "$name.tmp"
  mv "$name.tmp" "$name"
}

lock requirements.lock stages/requirements.txt requirements.txt
lock requirements-dev.lock requirements-dev.txt
