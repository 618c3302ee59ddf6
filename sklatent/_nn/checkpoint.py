"""Checkpoints: the state of a training in one file without code, which is replaced atomically."""

__all__ = ["Checkpoint", "fingerprint", "load", "read_by_first", "read_header", "save"]

import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch.callbacks import Callback
from skorch.net import NeuralNet
from torch import Tensor

from sklatent._nn.distributed import ALONE, SingleProcess
from sklatent._nn.randomness import SEEDS

# State of skorch's early stopping, in addition to the best weights.
EARLY_STOPPING = ("misses_", "dynamic_threshold_", "best_epoch_")


class Checkpoint(Callback):
    """Save the state of a net after each epoch, and restore it when training begins.

    Parameters
    ----------
    path : str or Path
    header : dict
        Numbers and strings that identify the fit.
    early_stopping : EarlyStopping or None
        Callback whose state is saved as well.
    processes : SingleProcess or DataParallel, default=SingleProcess()
        The first one writes the file, and reads it for all.

    Raises
    ------
    ValueError
        If the file exists and belongs to another fit.
    """

    def __init__(self, path: Any, header: dict[str, Any], early_stopping: Any = None, processes: SingleProcess = ALONE):
        self.processes = processes
        self.path = path
        self.header = header
        self.early_stopping = early_stopping
        found = read_by_first(read_header, path, processes)
        differences = [] if found is None else [name for name in header if header[name] != found.get(name)]
        if differences:
            raise ValueError(
                f"checkpoint={str(path)!r} belongs to another fit: its {' and '.join(differences)} are not those of "
                "this one. Remove it, or pass another path."
            )

    def on_train_begin(self, net: NeuralNet, **kwargs: Any) -> None:
        """Resume from the file if it exists.

        Raises
        ------
        ValueError
            If the file does not contain the state of a training of this net.
        """
        state = read_by_first(load, self.path, self.processes)
        if state is None:
            return
        try:
            self._check(net, state)
            net.load_state(state)
            _ = net.history[:, "train_loss"]
        except Exception as error:  # a file with wrong contents can cause any error
            raise _invalid(self.path, error) from error
        if self.early_stopping is not None:
            vars(self.early_stopping).update(state["early_stopping"])
            self.early_stopping.best_model_weights_ = state["best"]

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """Replace the file by one with the current state."""
        if self.processes.rank == 0:
            save(self.path, self._state(net))

    def _state(self, net: NeuralNet) -> dict[str, Any]:
        state = {"header": self.header, **net.state()}
        if self.early_stopping is not None:
            state["early_stopping"] = {name: getattr(self.early_stopping, name) for name in EARLY_STOPPING}
            state["best"] = self.early_stopping.best_model_weights_
        return state

    def _check(self, net: NeuralNet, state: dict[str, Any]) -> None:
        """Raise ValueError unless the state has the names, types and shapes of the state of this net."""
        like = self._state(net)
        parameters = (parameter for group in net.optimizer_.param_groups for parameter in group["params"])
        like["optimizer"] = {
            number: {"step": torch.tensor(0.0, device="cpu"), "exp_avg": parameter, "exp_avg_sq": parameter}
            for number, parameter in enumerate(parameters)
            if str(number) in state["optimizer"]  # a parameter without a gradient has no moments
        }
        if state.get("best"):
            like["best"] = net.module_.state_dict()
        found = _leaf_types(state)
        misfits = [name for name, kind in _leaf_types(like).items() if found.get(name) != kind]
        if misfits:
            raise ValueError(f"these entries do not fit this network: {', '.join(misfits)}")


def save(path: Any, state: dict[str, Any]) -> None:
    """Write a nested dict of tensors and JSON values. After a crash the file is either the old or the new one.

    Raises
    ------
    OSError
        If the disk is full or the folder is not writable. The old file is unchanged.
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
    folder = os.open(path.parent, os.O_RDONLY)  # the new name is on disk once the folder is
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load(path: Any) -> dict[str, Any]:
    """Read a nested dict that `save` wrote.

    Raises
    ------
    ValueError
        If the file is not a checkpoint or is damaged.
    """
    try:
        with Path(path).open("rb") as data, np.load(data, allow_pickle=False) as file:  # np.load may leave it open
            leaves = json.loads(str(file["json"])) | {
                name: torch.from_numpy(file[name]) for name in file.files if name != "json"
            }
        return _nest(leaves)
    except Exception as error:  # zip, zlib, NumPy and JSON raise different errors for damaged files
        raise _invalid(path, error) from error


def read_by_first(read: Callable[[Any], dict[str, Any]], path: Any, processes: SingleProcess) -> dict[str, Any] | None:
    """What `load` or `read_header` finds, the same in all processes; None if there is no file."""
    is_found = processes.rank == 0 and Path(path).exists()
    found: dict[str, Any] | None = processes.from_first(read(path) if is_found else None)
    return found


def read_header(path: Any) -> dict[str, Any]:
    """Read the header of a checkpoint: strings that identify its fit, and under "seeds" the random seeds of `SEEDS`.

    Raises
    ------
    ValueError
        If the file is not a checkpoint or is damaged.
    """
    header = load(path).get("header")
    seeds = header.get("seeds") if isinstance(header, dict) else None
    if header is None or not (isinstance(seeds, dict) and all(isinstance(seeds.get(name), int) for name in SEEDS)):
        raise _invalid(path, "it has no header")
    return header


def fingerprint(
    blocks: Iterable[NDArray[Any]], params: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> dict[str, str]:
    """Strings that identify a fit: digests of its data and its initial weights, and its parameters."""
    named = {name: _describe(value) for name, value in sorted(params.items())}
    start = (weight.cpu().numpy() for weight in weights.values())
    return {"data": _digest(blocks), "parameters": json.dumps(named), "first weights": _digest(start)}


def _invalid(path: Any, reason: Any) -> ValueError:
    return ValueError(f"checkpoint={str(path)!r} must be a file that sklatent wrote: {reason}")


def _leaf_types(state: Mapping[str, Any]) -> dict[str, Any]:
    """Precision and shape of each tensor of a nested dict, and the type of each other value."""
    return {
        name: (leaf.dtype, leaf.shape) if isinstance(leaf, Tensor) else type(leaf) for name, leaf in _flatten(state)
    }


def _describe(value: Any, within: tuple[int, ...] = ()) -> Any:
    """The content of a parameter as JSON values, the same in every process. (`repr` may contain an address.)"""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, (str, int, float)):
        return value
    if id(value) in within:  # for example, a function that refers to itself
        return within.index(id(value))
    parts = next((parts for kind, parts in PARTS.items() if isinstance(value, kind)), _parts_of_an_object)
    described = [_describe(part, (*within, id(value))) for part in parts(value)]
    if isinstance(value, (Mapping, Set)):  # their order may differ between processes
        described.sort(key=json.dumps)
    return [_name(type(value)), *described]


def _parts_of_an_object(value: Any) -> list[Any]:
    """Attributes of an object, or its `repr` without addresses if it has none, and its method `__call__`."""
    state = object.__getstate__(value)
    return [re.sub("0x[0-9a-fA-F]+", "", repr(value)) if state is None else state, vars(type(value)).get("__call__")]


def _parts_of_a_function(function: FunctionType) -> list[Any]:
    """Name and code of a function, and everything that is bound to it."""
    bound = [function.__defaults__, function.__kwdefaults__, function.__closure__, vars(function)]
    return [_name(function), function.__code__, *bound]


def _parts_of_a_cell(cell: CellType) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:  # empty
        return []


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', None)}.{getattr(value, '__qualname__', value)}"


# The parts by which two objects of a type differ. The first type that matches is used.
PARTS: dict[Any, Callable[[Any], Iterable[Any]]] = {
    Tensor: lambda tensor: [str(tensor.dtype), tensor.detach().cpu().tolist()],
    np.ndarray: lambda array: [array.dtype.str, array.tolist()],
    Mapping: lambda mapping: mapping.items(),
    (list, tuple, Set): iter,
    bytes: lambda data: [data.hex()],
    os.PathLike: lambda path: [os.fspath(path)],
    partial: lambda call: [call.func, call.args, call.keywords],
    MethodType: lambda method: [method.__func__, method.__self__],
    FunctionType: _parts_of_a_function,
    CellType: _parts_of_a_cell,
    CodeType: lambda code: [code.co_code, code.co_consts, code.co_names],
    type: lambda cls: [_name(cls)],
    ModuleType: lambda module: [module.__name__],
    np.ufunc: lambda ufunc: [_name(ufunc)],  # its attributes are notes of whoever has inspected it
    BuiltinFunctionType: lambda function: [_name(function), function.__self__],
}


def _digest(arrays: Iterable[NDArray[Any]]) -> str:
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
