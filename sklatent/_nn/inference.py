"""Calls of a fitted network: in the precision of the samples, with the threads that pay, within the memory there is."""

__all__ = ["evaluate", "halving_out_of_memory", "infer"]

import math
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


def halving_out_of_memory(hook: Callable[..., NDArray[Any]]) -> Callable[..., NDArray[Any]]:
    """A hook that halves a chunk of samples, and all later ones, until the memory of the accelerator holds it.

    One sample that is too large raises torch.OutOfMemoryError.
    """
    largest = math.inf  # number of samples

    def call(*arrays: NDArray[Any]) -> NDArray[Any]:
        nonlocal largest
        n_samples = len(arrays[0])
        half = -(-n_samples // 2)
        if n_samples <= largest:
            try:
                return hook(*arrays)
            except torch.OutOfMemoryError:
                if n_samples == 1:
                    raise
                largest = half
        # Here, where the exception keeps no tensors any more.
        return np.concatenate([call(*(array[cut] for array in arrays)) for cut in (slice(half), slice(half, None))])

    return call


def _float64_twin(module: Autoencoder) -> Autoencoder:
    state = [(tensor.data_ptr(), tensor._version) for tensor in module.state_dict().values()]
    known, twin = _float64_twins.get(module, (None, module))
    if known != state:
        twin = deepcopy(module).double()
        _float64_twins[module] = state, twin
    return twin
