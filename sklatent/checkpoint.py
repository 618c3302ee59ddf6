"""Checkpoints: the state of a training in one file, replaced as a whole and holding no code."""

__all__ = ["Checkpoint", "fingerprint", "load", "save"]

import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch.callbacks import Callback
from skorch.net import NeuralNet
from torch import Tensor

# State of skorch's early stopping beside its weights.
EARLY_STOPPING = ("misses_", "dynamic_threshold_", "best_epoch_")


class Checkpoint(Callback):
    """Write the state of a net after each epoch, and put it back when training begins.

    Parameters
    ----------
    path : str or Path
    header : dict
        What the file must agree with: numbers and strings.
    early_stopping : EarlyStopping or None
        Whose state is a part of that of the training.
    """

    def __init__(self, path: Any, header: dict[str, Any], early_stopping: Any = None):
        self.path = path
        self.header = header
        self.early_stopping = early_stopping

    def on_train_begin(self, net: NeuralNet, **kwargs: Any) -> None:
        """Go on from the file, where there is one."""
        if not Path(self.path).exists():
            return
        state = load(self.path)
        net.load_state(state)
        if self.early_stopping is not None:
            vars(self.early_stopping).update(state["early_stopping"])
            self.early_stopping.best_model_weights_ = state.get("best")

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """Replace the file."""
        state = {"header": self.header, **net.state()}
        if self.early_stopping is not None:
            state["early_stopping"] = {name: getattr(self.early_stopping, name) for name in EARLY_STOPPING}
            state["best"] = self.early_stopping.best_model_weights_
        save(self.path, state)


def save(path: Any, state: dict[str, Any]) -> None:
    """Write a nested dict of tensors and of what JSON holds; after a crash the file is the old or the new one.

    Raises
    ------
    OSError
        Where the disk is full or the folder cannot be written to; the old file stays as it was.
    """
    path = Path(path)
    leaves = dict(_flatten(state))
    arrays: dict[str, Any] = {name: leaf.cpu().numpy() for name, leaf in leaves.items() if isinstance(leaf, Tensor)}
    arrays["json"] = np.array(json.dumps({name: leaf for name, leaf in leaves.items() if name not in arrays}))
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    draft = path.with_name(path.name + ".tmp")
    try:
        with draft.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)  # the new name is on the disk when its folder is
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load(path: Any) -> dict[str, Any]:
    """What `save` wrote.

    Raises
    ------
    ValueError
        Where the file is not a checkpoint.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            leaves = json.loads(str(file["json"])) | {
                name: torch.from_numpy(file[name]) for name in file.files if name != "json"
            }
    except (ValueError, KeyError, EOFError, OSError) as error:
        raise ValueError(f"checkpoint={str(path)!r} must be a file that sklatent wrote: {error}") from error
    return _nest(leaves)


def fingerprint(blocks: Iterable[NDArray], params: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, str]:
    """What tells one fit from another: its rows, its parameters, and the weights that it starts with."""
    named = {name: getattr(value, "__qualname__", repr(value)) for name, value in sorted(params.items())}
    start = (weight.cpu().numpy() for weight in weights.values())
    return {"data": _digest(blocks), "parameters": json.dumps(named), "first weights": _digest(start)}


def _digest(arrays: Iterable[NDArray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _flatten(state: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in state.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def _nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for path, value in leaves.items():
        *folders, name = path.split("/")
        inner = state
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[name] = value
    return state
