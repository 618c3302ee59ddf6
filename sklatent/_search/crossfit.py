"""Cross-fitting: a density for all samples and one without each fold, learned together, and their robust supports."""

__all__ = [
    "KnownScores",
    "Subset",
    "allows_missing",
    "at",
    "complements",
    "concentrated_supports",
    "extrapolated_scores",
    "fit_density",
    "fit_subsets",
    "folds",
    "is_maximum_likelihood",
    "listed_fits",
    "n_steps_to_skip",
    "out_of_fold_scores",
    "route_to_fit",
    "sample_params",
]

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn import get_config
from sklearn.base import BaseEstimator, clone, is_outlier_detector
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing

from sklatent._jacobians import last_undefined_step, log_density, unroll
from sklatent._pca import PCAReducer
from sklatent._search.plan import learned_together

# As in scikit-learn's `MinCovDet`. PCA stands after a few steps.
MAX_STEPS = 30
Subset = NDArray[np.intp]


class KnownScores:
    """Scores of training samples, to be found by the values of a sample.

    A sample is known by 64 bits that depend on all of its values. Another sample has the same with a probability of
    2**-64 for each that is known. Equal samples have their mean score.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    scores : ndarray of shape (n_samples,)
    """

    def __init__(self, X: NDArray[Any], scores: NDArray[np.float64]):
        self.keys, places, counts = np.unique(_hashes(X), return_inverse=True, return_counts=True)
        self.scores = np.bincount(places, scores) / counts

    def replace(self, X: NDArray[Any], scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scores of X, in which those of known samples are put in place of others."""
        keys = _hashes(X)
        found = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        return np.where(self.keys[found] == keys, self.scores[found], scores)


def folds(n_samples: int, n_splits: int, y: NDArray[Any] | None = None) -> list[Subset]:
    """Indices of the samples of each fold, at random, since samples are often sorted; always the same.

    With class labels y, each fold has samples of each class in proportion.
    """
    splitter = (KFold if y is None else StratifiedKFold)(n_splits, shuffle=True, random_state=0)
    return [fold for _, fold in splitter.split(np.empty((n_samples, 1)), y)]


def complements(n_samples: int, parts: Sequence[Subset]) -> list[Subset]:
    """Indices of the samples outside each fold."""
    return [np.setdiff1d(np.arange(n_samples), part, assume_unique=True) for part in parts]


def fit_subsets(
    estimator: Any,
    X: NDArray[Any],
    subsets: Sequence[Subset],
    fit_params: Mapping[str, NDArray[Any]] = MappingProxyType({}),
) -> list[Any]:
    """A clone of an estimator fitted to each subset of X; latent models within them are learned together.

    Parameters of the fit have a value for each sample.
    """
    with learned_together(estimator, X, subsets, fit_params):
        return [fit_density(clone(estimator), X[subset], at(fit_params, subset)) for subset in subsets]


def fit_density(estimator: Any, X: NDArray[Any], fit_params: Mapping[str, NDArray[Any]]) -> Any:
    """An estimator, fitted to samples without labels; one that is frozen as it is, whose `fit` asks for labels."""
    return estimator if isinstance(estimator, FrozenEstimator) else estimator.fit(X, **fit_params)


def listed_fits(
    estimator: Any, X: NDArray[Any], subsets: Sequence[Subset], fit_params: Mapping[str, NDArray[Any]]
) -> list[Any]:
    """The fits of `fit_subsets` as `fits_within` lists them: pairs, or with parameters of the fit triples."""
    fits = [(clone(estimator), X[subset]) for subset in subsets]
    return [(*fit, at(fit_params, subset)) for fit, subset in zip(fits, subsets, strict=True)] if fit_params else fits


def at(fit_params: Mapping[str, NDArray[Any]], subset: Subset) -> dict[str, NDArray[Any]]:
    """Parameters of a fit, which have a value for each sample, for some of the samples."""
    return {name: values[subset] for name, values in fit_params.items()}


def sample_params(owner: Any, fit_params: Mapping[str, Any], n_samples: int) -> dict[str, NDArray[Any]]:
    """What the `fit` of an estimator within another one receives of parameters that have a value for each sample.

    With scikit-learn's metadata routing it receives what it requests; without, all of them.

    Raises
    ------
    ValueError
        If one of them does not have a value for each sample.
    """
    given = {name: np.asarray(values) for name, values in fit_params.items() if values is not None}
    for name, values in given.items():
        if values.shape != (n_samples,):
            raise ValueError(f"{name}.shape == {values.shape}, expected {(n_samples,)}!")
    if given and get_config()["enable_metadata_routing"]:
        return dict(process_routing(owner, "fit", **given).estimator.fit)
    return given


def route_to_fit(router: MetadataRouter, estimator: Any) -> MetadataRouter:
    """Add the route from the `fit` of an estimator to that of the one within it."""
    return router.add(estimator=estimator, method_mapping=MethodMapping().add(caller="fit", callee="fit"))


def allows_missing(estimator: Any) -> bool:
    """Whether an estimator within another one may be given missing values.

    A Pipeline has no such tag of its own: each of its steps refuses what it does not take.
    """
    if not isinstance(estimator, BaseEstimator):
        return False
    steps = unroll(estimator)
    return len(steps) > 1 or bool(get_tags(steps[0]).input_tags.allow_nan)


def out_of_fold_scores(
    models: Sequence[Any], X: NDArray[Any], parts: Sequence[Subset], n_skipped: int
) -> NDArray[np.float64]:
    """Score of each sample by the model of its fold, which was fitted without it, as `log_density` does."""
    scores = np.empty(len(X))
    for model, part in zip(models, parts, strict=True):
        scores[part] = log_density(model, X[part], n_skipped)
    return scores


def extrapolated_scores(out_of_fold: NDArray[Any], in_sample: NDArray[Any], n_splits: int) -> NDArray[np.float64]:
    """Scores by densities of n other samples, from those of n - n / K others and of a density of all n.

    To first order, a density of largest likelihood for m samples scores one of them too high by a / m, and any other
    sample like it too low by a / m. The two scores of a sample differ by a / n + a / (n - n / K), of which one part of
    2 K - 1 is what the density of fewer samples lacks.
    """
    weight = 1 / (2 * n_splits - 1)
    return (1 - weight) * out_of_fold + weight * in_sample


def is_maximum_likelihood(estimator: Any) -> bool:
    """Whether a fitted estimator is a density of this package that has the largest likelihood for its samples."""
    return isinstance(unroll(estimator)[-1], PCAReducer)


def n_steps_to_skip(models: Sequence[Any], X: NDArray[Any], parts: Sequence[Subset]) -> int:
    """Number of the first steps of some Pipelines whose log-Jacobian their scores leave out.

    The last of them loses information about samples that a model has to score. An outlier detector at the end has
    scores in no units, which no step changes.
    """
    n_steps = len(unroll(models[0])) - 1
    if n_steps and is_outlier_detector(models[0]):  # an estimator by itself may have no tags to ask
        return n_steps
    return max(last_undefined_step(model, X[part])[0] for model, part in zip(models, parts, strict=True))


def concentrated_supports(estimator: Any, X: NDArray[Any], subsets: Sequence[Subset], fraction: float) -> list[Subset]:
    """The fraction of each subset that is most probable under probabilistic PCA of itself.

    PCA stands for the last step of a Pipeline. It cannot follow a few outliers as a network can; and a network gives
    the samples that it was fitted to the highest scores, so further steps with the network itself change little.
    """
    return [subset[_pca_support(_before_last_step(estimator, X[subset]), fraction)] for subset in subsets]


def _before_last_step(estimator: Any, X: NDArray[Any]) -> NDArray[Any]:
    """What the last step of a Pipeline is fitted to; X for other estimators."""
    if not isinstance(estimator, Pipeline) or len(estimator) == 1:
        return X
    Z = clone(estimator[:-1]).fit_transform(X)
    return np.asarray(Z.toarray() if issparse(Z) else Z)


def _pca_support(X: NDArray[Any], fraction: float) -> Subset:
    """The support at which the concentration steps of PCA stand: of two, the one with the larger likelihood.

    The steps never decrease the likelihood of the support, but end in different maxima. One start is all samples; the
    other the samples about the median, from which a cluster of outliers cannot draw PCA to itself.
    """
    central = _largest(-np.linalg.norm(X - np.median(X, axis=0), axis=1), fraction)
    found = [_concentrate(X, start, fraction) for start in (np.arange(len(X)), central)]
    return max(found, key=lambda support_and_likelihood: support_and_likelihood[1])[0]


def _concentrate(X: NDArray[Any], support: Subset, fraction: float) -> tuple[Subset, float]:
    """Take concentration steps until the support stands; its mean log-likelihood too."""
    for _ in range(MAX_STEPS):
        scores = PCAReducer("parallel", random_state=0).fit(X[support]).score_samples(X)
        previous, support = support, _largest(scores, fraction)
        if np.array_equal(previous, support):
            break
    return support, float(scores[support].mean())


def _largest(scores: ArrayLike, fraction: float) -> Subset:
    """Sorted indices of the fraction of the samples with the largest scores."""
    order = np.argsort(-np.asarray(scores), kind="stable")
    return np.sort(order[: math.ceil(fraction * len(order))])


def _hashes(X: NDArray[Any]) -> NDArray[np.uint64]:
    """64 bits of each sample: sum of its values, scrambled with their places by SplitMix64 (Steele et al., 2014)."""
    values = np.ascontiguousarray(X, dtype=np.float64) + 0.0  # -0.0 equals 0.0
    values[np.isnan(values)] = np.nan  # which has many bit patterns
    bits = values.view(np.uint64)
    place = np.arange(1, X.shape[1] + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return _scrambled(_scrambled(bits) + place).sum(axis=1, dtype=np.uint64)


def _scrambled(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    return bits ^ (bits >> np.uint64(31))
