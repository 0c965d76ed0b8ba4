#!/bin/sh
# Make FOLDER/python, a Python of Debian 12 for Arm64 under QEMU: `sh tests/pipeline/arm64.sh FOLDER`
#
# On Debian 12, without root: all files are in FOLDER, 6 GB. `PROCESSOR=neoverse-v1 FOLDER/python ...`
# chooses the processor that QEMU emulates. QEMU is that of the backports, since Debian 12's own crashes
# when torch is imported; and torch's only wheel for Arm64 on PyPI does not start without CUDA's packages.
set -eu

mkdir -p "$1"
folder=$(cd "$1" && pwd)
rm -rf "$folder/root" "$folder/emulator" "$folder/packages" "$folder"/apt-*
repository=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' \
  'Codename: bookworm' | head -n 1)
[ "$repository" ] || {
  echo 'error: make arm64 needs apt and the packages of Debian 12' >&2
  exit 1
}

# Unpacks packages and all that they depend on: FOLDER ARCHITECTURE RELEASE PACKAGE...
unpack() {
  root=$1
  shift
  apt=$folder/apt-$1
  mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$root"
  : > "$apt/status"
  for release in bookworm "$2"; do
    echo "deb $repository $release main"
  done | sort -u > "$apt/sources.list"
  cat > "$apt/apt.conf" << END
APT::Architecture "$1";
APT::Architectures { "$1"; };
Dir::State::lists "$apt/lists";
Dir::State::status "$apt/status";
Dir::Cache "$apt";
Dir::Cache::archives "$apt/archives";
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "-";
Debug::NoLocking "true";
END
  export APT_CONFIG="$apt/apt.conf"
  apt-get update --quiet=2
  release=$2
  shift 2
  apt-get install --quiet=2 --yes --no-install-recommends --download-only --target-release "$release" \
    "$@" > /dev/null
  for package in "$apt"/archives/*.deb; do
    dpkg -x "$package" "$root"
  done
  unset APT_CONFIG
}

unpack "$folder/root" arm64 bookworm python3.11 libstdc++6 media-types
unpack "$folder/emulator" "$(dpkg --print-architecture)" bookworm-backports qemu-user

# The stages' packages, and those that tests/pipeline/digests.py imports.
platforms=$(seq --format '--platform manylinux_2_%g_aarch64' 28 -1 17)
grep -hE '^(pyyaml|pytest|iniconfig|pluggy)==' requirements.txt requirements-dev.txt > "$folder/more.txt"
python -m pip install --quiet --target "$folder/packages" --only-binary :all: \
  --implementation cp --python-version 3.11 --abi cp311 --abi abi3 --abi none \
  $platforms --platform manylinux2014_aarch64 --platform any \
  -r stages/requirements.txt -r "$folder/more.txt"

cat > "$folder/python" << END
#!/bin/sh
PYTHONPATH='$folder/packages' exec '$folder/emulator/usr/bin/qemu-aarch64' \\
  -cpu "\${PROCESSOR:-cortex-a72}" -L '$folder/root' '$folder/root/usr/bin/python3.11' "\$@"
END
chmod +x "$folder/python"
