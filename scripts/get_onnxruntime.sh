#!/usr/bin/env bash
# Fetches a stock ONNX Runtime and puts its shared libraries into a folder where peft-onnx finds them.
#
#   scripts/get_onnxruntime.sh [cpu|cuda] [FOLDER]
#
# Default: cpu, into .ort in the project's folder, where a program built in target/ finds it; one that is installed looks into
# ~/.local/share/peft-onnx/onnxruntime. Needs Python 3 with pip; Linux (x64, arm64), macOS, or Windows with a Unix shell.
# The package is the official one from pip's package index; nothing is installed. Does nothing if the folder has it already.
set -euo pipefail

kind=${1:-cpu}
folder=${2:-$(cd "$(dirname "$0")/.." && pwd)/.ort}
python=${PYTHON:-python3}

case $kind in
cpu) package=onnxruntime version=1.32.0 ;;
cuda) package=onnxruntime-gpu version=1.31.1 ;;
*)
    echo "usage: $0 [cpu|cuda] [FOLDER]" >&2
    exit 2
    ;;
esac

wanted="$package $version"
if [ "$(cat "$folder/package.txt" 2>/dev/null || true)" = "$wanted" ]; then
    echo "ONNX Runtime: $folder has $wanted already."
    exit 0
fi
"$python" -m pip --version >/dev/null 2>&1 || {
    echo "error: $python has no pip" >&2
    echo "hint: install it (python3 -m ensurepip, or the package python3-pip), or set PYTHON to a Python that has it" >&2
    exit 1
}

mkdir -p "$folder"
work=$(mktemp -d "$folder/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "ONNX Runtime: fetching $wanted ..."
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$work" "$package==$version"

"$python" - "$work" "$folder" "$wanted" <<'PYTHON'
import fnmatch, pathlib, sys, zipfile

work, folder, wanted = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
# The library, its providers and licence; TensorRT's provider is not used.
patterns = ["onnxruntime/capi/libonnxruntime*", "onnxruntime/capi/onnxruntime*.dll", "onnxruntime/LICENSE", "onnxruntime/ThirdPartyNotices.txt"]
(wheel,) = work.glob("*.whl")
for old in folder.glob("*onnxruntime*"):
    old.unlink()
taken = []
with zipfile.ZipFile(wheel) as archive:
    for entry in archive.infolist():
        name = pathlib.PurePosixPath(entry.filename).name
        if "tensorrt" not in name and any(fnmatch.fnmatch(entry.filename, pattern) for pattern in patterns):
            part = work / name
            part.write_bytes(archive.read(entry))
            part.replace(folder / name)
            taken.append(name)
if not any(name.startswith(("libonnxruntime.", "onnxruntime.")) for name in taken):
    sys.exit(f"error: {wheel.name} has no shared library of ONNX Runtime")
part = work / "package.txt"
part.write_text(wanted + "\n")
part.replace(folder / "package.txt")
print("ONNX Runtime: " + ", ".join(sorted(taken)) + f"\nONNX Runtime: {wanted} is in {folder}")
PYTHON

if [ "$kind" = cuda ]; then
    missing=$(ldd "$folder"/libonnxruntime_providers_cuda.so 2>/dev/null | awk '/not found/ { print $1 }' | sort -u | tr '\n' ' ')
    if [ -n "$missing" ]; then
        echo "ONNX Runtime: the CUDA provider still needs: $missing"
        echo "hint: put the folders of the CUDA and cuDNN libraries on LD_LIBRARY_PATH (they are also in the Python packages nvidia-*)"
    fi
fi
