"""Fine-tune any ONNX transformer: adapters of Hugging Face PEFT's methods, trained on a stock ONNX Runtime."""

from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from typing import Any, final

import numpy as np
import numpy.typing as npt

__version__: str

class Error(Exception):
    """What went wrong, where, and what to do about it."""

    hint: str | None

@final
class Model:
    """An ONNX model, read and recognised. It never changes."""

    @staticmethod
    def open(path: str | PathLike[str]) -> Model:
        """Opens a file, or the model in a folder."""
    @staticmethod
    def from_bytes(data: bytes) -> Model:
        """A model of the bytes of its file, with all weights inside."""
    @property
    def inputs(self) -> list[str]:
        """Names of the inputs."""
    @property
    def outputs(self) -> list[str]:
        """Names of the outputs."""
    @property
    def modules(self) -> list[str]:
        """Paths of the projections that adapters can attach to, as Hugging Face names them."""

@final
class Bundle:
    """A model with an adapter in it, in memory."""

    @property
    def method(self) -> str:
        """The method: `lora`."""
    @property
    def task(self) -> str:
        """What it is trained for: `causal-lm`."""
    @property
    def inputs(self) -> list[str]:
        """What a batch must have, or may have: the model's data inputs, and those of the loss, such as `labels`."""
    @property
    def trainable_count(self) -> int:
        """How many numbers are trained."""
    @property
    def manifest(self) -> dict[str, Any]:
        """Everything that is known of it: graphs with their inputs and outputs, the layout of the trainable vector."""
    def adapter(self) -> dict[str, npt.NDArray[np.float32]]:
        """The adapter's tensors, under PEFT's names."""
    def save_adapter(self, folder: str | PathLike[str]) -> None:
        """Writes `adapter_config.json` and `adapter_model.safetensors`."""

def inject(
    model: Model,
    *,
    method: str = "lora",
    adapter: str | PathLike[str] | None = None,
    task: str | None = None,
    rank: int | None = None,
    alpha: float | None = None,
    dropout: float | None = None,
    target_modules: str | Iterable[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 42,
) -> Bundle:
    """Puts an adapter into a model: a fresh one of a method, or that of a PEFT folder (`adapter`).

    `settings` takes any field of the method's `adapter_config.json`, under PEFT's name.
    """

def merge(bundle: Bundle, path: str | PathLike[str] | None = None) -> bytes | None:
    """Folds the adapter into the weights. Writes the model to `path`, or gives its bytes if there is none."""

def methods() -> list[str]:
    """The names of all methods."""

@final
class Step:
    """What a step found."""

    number: int
    loss: float
    grad_norm: float
    is_updated: bool

@final
class Trainer:
    """Trains the adapter of a bundle with AdamW, a batch at a time."""

    learning_rate: float

    def __new__(
        cls,
        bundle: Bundle,
        *,
        learning_rate: float = 2e-4,
        weight_decay: float = 0.0,
        adam_beta1: float = 0.9,
        adam_beta2: float = 0.999,
        adam_epsilon: float = 1e-8,
        max_grad_norm: float | None = ...,
        seed: int = 42,
        device: str = "cpu",
        threads: int | None = None,
        callbacks: Iterable[Callable[[Trainer, Step], bool | None]] | None = None,
    ) -> Trainer: ...
    def step(self, batch: Mapping[str, npt.NDArray[Any]]) -> Step:
        """Takes a step over a batch of arrays by the names of the inputs; integers and floats of any width.

        Each callback is called with the trainer and the step behind it.
        """
    def train(self, batches: Iterable[Mapping[str, npt.NDArray[Any]]]) -> list[Step]:
        """Takes a step over each batch, until there are no more or a callback gives `False`."""
    def adapter(self) -> dict[str, npt.NDArray[np.float32]]:
        """The adapter's tensors as they are now, under PEFT's names."""
    def bundle(self) -> Bundle:
        """The bundle with the adapter as it is now: merged, saved, or trained on."""
    def save(self, folder: str | PathLike[str]) -> None:
        """Writes the adapter as it is now, as PEFT's files."""
