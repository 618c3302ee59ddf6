"""What the pictures ask of fitted estimators: latent codes, decoded samples, names, and steps of Pipelines."""

__all__ = [
    "apply",
    "as_array",
    "check_count",
    "classes_or_quantity",
    "decode",
    "encode",
    "evenly_spaced",
    "feature_names",
    "find_step",
    "image_shape_of",
    "latent_names",
    "mean_loadings",
    "most_varied",
    "observed_moments",
    "step_with",
    "steps_of",
    "through",
    "to_images",
    "transformer_of",
]

import math
import warnings
from collections.abc import Iterable, Sequence
from functools import reduce
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

# Whole numbers with more values than this are a quantity, and others are classes.
MAX_CLASSES = 20
# Number of latent codes, for all latent dimensions together, that are decoded for the mean Jacobian.
MAX_DECODED = 4096
# In standard deviations. Central differences are exact for a linear decoder; for others their error is of the order of
# its square, 1e-8, and the rounding of float64 adds 1e-12.
STEP = 1e-4


def encode(estimator: Any, X: ArrayLike, caller: str) -> NDArray[np.float64]:
    """Latent codes of X, (n_samples, nz)."""
    Z = as_array(transformer_of(estimator, caller, "transform").transform(X))
    if Z.ndim != 2 or not np.isfinite(Z).all():
        raise ValueError(f"{caller} needs finite latent codes of shape (n_samples, nz), got {Z!r}.")
    return Z


def decode(estimator: Any, Z: NDArray[Any], caller: str) -> NDArray[np.float64]:
    """Samples in the units of X, (n_samples, n_features), for latent codes."""
    return as_array(transformer_of(estimator, caller, "inverse_transform").inverse_transform(Z))


def mean_loadings(estimator: Any, X: Any, Z: NDArray[Any], standardized: bool, caller: str) -> NDArray[np.float64]:
    """Mean change of each feature for one standard deviation of each latent dimension, (n_features, nz).

    With `standardized` it is in standard deviations of the features of X, and 0 for constant ones.
    """
    loadings = _mean_jacobian(estimator, Z, caller) * Z.std(axis=0, ddof=1)
    if not standardized:
        return loadings
    spread = observed_moments(as_array(X), ddof=1)[1][:, None]
    return np.divide(loadings, spread, out=np.zeros_like(loadings), where=spread > 0)


def observed_moments(X: NDArray[Any], ddof: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mean and standard deviation of the observed values of each feature; NaN for a feature without any."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of a feature without an observed value
        return np.nanmean(X, axis=0), np.nanstd(X, axis=0, ddof=ddof)


def classes_or_quantity(
    y: ArrayLike, n_samples: int
) -> tuple[NDArray[Any] | None, NDArray[Any] | None, NDArray[Any] | None]:
    """Tell what colours samples: the different classes and the class of each sample, or a quantity.

    Returns
    -------
    classes : ndarray of shape (n_classes,) or None
    members : ndarray of shape (n_samples,), int, or None
        Index of the class of each sample.
    quantity : ndarray of shape (n_samples,) or None
        Finite values or NaN.
    """
    values = column_or_1d(y)
    check_consistent_length(values, range(n_samples))
    if _is_quantity(values):
        return None, None, np.where(np.isfinite(values), values, np.nan)
    values = values if values.dtype.kind in "iuf" else values.astype(str)
    return *np.unique(values, return_inverse=True), None


def step_with(estimator: Any, caller: str, *attributes: str) -> tuple[Any, list[Any]]:
    """The last step that has one of these attributes after fitting, and the steps before it."""
    found = find_step(estimator, *attributes)
    if found is not None:
        return found
    for step in steps_of(estimator):
        check_is_fitted(step)
    raise TypeError(
        f"{caller} needs an estimator, or a Pipeline with a step, that has {' or '.join(attributes)}, got "
        f"{type(estimator).__name__}."
    )


def find_step(estimator: Any, *attributes: str) -> tuple[Any, list[Any]] | None:
    """As `step_with`, but None if there is no such step."""
    steps = steps_of(estimator)
    for number in reversed(range(len(steps))):
        if any(hasattr(steps[number], attribute) for attribute in attributes):
            return steps[number], steps[:number]
    return None


def apply(steps: Sequence[Any], X: Any) -> NDArray[np.float64]:
    """X after some steps of a Pipeline, as an array."""
    return as_array(through(steps, X))


def through(steps: Sequence[Any], X: Any) -> Any:
    """X after some steps of a Pipeline, as the next step takes it: a DataFrame keeps its names."""
    return reduce(lambda samples, step: step.transform(samples), steps, X)


def as_array(X: Any) -> NDArray[np.float64]:
    """A dense float64 array, from a DataFrame, a tensor or a sparse matrix too."""
    return np.asarray(X.toarray() if hasattr(X, "toarray") else X, dtype=np.float64)


def feature_names(estimator: Any, n_features: int) -> list[str]:
    """Names of the features seen during fit, or x0, x1, ..."""
    known = getattr(_best(estimator), "feature_names_in_", None)
    return [f"x{j}" for j in range(n_features)] if known is None else [str(name) for name in known]


def latent_names(estimator: Any, nz: int, symbol: str = "$z_{%d}$") -> list[str]:
    """z_0, z_1, ..., with the fraction of the variance where the model knows it."""
    fractions = next((s.explained_variance_ratio_ for s in steps_of(estimator)[::-1] if _knows_fractions(s, nz)), None)
    names = [symbol % k for k in range(nz)]
    if fractions is None:
        return names
    return [f"{name} ({100 * part:.3g} % of the variance)" for name, part in zip(names, fractions, strict=True)]


def most_varied(Z: NDArray[Any], dimensions: Sequence[int] | None, at_most: int, caller: str) -> list[int]:
    """Check the latent dimensions to show; None selects those of largest variance, in their order."""
    nz = Z.shape[1]
    if dimensions is None:
        return sorted(np.argsort(-Z.var(axis=0), kind="stable")[:at_most].tolist())
    chosen = list(dimensions) if isinstance(dimensions, Iterable) else []
    is_valid = all(_is_int(k) and 0 <= k < nz for k in chosen)
    if not is_valid or not 1 <= len(set(chosen)) == len(chosen) <= at_most:
        raise ValueError(
            f"dimensions={dimensions!r} of {caller} must be None or a list of 1 to {at_most} different integers in the "
            f"range [0, {nz})."
        )
    return chosen


def evenly_spaced(n_samples: int, at_most: int) -> NDArray[np.intp]:
    """Indices of at most so many samples."""
    return np.unique(np.linspace(0, n_samples - 1, min(n_samples, at_most)).round().astype(np.intp))


def check_count(name: str, value: Any, at_most: int, at_least: int = 1) -> None:
    """Raise ValueError if a number of things is not an int in a range."""
    if not _is_int(value) or not at_least <= value <= at_most:
        raise ValueError(f"{name}={value!r} must be an int in the range [{at_least}, {at_most}].")


def image_shape_of(estimator: Any, image_shape: Sequence[int] | None, n_features: int) -> tuple[int, ...] | None:
    """(channels, height, width) of a sample: what was passed, or else what a network was told; None for a table."""
    if image_shape is None:
        told = (_told_shape(step) for step in steps_of(estimator))
        return next((tuple(shape) for shape in told if shape is not None and _is_image(shape, n_features)), None)
    shape = tuple(image_shape) if isinstance(image_shape, Iterable) else ()
    shape = (1, *shape) if len(shape) == 2 else shape
    if not _is_image(shape, n_features):
        raise ValueError(
            f"image_shape={image_shape!r} must be (height, width) or (channels, height, width) with 1 or 3 channels, "
            f"and multiply to n_features={n_features}."
        )
    return shape


def to_images(X: NDArray[Any], image_shape: tuple[int, ...]) -> NDArray[Any]:
    """Fold samples (..., n_features) to images (..., height, width), or (..., height, width, 3) for colours."""
    images = X.reshape(*X.shape[:-1], *image_shape)
    return np.moveaxis(images, -3, -1) if image_shape[0] == 3 else images[..., 0, :, :]


def steps_of(estimator: Any) -> list[Any]:
    """The steps of a Pipeline, of those within it and of the best one of a search; or the estimator itself."""
    estimator = _best(estimator)
    if not isinstance(estimator, Pipeline):
        return [estimator]
    parts = [part for _, part in estimator.steps if part is not None and not isinstance(part, str)]
    return [step for part in parts for step in steps_of(part)]


def transformer_of(estimator: Any, caller: str, method: str) -> Any:
    """What encodes samples: the estimator, or all steps of a Pipeline but a last one that predicts."""
    transformer = _best(estimator)
    if isinstance(transformer, Pipeline) and len(transformer) > 1 and not hasattr(transformer[-1:], "transform"):
        transformer = transformer[:-1]
    if not hasattr(transformer, method):
        lacking = [type(step).__name__ for step in steps_of(transformer) if not hasattr(step, method)]
        within = f" with the step {lacking[-1]}, which has none" if isinstance(transformer, Pipeline) else ""
        raise TypeError(f"{caller} needs an estimator with {method}, got {type(estimator).__name__}{within}.")
    return transformer


def _best(estimator: Any) -> Any:
    return getattr(estimator, "best_estimator_", estimator)


def _knows_fractions(step: Any, nz: int) -> bool:
    return len(getattr(step, "explained_variance_ratio_", ())) == nz


def _mean_jacobian(estimator: Any, Z: NDArray[Any], caller: str) -> NDArray[np.float64]:
    """Derivatives of the decoder, averaged over at most `MAX_DECODED` / nz of the latent codes, (n_features, nz)."""
    nz = Z.shape[1]
    spread = Z.std(axis=0)
    steps = STEP * np.where(spread > 0, spread, 1.0)
    Z = Z[evenly_spaced(len(Z), max(2, MAX_DECODED // nz))]
    shifted = Z + np.array([1, -1])[:, None, None, None] * np.diag(steps)[:, None, :]  # (2, nz, n, nz)
    decoded = decode(estimator, shifted.reshape(-1, nz), caller)
    ahead, behind = decoded.reshape(2, nz, len(Z), -1).mean(axis=2)
    return (ahead - behind).T / (2 * steps)


def _told_shape(step: Any) -> Sequence[int] | None:
    """The `image_shape` of a network, or the shape that its convolutions infer."""
    inferred = getattr(getattr(step, "module_", None), "input_shape", ())
    return getattr(step, "image_shape", None) or (inferred if len(inferred) == 3 else None)


def _is_quantity(values: NDArray[Any]) -> bool:
    is_number = values.dtype.kind in "iuf"
    return is_number and not (np.array_equal(values, values.round()) and len(np.unique(values)) <= MAX_CLASSES)


def _is_image(shape: Sequence[int], n_features: int) -> bool:
    is_shape = len(shape) == 3 and all(_is_int(length) and length > 0 for length in shape)
    return is_shape and shape[0] in (1, 3) and math.prod(shape) == n_features


def _is_int(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, (bool, np.bool_))
