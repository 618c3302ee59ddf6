"""Fits of many models at once: networks as one stack, principal components from one spectrum."""

__all__ = ["DeferredFit", "fingerprint", "fit_together", "settings"]

import math
import os
import time
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from sklatent._pca import PCAReducer

# Parameters in which networks trained as one may differ: widths that can be padded, numbers that can be stacked, and
# what matters before or after training only.
FREE_PARAMETERS = {"nz", "beta", "noise", "kl_warmup", "random_state", "n_draws", "density", "verbose"}
# Share of the free memory that a stack may take.
MEMORY_SHARE = 0.5


@dataclass(eq=False)
class DeferredFit:
    """A fit that waits for its like, and then what came of it.

    Parameters
    ----------
    model : estimator
        With the parameters of the fit; it stays unfitted.
    X : ndarray of shape (n_samples, n_features)
        Valid rows. Fits to the same rows share the array.
    key : hashable
        What tells the fit from others, when it is met again.

    Attributes
    ----------
    route : {"ordinary", "spectrum", "fused"}
        "ordinary" where nothing was done: the model has to be fitted by itself.
    outcome : object
        What the model learned, or the error that ended its training.
    seconds : float
        Its share of the time.
    """

    model: Any
    X: NDArray
    key: Hashable = None
    route: str = "ordinary"
    outcome: Any = None
    seconds: float = 0.0


def settings(model: Any, without: Collection[str] = ()) -> tuple[tuple[str, Hashable], ...]:
    """What was set on an estimator before its fit: its parameters, and what a subclass makes of its own."""
    names = [name for name in sorted(vars(model)) if not (name.startswith("_") or name.endswith("_"))]
    return tuple((name, fingerprint(getattr(model, name))) for name in names if name not in without)


def fingerprint(value: Any) -> Hashable:
    """Equal for equal values; for functions that cannot be pickled, for the same one; else equal to no other."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return type(value), value
    try:
        # In one layout: a process may be handed the values of a view as an array of their own. SHA-1 takes less than
        # half the time of joblib's default.
        return joblib.hash(np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value, hash_name="sha1")
    except Exception:  # a lambda, say, cannot be pickled
        if isinstance(value, BaseEstimator):
            return type(value), settings(value)
        return value if callable(value) else object()


def fit_together(fits: Sequence[DeferredFit], max_models: int | None = None, verbose: int = 0) -> None:
    """Do what can be done in common, and note in each fit what came of it.

    Parameters
    ----------
    fits : sequence of DeferredFit
        Of `PCAReducer` and of networks.
    max_models : int or None, default=None
        Networks to train as one, at most; None for as many as the free memory holds.
    verbose : int, default=0
        1 prints a line for each stack.
    """
    components = [fit for fit in fits if isinstance(fit.model, PCAReducer)]
    for group in _grouped(components, _spectrum_key):
        _decompose(group)
    networks = [fit for fit in fits if not isinstance(fit.model, PCAReducer)]
    if networks:
        _train(networks, max_models, verbose)


def _spectrum_key(fit: DeferredFit) -> Hashable:
    """What fits have in common that one spectrum serves; None where there is no such thing."""
    nz, is_exact = fit.model.nz, fit.model.solver != "randomized"
    is_count = nz is None or (isinstance(nz, Integral) and nz <= min(fit.X.shape))
    return (id(fit.X), settings(fit.model, without={"nz", "whiten"})) if is_exact and is_count else None


def _decompose(group: Sequence[DeferredFit]) -> None:
    """Serve all from the spectrum of the one that asks for most."""
    start = time.perf_counter()
    widest = max(group, key=lambda fit: math.inf if fit.model.nz is None else fit.model.nz)
    try:
        if widest.model._has_missing(widest.X):  # what EM makes of them depends on nz
            return
        spectrum = widest.model._decompose(widest.X)
    except Exception:  # which the ordinary route meets too, and there it is reported
        return
    seconds = (time.perf_counter() - start) / len(group)
    for fit in group:
        fit.route, fit.outcome, fit.seconds = "spectrum", spectrum, seconds


def _train(fits: Sequence[DeferredFit], max_models: int | None, verbose: int) -> None:
    """Train networks of one architecture as one."""
    from sklatent._search.stack import can_stack  # PyTorch, which PCA does without

    rows: dict[Hashable, tuple[Any, Any]] = {}
    prepared = [network for fit in fits if (network := _prepare(fit, rows)) is not None]
    for group in _grouped(prepared, _stack_key):
        modules, widths = [network.net.module for network in group], [network.fit.model.nz for network in group]
        if can_stack(modules, widths, group[0].training.train.X[:2]):
            _train_group(group, max_models, verbose)


def _train_group(group: Sequence[Any], max_models: int | None, verbose: int) -> None:
    """Train networks of one architecture as one stack, or as several where the memory does not hold that."""
    largest = min(max_models or len(group), _n_that_fit(group[0]))
    ordered = sorted(group, key=lambda network: network.fit.model.nz)  # the less there is to pad
    for numbers in np.array_split(np.arange(len(group)), math.ceil(len(group) / largest)):
        if len(numbers) > 1:
            _train_stack([ordered[k] for k in numbers], verbose)


@dataclass(eq=False)
class _Network:
    """A network about to be trained."""

    fit: DeferredFit
    training: Any
    net: Any


def _prepare(fit: DeferredFit, rows: dict[Hashable, tuple[Any, Any]]) -> _Network | None:
    """The network of a fit, which shares its rows on the device; None where it can only be trained by itself."""
    model = fit.model
    if model.callbacks or model.checkpoint is not None:  # both follow one network, step by step
        return None
    start = time.perf_counter()
    try:
        training = model._prepare(fit.X)
    except Exception:  # which the ordinary route meets too, and there it is reported
        return None
    split = (training.seeds["split"], model.validation_fraction) if model.early_stopping else None
    key = (id(fit.X), training.device, split)
    training.train, training.valid = rows.setdefault(key, (training.train, training.valid))
    net = model._net(training, [model._annealing(training), *model._early_stopping()])
    fit.seconds = time.perf_counter() - start
    return _Network(fit, training, net)


def _stack_key(network: _Network) -> Hashable:
    """What networks trained as one have in common; None for one that can only be trained by itself."""
    from sklatent._nn.data import Rows, batch_sizes

    model, training = network.fit.model, network.training
    nz = model.nz if callable(model.backbone) else None  # to such a one nobody knows what nz means
    # Batches of one row are trained on in another mode, which a stack has in common.
    if not isinstance(training.train, Rows) or 1 in batch_sizes(len(training.train), training.batch_size):
        return None
    steps = (training.batch_size, training.max_epochs, training.n_steps, training.lr, training.max_gradient_norm)
    batches = (_batches(training.train, training.batch_size), _batches(training.valid, training.batch_size))
    shape = (network.fit.X.shape[1], network.fit.X.dtype.str)
    return (type(model), settings(model, without=FREE_PARAMETERS), nz, *shape, *steps, training.device, *batches)


def _batches(rows: Any, batch_size: int) -> tuple[int, int]:
    """Number of batches, and size of all but the last."""
    from sklatent._nn.data import batch_sizes

    sizes = [] if rows is None else batch_sizes(len(rows), batch_size)
    return len(sizes), sizes[0] if len(sizes) > 1 else 0


def _train_stack(networks: Sequence[_Network], verbose: int) -> None:
    """Train networks as one, and note what each has learned."""
    from sklatent._search.stacked_training import StackedNet

    start = time.perf_counter()
    stack = StackedNet([network.net for network in networks], [network.fit.model.nz for network in networks])
    valid = [network.training.valid for network in networks]
    stack.train_each([network.training.train for network in networks], None if valid[0] is None else valid)
    seconds = time.perf_counter() - start
    if verbose > 0:
        print(f"[fused] {len(networks)} networks trained as one in {seconds:.1f} s")
    for k, network in enumerate(networks):
        learned = (network.net.module_, network.net.history, network.training.seeds["draws"])
        network.fit.route, network.fit.outcome = "fused", stack.failures_.get(k, learned)
        network.fit.seconds += seconds / len(networks)


def _n_that_fit(network: _Network) -> int:
    """How many networks like this one the memory holds."""
    from sklatent._search.stack import n_activations

    training, module = network.training, network.net.module
    n_weights = sum(parameter.numel() for parameter in module.parameters())
    n_numbers = 4 * n_weights  # with gradients and the two moments of the optimizer
    n_numbers += len(training.train) * (module.n_noise + 2)  # an epoch's draws and order
    n_numbers += 4 * training.batch_size * n_activations(module, training.train.X[:2])  # and their gradients
    return max(1, int(MEMORY_SHARE * _free_memory(training.device) / (4 * n_numbers)))


def _free_memory(device: str) -> float:
    """Bytes; infinity where the system does not tell."""
    import torch

    if device != "cpu":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return math.inf


def _grouped(items: Sequence[Any], key: Any) -> Iterator[list[Any]]:
    """Those that have a key in common, where they are several; None is no key."""
    groups = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    groups.pop(None, None)
    yield from (group for group in groups.values() if len(group) > 1)
