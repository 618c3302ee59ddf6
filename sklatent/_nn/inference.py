"""Calls of a fitted network: in the precision of the samples, with the threads that pay, within the memory there is."""

__all__ = ["evaluate", "halve_out_of_memory", "infer"]

from collections.abc import Callable
from copy import deepcopy
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from sklatent._nn.data import as_tensor
from sklatent._nn.modules import Autoencoder
from sklatent._nn.threads import limited_threads, product_size

# Float64 copies of fitted modules, each with the state of the weights that it was made from. A copy is made for the
# first float64 input and dropped with the module. The copies are kept here, since `transform` must not set attributes.
_float64_twins: WeakKeyDictionary[Autoencoder, tuple[list[tuple[int, int]], Autoencoder]] = WeakKeyDictionary()


def infer(module: Autoencoder, function: Callable[..., torch.Tensor], *arrays: NDArray[Any]) -> NDArray[Any]:
    """Call function(module, *tensors) as `evaluate` does, with the threads that pay.

    For functions with linear algebra for each sample, which uses all threads however small the matrices are. A forward
    pass on few samples uses one thread by PyTorch's own rules, and would be slowed down by setting the number.
    """
    with limited_threads(product_size(module, len(arrays[0])), module.standardizer.loc.device):
        return evaluate(module, function, *arrays)


def evaluate(module: Autoencoder, function: Callable[..., torch.Tensor], *arrays: NDArray[Any]) -> NDArray[Any]:
    """Call function(module, *tensors) in the precision of the arrays, of which the first may have missing values."""
    module = _float64_twin(module) if arrays[0].dtype == np.float64 else module
    module = module.observing(bool(np.isnan(arrays[0]).any()))
    device = module.standardizer.loc.device
    with torch.no_grad():
        return function(module, *(as_tensor(array).to(device) for array in arrays)).cpu().numpy()


def halve_out_of_memory(hook: Callable[..., NDArray[Any]], *arrays: NDArray[Any]) -> NDArray[Any]:
    """Call a hook, on halves of the samples (recursively) if the memory of the accelerator is too small for all."""
    n_samples = len(arrays[0])
    try:
        return hook(*arrays)
    except torch.OutOfMemoryError:
        if n_samples == 1:
            raise
    halves = slice(n_samples // 2), slice(n_samples // 2, None)
    return np.concatenate([halve_out_of_memory(hook, *(array[half] for array in arrays)) for half in halves])


def _float64_twin(module: Autoencoder) -> Autoencoder:
    state = [(tensor.data_ptr(), tensor._version) for tensor in module.state_dict().values()]
    known, twin = _float64_twins.get(module, (None, module))
    if known != state:
        twin = deepcopy(module).double()
        _float64_twins[module] = state, twin
    return twin
