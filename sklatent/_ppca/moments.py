"""Weight, mean and scatter of a set of samples. The moments of a union follow from those of its parts."""

__all__ = ["FactoredMoments", "Moments", "NotFiniteError", "check_variance", "total_weight", "weighted_sum"]

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace

Array = Any


@dataclass(frozen=True)
class Moments:
    """Weight, mean and scatter of a set of samples, in float64.

    `scatter` is the sum of w (x - mean)(x - mean)' over the samples, where w is 1 without weights. The moments of a
    union follow from the moments of its parts, so samples may arrive in chunks of any size and are read only once.

    Attributes
    ----------
    weight : float
        Sum of the weights.
    n_samples : int
        Number of samples with a weight above zero.
    mean : array of shape (n_features,)
    scatter : array of shape (n_features, n_features), or (n_features,) if only its diagonal is kept

    References
    ----------
    Chan, Golub & LeVeque (1983), "Algorithms for computing the sample variance", The American Statistician, eq. 2.1.
    """

    weight: float
    n_samples: int
    mean: Array
    scatter: Array

    @classmethod
    def about(
        cls, point: Array, weight: float, n_samples: int, total: Array, scatter: Array, diagonal: bool = False
    ) -> "Moments":
        """Moments of samples whose sum and scatter about a point are known."""
        shift = total / (weight or 1.0)
        scatter = scatter - _squares(shift, diagonal) * weight
        if diagonal:  # rounding can make the sum of squares of a constant feature slightly negative
            scatter = array_namespace(scatter).clip(scatter, min=0.0)
        return cls(weight, n_samples, point + shift, scatter)

    def merge(self, other: "Moments") -> "Moments":
        """Moments of the union."""
        weight = self.weight + other.weight
        shift = other.mean - self.mean
        share = other.weight / (weight or 1.0)
        scatter = self.scatter + other.scatter
        scatter += _squares(shift, self.scatter.ndim == 1) * (self.weight * share)
        return Moments(weight, self.n_samples + other.n_samples, self.mean + shift * share, scatter)


@dataclass(frozen=True)
class FactoredMoments:
    """Moments of samples with too many features for a scatter matrix, which is represented as factor' factor.

    `factor` has one row for each direction that is kept. `truncate` drops the smallest ones; `total` is the trace of
    the scatter, including the directions that were dropped.

    References
    ----------
    Ross, Lim, Lin & Yang (2008), "Incremental learning for robust visual tracking", IJCV 77, figure 1.
    """

    weight: float
    n_samples: int
    mean: Array
    factor: Array
    total: float

    def merge(self, other: "FactoredMoments") -> "FactoredMoments":
        """Moments of the union. The factor has the rows of both, and one for the difference of the means."""
        xp = array_namespace(self.mean)
        weight = self.weight + other.weight
        share = other.weight / (weight or 1.0)
        shift = other.mean - self.mean
        step = shift * (self.weight * share) ** 0.5
        factor = xp.concat([self.factor, other.factor, step[None, :]])
        total = self.total + other.total + float(step @ step)
        return FactoredMoments(weight, self.n_samples + other.n_samples, self.mean + shift * share, factor, total)

    def truncate(self, n_directions: int | None) -> "FactoredMoments":
        """The moments with at most n_directions rows in the factor, orthogonal and sorted by decreasing norm."""
        xp = array_namespace(self.mean)
        _, norms, directions = xp.linalg.svd(self.factor, full_matrices=False)
        n = min(n_directions or len(norms), self.n_samples, len(norms))
        return replace(self, factor=norms[:n, None] * directions[:n, :])


class NotFiniteError(ValueError):
    """Raised if sums over the data are not finite: the data are not finite, or their squares overflow float64."""


def check_variance(variance: float) -> None:
    """Raise `NotFiniteError` if the variance, or the sum of squares about the mean, is not finite."""
    if not np.isfinite(variance):
        raise NotFiniteError("The variance of X overflows float64. Rescale X so that its largest value is below 1e150.")


def total_weight(weights: Array | None, n_samples: int) -> tuple[float, int]:
    """Sum of the weights, and the number of weights above zero. None stands for weights of 1."""
    if weights is None:
        return float(n_samples), n_samples
    xp = array_namespace(weights)
    return float(xp.sum(weights)), int(xp.count_nonzero(weights))


def weighted_sum(values: Array, weights: Array | None) -> Array:
    """Sum of values (n_samples, ...) over the samples, each times its weight. None stands for weights of 1."""
    xp = array_namespace(values)
    return xp.sum(values, axis=0) if weights is None else xp.tensordot(weights, values, axes=1)


def _squares(x: Array, diagonal: bool) -> Array:
    return x * x if diagonal else x[:, None] * x[None, :]
