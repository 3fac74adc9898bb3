"""Libraries that stand in for CUDA and cuDNN on a machine without a GPU, made for the CUDA provider of an ONNX Runtime that is at hand.

    python scripts/lib/cuda_stub.py CAPI_FOLDER FOLDER      CAPI_FOLDER: onnxruntime/capi of the package onnxruntime-gpu

With FOLDER on LD_LIBRARY_PATH the provider loads, and opens and runs sessions whose kernels do nothing (cuda_stub.c says what is real of it). Nothing that is seen so ran on a GPU.
Needs gcc, nm and readelf. What the provider calls is read from the provider: functions that cuda_stub.c and cuda_stub_cudnn.c do not have are written here, and do nothing.
"""
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
OURS = re.compile(r"^(__)?cu(da|blas|dnn|rand|TensorMap|[A-Z])\w*$")


def told(*command):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


def called(provider):
    """The functions of CUDA that the provider is linked against."""
    names = (line.split()[-1].split("@")[0] for line in told("nm", "-D", "--undefined-only", provider).splitlines())
    return sorted({name for name in names if OURS.match(name)})


def looked_up(provider):
    """The functions of cuDNN that the provider looks up by name when it loads that library."""
    return sorted({name.decode() for name in re.findall(rb"\0(cudnn[A-Z]\w+)(?=\0)", provider.read_bytes())})


def needed(provider, named=r"libcu\w+\.so\.\d+"):
    """The libraries that a provider names, of CUDA or other names; the runtime first."""
    libraries = re.findall(rf"\(NEEDED\).*\[({named})\]", told("readelf", "-d", provider))
    return sorted(libraries, key=lambda name: not name.startswith("libcudart"))


def nothing(name):
    """A function that does nothing; one that makes a thing says where it would be."""
    if "Create" in name and name != "cudnnBackendCreateDescriptor":
        return f"long {name}(void **made) {{ *made = calloc(1, 4096); return 0; }}\n"
    return f"long {name}(void) {{ return 0; }}\n"


def library(folder, name, source, functions, *more):
    """One library: a source and functions that do nothing, those that the source has left out."""
    built = folder / f"{name}.o"
    subprocess.run(["gcc", "-c", "-fPIC", "-O1", "-o", built, source], check=True)
    have = {line.split()[-1] for line in told("nm", "--defined-only", built).splitlines()}
    rest = folder / f"{name}.c"
    rest.write_text("#include <stdlib.h>\n" + "".join(nothing(function) for function in functions if function not in have))
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", f"-Wl,-soname,{name}", "-o", folder / name, built, rest, *more], check=True)
    built.unlink()
    rest.unlink()


def build(capi, folder):
    """Writes the libraries into a folder, and gives it."""
    provider = pathlib.Path(capi) / "libonnxruntime_providers_cuda.so"
    folder = pathlib.Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    runtime, *others = needed(provider)
    library(folder, runtime, HERE / "cuda_stub.c", called(provider))
    # The provider finds every function in the first.
    for name in others:
        subprocess.run(["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", folder / name, "-x", "c", "/dev/null"], check=True)
    library(folder, "libcudnn.so.9", HERE / "cuda_stub_cudnn.c", looked_up(provider), f"-L{folder}", f"-l:{runtime}")
    tensorrt = pathlib.Path(capi) / "libonnxruntime_providers_tensorrt.so"
    for name in needed(tensorrt, r"libnv\w+\.so\.\d+") if tensorrt.exists() else []:
        library(folder, name, HERE / "cuda_stub_tensorrt.c", ["getInferLibVersion"])
    return folder


if __name__ == "__main__":
    print(build(*sys.argv[1:]))
