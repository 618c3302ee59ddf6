"""What is computed from the training samples before a network is trained: moments, tails, and a rough spectrum."""

__all__ = [
    "MAX_SAMPLES",
    "Shared",
    "lr_divisor",
    "moments_of_samples",
    "rough_spectrum",
    "some_rows",
    "some_standardized",
    "some_weighted_rows",
    "tail_weight",
    "with_weight",
]

import math
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from sklatent._nn.data import as_tensor, some_weights
from sklatent._nn.likelihoods import Standardizer
from sklatent._ppca.centered import mean_and_variance
from sklatent._ppca.missing_values import ROUGH_TOLERANCE, column_moments, spectrum_of_incomplete
from sklatent._ppca.solvers import Spectrum
from sklatent._sources.stored import is_sliceable, row_blocks

# Maximum number of samples from which a spectrum, the latent density and diagnostics are estimated.
MAX_SAMPLES = 10_000


class Shared:
    """What trainings on the same samples have in common, computed once.

    Keys may name arrays by their identity, as long as these arrays live.
    """

    def __init__(self) -> None:
        self.found: dict[Hashable, Any] = {}

    def once(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """What was computed for an equal key, or else what is computed now."""
        if key not in self.found:
            self.found[key] = compute()
        return self.found[key]


def some_rows(X: Any) -> NDArray[Any]:
    """At most `MAX_SAMPLES` evenly spaced samples."""
    rows = np.asarray(X[:: -(-X.shape[0] // MAX_SAMPLES)])
    return rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float64)


def some_weighted_rows(X: Any, weights: NDArray[Any] | None) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """At most `MAX_SAMPLES` evenly spaced samples of those with a weight above zero, and their weights."""
    if weights is None:
        return some_rows(X), None
    numbers = np.flatnonzero(weights)
    numbers = numbers[:: -(-len(numbers) // MAX_SAMPLES)]
    return some_rows(X[numbers]), weights[numbers]


def some_standardized(samples: Any, standardizer: Standardizer) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """At most `MAX_SAMPLES` evenly spaced samples, standardized, and their weights."""
    rows = standardizer(as_tensor(samples.some(MAX_SAMPLES))).cpu().numpy()
    return rows, some_weights(samples, MAX_SAMPLES)


def with_weight(X: Any, weights: NDArray[Any] | None) -> tuple[Any, NDArray[Any] | None]:
    """The samples with a weight above zero, and their weights; None if all of these are one.

    Larger files keep the other samples, with a weight of zero.
    """
    if weights is None or weights.all() or is_sliceable(X):
        return X, weights
    X, weights = X[weights > 0], weights[weights > 0]
    return X, None if (weights == 1).all() else weights


def moments_of_samples(X: Any, weights: NDArray[Any] | None = None) -> tuple[NDArray[Any], NDArray[Any], bool]:
    """Mean and variance (divisor n) of the observed values of each feature, in float64, and whether some are missing.

    Raises
    ------
    ValueError
        If a feature has no observed value.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # an overflow is reported as an error
        if not is_sliceable(X):
            has_missing = bool(np.isnan(X).any())
            return *(column_moments if has_missing else mean_and_variance)(X, weights), has_missing
        scaler, start = StandardScaler(), 0
        for rows in row_blocks(X):
            part = None if weights is None else weights[start : start + len(rows)]
            start += len(rows)
            if part is not None and not part.all():
                rows, part = rows[part > 0], part[part > 0]
            if np.isnan(rows).any():  # the scaler has no moments if a block lacks a feature
                return *column_moments(X, weights), True
            if len(rows):
                scaler.partial_fit(rows.astype(np.float64, copy=False), sample_weight=part)
        return scaler.mean_, scaler.var_, False


def tail_weight(X: Any, standardizer: Standardizer, weights: NDArray[Any] | None = None) -> float:
    r"""Tail weight of the norms of the standardized samples h.

    .. math:: \kappa = \sqrt{\mathrm{E} \|h\|^4} / \mathrm{E} \|h\|^2

    It is 1 if all norms are equal, and sqrt(3) for a normal distribution along one direction; values of 4 to 30 were
    measured on data for which training diverged. A step of Adam changes the output for a sample by up to the learning
    rate times the norm of the sample, however small the gradient is. So a step that suits typical samples is far too
    long for very large ones, and their loss can increase by many orders of magnitude.
    """
    squares, start = torch.empty(X.shape[0], dtype=torch.float64, device="cpu"), 0
    for rows in row_blocks(
        X
    ):  # results that are allocated between the blocks would keep their memory from being reused
        h = standardizer(as_tensor(rows))
        squares[start : start + len(rows)] = torch.where(h.isnan(), 0.0, h).double().square().sum(-1)
        start += len(rows)
    relative = 1.0 if weights is None else torch.from_numpy(weights / weights.mean()).to(squares.device)
    mean = (relative * squares).mean()
    return float((relative * squares.square()).mean().sqrt() / mean) if mean > 0 else 1.0


def lr_divisor(tail_weight: float) -> float:
    """Tail weight over that of a normal density, rounded to a power of two.

    It is 1 for most data, and rounding makes it the same for all folds of a cross-validation.
    """
    return 2.0 ** max(round(math.log2(tail_weight / math.sqrt(3))), 0)


def rough_spectrum(rows: NDArray[Any], nz: int, weights: NDArray[Any] | None) -> Spectrum:
    """Leading principal components of standardized samples with missing values, by few steps of EM.

    A feature that is not observed in these samples is held for constant. Training starts at the components, for which
    the limit of EM is not worth its time.
    """
    rows = np.where(np.isnan(rows).all(axis=0), 0.0, rows)
    return spectrum_of_incomplete(rows, nz, weights, tolerance=ROUGH_TOLERANCE)[0]
