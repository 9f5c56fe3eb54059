#!/usr/bin/env bash
# Make FOLDER/python, an emulated aarch64 Python with the dependencies of the plain package, on Debian or Ubuntu:
#
#     scripts/aarch64_python.sh FOLDER
#     TRIFOCAL_AARCH64=FOLDER/python pytest -m slow tests/test_emulation.py
#
# Nothing is installed on the system. QEMU names the emulator, qemu-aarch64 by default; that of QEMU 10 works,
# and that of 7.2 crashes while ONNX Runtime is imported.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
qemu=$(command -v "${QEMU:-qemu-aarch64}")
mkdir -p "$1" && cd "$1" && here=$PWD
mkdir -p apt/{state/lists,cache/archives}/partial sysroot site && touch apt/status

apt=(apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o "Dir::State=$here/apt/state"
    -o "Dir::State::status=$here/apt/status" -o "Dir::Cache=$here/apt/cache" -o APT::Sandbox::User=root)
"${apt[@]}" update
"${apt[@]}" install --download-only --yes --no-install-recommends -o APT::Keep-Downloaded-Packages=true python3-minimal libpython3-stdlib libstdc++6
for package in apt/cache/archives/*.deb; do dpkg-deb --extract "$package" sysroot; done

binary=$(echo sysroot/usr/bin/python3.[0-9]*)
version=${binary##*python}
python3 - "$root/pyproject.toml" > requirements.txt <<'END'
import sys, tomllib
with open(sys.argv[1], "rb") as file:
    names = tomllib.load(file)["project"]["dependencies"]
print(*(name for name in names if not name.startswith("constriction")), sep="\n")
END
python3 -m pip install --quiet --upgrade --target site --only-binary=:all: --implementation cp \
    --python-version "$version" --platform=manylinux_2_{28,27,17}_aarch64 --platform=manylinux2014_aarch64 -r requirements.txt

printf '#!/bin/sh\nPYTHONPATH="%s${PYTHONPATH:+:$PYTHONPATH}" exec "%s" -L "%s" "%s" "$@"\n' \
    "$here/site" "$qemu" "$here/sysroot" "$here/$binary" > python
chmod +x python
./python -c 'import onnxruntime, platform; print(platform.machine(), onnxruntime.__version__)'
