"""The state of a network as NumPy arrays, for pickle, joblib and skops, and the checks when it is loaded."""

__all__ = [
    "PickledModule",
    "adopt",
    "load_arrays",
    "load_history",
    "load_standardizer",
    "load_training_state",
    "module_arrays",
    "pack_history",
    "to_arrays",
]

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklatent._base import check_loaded_array
from sklatent._nn.likelihoods import Standardizer
from sklatent._nn.modules import Autoencoder
from sklatent._nn.priors import Normal

# Least values of arrays, by the last part of their names: scales are positive, and variances not negative.
SMALLEST = float(np.nextafter(0.0, 1.0))
LEAST = {"scale": SMALLEST, "scale32": SMALLEST, "variances": 0.0, "running_var": 0.0, "exp_avg_sq": 0.0, "step": 0.0}
STANDARDIZER = ("loc", "scale", "variances")
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
GENERATORS = ("order", "noise", "layers")
# Types that JSON keeps to the bit.
PLAIN = (bool, int, float, str, type(None))


class PickledModule:
    """A module with layers that a user has written, in a state. They are code, so nothing but pickle can keep them."""

    def __init__(self, module: Autoencoder):
        self.module = module

    def __reduce_ex__(self, protocol: Any) -> Any:
        return PickledModule, (self.module,)

    def __reduce__(self) -> Any:  # which skops calls, and pickle does not
        raise TypeError(
            "An estimator with a callable backbone can only be written by pickle or joblib: its networks are code of "
            "your own, which a file without code cannot contain. Use backbone='mlp' or backbone='conv', or joblib.dump."
        )


def module_arrays(module: Autoencoder) -> dict[str, Any]:
    """Everything that a module has learned: its standardizer, the other arrays by their names, and what was missing."""
    standardizer = {name: getattr(module.standardizer, name) for name in STANDARDIZER}
    return {
        "standardizer": to_arrays(standardizer),
        "arrays": to_arrays(_tensors(module)),
        "has_missing": module.likelihood.has_missing,
        "sees_missing": module.sees_missing,
    }


def adopt(module: Autoencoder, former: Autoencoder) -> None:
    """Copy the weights of a previous module into a new one, and the centre and scale of the features."""
    state = former.state_dict()
    try:
        module.load_state_dict({name: state[name] for name in module.state_dict()})
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            "Cannot reuse the previous weights: an architecture parameter or the number of features changed. Set "
            f"warm_start=False and call fit. {error}"
        ) from error


def to_arrays(value: Any) -> Any:
    """Nested dicts with arrays in place of tensors. The arrays of tensors on the CPU share their memory."""
    if isinstance(value, Mapping):
        return {name: to_arrays(part) for name, part in value.items()}
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value


def pack_history(history: Sequence[Mapping[str, Any]]) -> Any:
    """Records of epochs as one text, since skops takes 200 bytes for each number that is by itself.

    The names are written once where they are those of several records. What is not numbers and text, which a callback
    may have recorded, stays as it is.
    """
    if not all(isinstance(value, PLAIN) for epoch in history for value in epoch.values()):
        return history
    names = list(dict.fromkeys(map(tuple, history)))
    return json.dumps([names, [[names.index(tuple(epoch)), *epoch.values()] for epoch in history]])


def load_history(packed: Any, n_epochs: int) -> list[dict[str, Any]]:
    """What `pack_history` was given. Raise ValueError unless it has the records of so many epochs."""
    history = packed
    if isinstance(packed, str):
        names, epochs = json.loads(packed)
        history = [dict(zip(names[number], values, strict=True)) for number, *values in epochs]
    if len(history) != n_epochs:
        raise ValueError(f"history_ must have n_iter_={n_epochs} records, got {len(history)}.")
    return history


def load_standardizer(arrays: Mapping[str, Any], n_features: int, has_scales: bool) -> Standardizer:
    """The standardizer from its arrays.

    Raises
    ------
    ValueError
        If the arrays are not those of n_features features, with a scale for each if `has_scales`.
    """
    _check_names("standardizer", arrays, STANDARDIZER)
    shapes = {"loc": (n_features,), "scale": (n_features,) if has_scales else (), "variances": (n_features,)}
    for name, shape in shapes.items():
        _check(f"standardizer.{name}", arrays[name], shape, np.dtype(np.float64))
    return Standardizer(*(_tensor(arrays[name]) for name in STANDARDIZER))  # type: ignore[arg-type]


def load_arrays(module: Autoencoder, arrays: Mapping[str, Any]) -> None:
    """Put arrays into a module whose weights are on the meta device, or in place of those that it has.

    Raises
    ------
    ValueError
        If a name, a shape, a type or a value is not that of such a module. Then nothing was allocated.
    """
    expected = _tensors(module)
    _check_names("module_", arrays, expected)
    for name, like in expected.items():
        _check(name, arrays[name], like.shape, _dtype(like))
    module.load_state_dict({name: _tensor(arrays[name]) for name in expected}, strict=False, assign=True)
    if isinstance(module.prior, Normal) and torch.linalg.cholesky_ex(module.prior.covariance).info != 0:
        raise ValueError("prior.covariance must be positive definite.")


def load_training_state(state: Mapping[str, Any], module: Autoencoder) -> dict[str, Any]:
    """What `partial_fit` goes on from, with tensors in place of arrays.

    Raises
    ------
    ValueError
        If the moments of the optimizer or the generators are not those of a training of this module.
    """
    _check_names("training state", state, ("optimizer", "generators", "step", "likelihood"))
    parameters = dict(module.named_parameters())
    ordered = [parameters[name] for group in module.parameter_groups() for name in group.names]
    _check_names("optimizer", set(state["optimizer"]) | set(range(len(ordered))), range(len(ordered)))
    for number, moments in state["optimizer"].items():  # a parameter without a gradient has none
        _check_names(f"optimizer.{number}", moments, MOMENTS)
        for name, array in moments.items():
            shape = () if name == "step" else ordered[number].shape
            _check(f"optimizer.{number}.{name}", array, shape, np.dtype(np.float32))
    _check_names("generators", {*state["generators"], "layers"}, GENERATORS)  # layers may have none
    for name, array in state["generators"].items():
        _check_generator(name, array)
    likelihood = module.likelihood.state_dict()
    _check_names("likelihood", state["likelihood"], likelihood)
    for name, like in likelihood.items():
        _check(f"likelihood.{name}", state["likelihood"][name], like.shape, _dtype(like))
    return _to_tensors(state)


def _tensors(module: Autoencoder) -> dict[str, Tensor]:
    """The parameters and buffers of a module by their names, but for its standardizer, which likelihoods share."""
    shared = set(map(id, module.standardizer.state_dict(keep_vars=True).values()))
    return {name: tensor for name, tensor in module.state_dict(keep_vars=True).items() if id(tensor) not in shared}


def _to_tensors(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _to_tensors(part) for name, part in value.items()}
    return _tensor(value) if isinstance(value, np.ndarray) else value


def _tensor(array: Any) -> Tensor:
    """A copy on the CPU, whatever PyTorch's default device is."""
    return torch.tensor(array, device="cpu")


def _check(name: str, array: Any, shape: Any, dtype: np.dtype) -> None:
    check_loaded_array(name, array, shape, [dtype], least=LEAST.get(name.rpartition(".")[2], -np.inf))


def _check_names(owner: str, found: Any, expected: Any) -> None:
    names = set(found)
    if names != set(expected):
        missing, unknown = sorted(set(expected) - names), sorted(map(str, names - set(expected)))
        raise ValueError(f"The entries of {owner} do not fit: missing {missing}, unknown {unknown}.")


def _check_generator(name: str, array: Any) -> None:
    """Raise ValueError unless an array may be the state of a generator, on whatever device."""
    check_loaded_array(f"generators.{name}", array, np.shape(array)[:1], [np.dtype(np.uint8)])
    generator = torch.Generator()
    if len(array) == len(generator.get_state()):  # on the CPU
        try:
            generator.set_state(_tensor(array))
        except RuntimeError as error:
            raise ValueError(f"generators.{name} must be the state of a generator: {error}") from error


def _dtype(tensor: Tensor) -> np.dtype:
    return torch.empty(0, dtype=tensor.dtype, device="cpu").numpy().dtype
