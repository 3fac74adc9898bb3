"""Fine-tune any ONNX transformer: adapters of Hugging Face PEFT's methods, trained on a stock ONNX Runtime."""

from __future__ import annotations

import importlib.util
import os
import pathlib

from ._native import Bundle, Error, Model, Step, Trainer, __version__, inject, merge, methods

__all__ = ["Bundle", "Error", "Model", "Step", "Trainer", "__version__", "inject", "merge", "methods"]


def _library() -> None:
    """Names the library of the package onnxruntime of this very Python, unless another one is named."""
    package = importlib.util.find_spec("onnxruntime")
    if "ORT_DYLIB_PATH" in os.environ or package is None or package.origin is None:
        return
    folder = pathlib.Path(package.origin).parent / "capi"
    if any(folder.glob("*onnxruntime*")):
        os.environ["ORT_DYLIB_PATH"] = str(folder)


_library()
