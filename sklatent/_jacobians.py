"""Densities seen through the steps of a Pipeline: the log-Jacobian of every transformer that loses no information."""

__all__ = [
    "UndefinedLogJacobian",
    "last_undefined_step",
    "log_density",
    "log_jacobian",
    "push_forward",
    "register_log_jacobian",
    "unroll",
]

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from scipy.stats import norm
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.utils.validation import check_is_fitted, validate_data

from sklatent._pca import PCAReducer
from sklatent._ppca.density import model_variances
from sklatent._sklearn_compat import column_indices, power_scaler, safe_indexing

LogJacobian = Callable[[Any, Any], ArrayLike]

# QuantileTransformer maps to the end of its range what is closer to the end of the training samples than this, in the
# units of X, if its output is normal; and it clips the fractions themselves to this distance from 0 and 1.
QUANTILE_MARGIN = 1e-7


class UndefinedLogJacobian(ValueError):
    """A transformer loses information, is unknown, or has no finite derivative at a sample."""


def register_log_jacobian(transformer_type: type, function: LogJacobian) -> None:
    r"""Tell `log_likelihood_samples` how a transformer changes the volume about a sample.

    A density q of the transformed samples t(x) is the density

    .. math:: \ln p(x) = \ln q(t(x)) + \ln \left| \det \frac{\partial t}{\partial x} \right|

    of the samples themselves. The function gives the last term, in nats.

    Parameters
    ----------
    transformer_type : type
        Class of the transformer. It holds for subclasses too, unless they define a `transform` of their own. A function
        that was registered for the class before is replaced.
    function : callable
        Called as `function(transformer, X)` with a fitted transformer and samples X (n_samples, n_features) as the
        transformer receives them. It returns the logarithm of the absolute value of the determinant, of shape
        (n_samples,), or a single number if it is the same everywhere. -inf stands for a sample to which `transform`
        maps no volume, for example one outside its domain: its density is zero, and it is not transformed.

    Raises
    ------
    TypeError
        If `transformer_type` is not a class with `transform`, or if `function` is not callable.

    See Also
    --------
    log_likelihood_samples : Uses these functions, and lists the transformers that are known.

    Notes
    -----
    The function is known in the process that registered it. For a search in several processes, call
    `register_log_jacobian` in the module that defines the transformer, so that each process does.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.base import BaseEstimator, TransformerMixin
    >>> from sklatent.metrics import register_log_jacobian
    >>> class Doubling(TransformerMixin, BaseEstimator):
    ...     def fit(self, X, y=None):
    ...         return self
    ...     def transform(self, X):
    ...         return 2 * X
    ...     def __sklearn_is_fitted__(self):
    ...         return True
    >>> register_log_jacobian(Doubling, lambda transformer, X: X.shape[1] * np.log(2))
    """
    if not (isinstance(transformer_type, type) and hasattr(transformer_type, "transform")):
        raise TypeError(f"transformer_type must be a class with transform, got {transformer_type!r}.")
    if not callable(function):
        raise TypeError(f"function must be callable, got {function!r}.")
    _LOG_JACOBIANS[transformer_type] = function


def unroll(estimator: Any) -> list[Any]:
    """The estimators that samples pass one after the other.

    Pipelines within Pipelines and FrozenEstimator are opened, searches give their best estimator, and "passthrough" is
    left out.
    """
    estimator = getattr(estimator, "best_estimator_", estimator)
    if isinstance(estimator, FrozenEstimator):
        return unroll(estimator.estimator)
    if not isinstance(estimator, Pipeline):
        return [estimator]
    return [part for _, step in estimator.steps if _transforms(step) for part in unroll(step)]


def push_forward(steps: Sequence[Any], X: Any) -> tuple[NDArray[np.float64], Any]:
    """Transform samples step by step, and add up the log-Jacobians.

    Parameters
    ----------
    steps : sequence of transformers
        Fitted.
    X : array-like of shape (n_samples, n_features)

    Returns
    -------
    log_det : ndarray of shape (n_samples,)
        Sum of the log-Jacobians in nats; -inf for a sample outside the support of the steps.
    Z : array-like or None
        The transformed samples inside the support; None if there are none.
    """
    X = X if hasattr(X, "shape") else np.asarray(X)
    log_det = np.zeros(X.shape[:1])
    for step in steps:
        found = log_jacobian(step, X)
        log_det[log_det > -np.inf] += found
        inside = np.flatnonzero(found > -np.inf)
        if not len(inside):
            return log_det, None
        X = step.transform(X if len(inside) == len(found) else safe_indexing(X, inside))
    return log_det, X


def log_density(estimator: Any, X: Any, n_skipped: int = 0) -> NDArray[np.float64]:
    """Log-density of each sample under a Pipeline, in the units of X.

    Parameters
    ----------
    estimator : object
        Fitted density, a Pipeline that ends with one, or a search over such a Pipeline.
    X : array-like of shape (n_samples, n_features)
    n_skipped : int, default=0
        Number of steps, from the first on, whose log-Jacobian is left out: the density is that of what leaves them.

    Returns
    -------
    log_prob : ndarray of shape (n_samples,)
        In nats.
    """
    *steps, model = unroll(estimator) or [estimator]
    if not hasattr(model, "score_samples"):
        raise TypeError(
            f"log_likelihood_samples needs an estimator with score_samples, got {type(model).__name__}. A Pipeline has "
            "to end with a density model."
        )
    for step in steps[:n_skipped]:
        X = step.transform(X)
    log_prob, Z = push_forward(steps[n_skipped:], X)
    if Z is not None:
        log_prob[log_prob > -np.inf] += np.asarray(model.score_samples(Z))
    return log_prob


def last_undefined_step(estimator: Any, X: Any) -> tuple[int, UndefinedLogJacobian | None]:
    """Find the last step of a fitted Pipeline that has no finite log-Jacobian at each of some samples.

    Returns
    -------
    number : int
        Its number among the steps, counted from 1, as the `n_skipped` of `log_density`; 0 if there is none.
    error : UndefinedLogJacobian or None
        The reason.
    """
    found: tuple[int, UndefinedLogJacobian | None] = 0, None
    for number, step in enumerate(unroll(estimator)[:-1], start=1):
        try:
            is_finite = np.isfinite(log_jacobian(step, X)).all()
        except UndefinedLogJacobian as error:  # only a nested step knows why, so it cannot be asked beforehand
            found = number, error
        else:
            if not is_finite:
                found = number, _information_loss(step, "samples are outside its range", "Leave the step out.")
        X = step.transform(X)
    return found


def log_jacobian(transformer: Any, X: Any) -> NDArray[np.float64]:
    """Logarithm of the absolute Jacobian determinant of a fitted transformer at each sample, in nats.

    Raises
    ------
    UndefinedLogJacobian
        If the transformer is unknown or loses information, or if it has no finite derivative at a sample.
    """
    check_is_fitted(transformer)
    found = np.asarray(_function_of(transformer)(transformer, X), dtype=np.float64)
    shape = np.shape(X)[:1]
    if found.shape not in ((), shape):
        raise ValueError(
            f"The log-Jacobian of {_name(transformer)} must be a number or of shape {shape}, got shape {found.shape}."
        )
    singular = np.flatnonzero(np.isnan(found) | (found == np.inf))
    if len(singular):
        raise UndefinedLogJacobian(
            f"{_name(transformer)} has no log-Jacobian at {len(singular)} of {shape[0]} samples, the first of which "
            f"has index {singular[0]}: it is not one-to-one there, or its derivative is infinite, as where many "
            "training samples have the same value. So log-likelihoods in the units of X are not defined there. Leave "
            "the step out."
        )
    return np.broadcast_to(found, shape)


def _function_of(transformer: Any) -> LogJacobian:
    """The function that is registered for a class, or for the base class whose `transform` it has."""
    for base in type(transformer).__mro__:
        if base in _LOG_JACOBIANS:
            return _LOG_JACOBIANS[base]
        if "transform" in vars(base):
            break
    raise UndefinedLogJacobian(
        f"{_name(transformer)} loses information about the samples, or is unknown: no log-Jacobian is registered for "
        "it, so log-likelihoods in the units of X are not defined. Leave it out, score the model on samples that are "
        "already transformed, or use sklatent.metrics.register_log_jacobian if the transformer is invertible."
    )


def _information_loss(transformer: Any, why: str, way_out: str) -> UndefinedLogJacobian:
    return UndefinedLogJacobian(
        f"{_name(transformer)} loses information about the samples: {why}. So log-likelihoods in the units of X are "
        f"not defined. {way_out}"
    )


def _name(transformer: Any) -> str:
    return type(transformer).__name__


def _transforms(step: Any) -> bool:
    """Whether a step of a Pipeline is more than the identity."""
    return step is not None and not (isinstance(step, str) and step == "passthrough")


def _values(transformer: Any, X: Any, **options: Any) -> Any:
    """Samples in float64, checked as the transformer does. Infinity is refused, and NaN is a missing value."""
    return validate_data(transformer, X, reset=False, dtype=np.float64, ensure_all_finite="allow-nan", **options)


def _sum_over_observed(X: NDArray[Any], log_slopes: NDArray[Any]) -> NDArray[Any]:
    """Log-Jacobian of a function of each feature on its own: a missing value has no density, and no part in it."""
    return np.where(np.isnan(X), 0.0, log_slopes).sum(axis=1)


def _of_scaling(power: int) -> LogJacobian:
    """Log-Jacobian of a scaler that multiplies each feature by `scale_` to this power."""

    def log_jacobian_of_scaling(scaler: Any, X: Any) -> ArrayLike:
        X = _values(scaler, X, accept_sparse=("csr", "csc"))
        if scaler.scale_ is None:
            return 0.0
        log_slopes = power * np.log(np.asarray(scaler.scale_, dtype=np.float64))
        total = log_slopes.sum() - (X != X) @ log_slopes  # without the missing values, and without a dense copy
        return np.where(_is_clipped(scaler, X), -np.inf, total)

    return log_jacobian_of_scaling


def _is_clipped(scaler: Any, X: Any) -> Any:
    """Mask of the samples that a scaler clips: it maps all of them to the ends of its range."""
    if not getattr(scaler, "clip", False):
        return False
    values = X.toarray() if issparse(X) else X
    low, high = (
        (scaler.data_min_, scaler.data_max_)
        if isinstance(scaler, MinMaxScaler)
        else (-scaler.max_abs_, scaler.max_abs_)
    )
    return np.any((values < low) | (values > high), axis=1)


def _of_power(transformer: PowerTransformer, X: Any) -> NDArray[Any]:
    """Box & Cox (1964): x^(lambda - 1); Yeo & Johnson (2000): (1 + |x|)^(sign(x) (lambda - 1))."""
    X = _values(transformer, X)
    power = np.asarray(transformer.lambdas_, dtype=np.float64) - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        if transformer.method == "box-cox":
            log_slopes = np.where(X > 0, power * np.log(X), -np.inf)
        else:
            log_slopes = np.sign(X) * power * np.log1p(np.abs(X))
    scaler = power_scaler(transformer)
    if scaler is not None and scaler.scale_ is not None:
        log_slopes = log_slopes - np.log(scaler.scale_)
    return _sum_over_observed(X, log_slopes)


def _of_quantiles(transformer: QuantileTransformer, X: Any) -> NDArray[Any]:
    X = _values(transformer, X)
    columns = zip(X.T, transformer.quantiles_.T, strict=True)
    log_slopes = [_of_quantiles_of_a_feature(transformer, x, quantiles) for x, quantiles in columns]
    return _sum_over_observed(X, np.stack(log_slopes, axis=1))


def _of_quantiles_of_a_feature(
    transformer: QuantileTransformer, x: NDArray[Any], quantiles: NDArray[Any]
) -> NDArray[Any]:
    """Logarithm of the slope of the interpolated distribution function, over that of the normal one if it is asked for.

    The transformer interpolates in both directions and takes the mean. The directions agree except at a value that
    several training samples share, where it jumps. At a quantile the slope is the mean of the slopes on its two sides.
    """
    references = transformer.references_
    last = max(len(quantiles) - 2, 0)
    is_normal = transformer.output_distribution == "normal"
    margin = QUANTILE_MARGIN if is_normal else 0.0
    low, high = quantiles[0], quantiles[-1]
    is_flat = ((x - margin < low) & (x != low)) | ((x + margin > high) & (x != high))
    first, after = (np.searchsorted(quantiles, x, side=side) for side in ("left", "right"))
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = np.append(np.diff(references) / np.diff(quantiles), 0.0)  # a single quantile is a constant
        slope = (slopes[np.clip(first - 1, 0, last)] + slopes[np.clip(after - 1, 0, last)]) / 2
        log_slope = np.where(after - first > 1, np.inf, np.log(slope))
    if is_normal:
        fractions = np.interp(x, quantiles, references).clip(QUANTILE_MARGIN, 1 - QUANTILE_MARGIN)
        log_slope = log_slope - norm.logpdf(norm.ppf(fractions))
    return np.where(is_flat, -np.inf, log_slope)


def _of_function(transformer: FunctionTransformer, X: Any) -> ArrayLike:
    if transformer.func is None:
        return 0.0
    if not isinstance(transformer.func, np.ufunc) or transformer.func not in _UFUNCS or transformer.kw_args:
        names = ", ".join(f"np.{function.__name__}" for function in _UFUNCS)
        raise UndefinedLogJacobian(
            f"FunctionTransformer(func={transformer.func!r}, kw_args={transformer.kw_args!r}) is unknown: its "
            f"log-Jacobian is only known for func in ({names}) without kw_args. For another function register a "
            "subclass of FunctionTransformer by sklatent.metrics.register_log_jacobian."
        )
    X = _values(transformer, X)
    with np.errstate(divide="ignore", invalid="ignore"):
        return _sum_over_observed(X, _UFUNCS[transformer.func](X))


def _of_pca(pca: Any, X: Any) -> ArrayLike:
    """A rotation has none; whitening divides by the standard deviations along the components."""
    X = _values(pca, X, accept_sparse=("csr", "csc"))
    n_components, n_features = pca.components_.shape
    if n_components < n_features:
        raise _information_loss(
            pca,
            f"it keeps {n_components} of {n_features} dimensions",
            f"Keep all {n_features}, or use PCAReducer as the model at the end of the Pipeline.",
        )
    if isinstance(pca, PCAReducer) and not issparse(X) and np.isnan(X).any():
        raise _information_loss(
            pca, "it imputes missing values", "Impute them before, or leave them to the model at the end."
        )
    return -0.5 * np.log(_whitening_variances(pca)).sum() if pca.whiten else 0.0


def _whitening_variances(pca: Any) -> NDArray[Any]:
    """The squares of what whitening divides by, with the floor that each of the two classes has."""
    if isinstance(pca, PCAReducer):
        return model_variances(pca.explained_variance_, pca.noise_variance_, pca.mean_)[0]
    variances = pca.explained_variance_
    return np.maximum(variances, np.finfo(variances.dtype).eps ** 2).astype(np.float64)


def _of_pipeline(pipeline: Pipeline, X: Any) -> NDArray[Any]:
    return push_forward(unroll(pipeline), copy(X))[0]  # a step with copy=False would leave its output in X


def _of_columns(transformer: ColumnTransformer, X: Any) -> ArrayLike:
    indices, weights = column_indices(transformer), transformer.transformer_weights or {}
    parts = [(name, part) for name, part, _ in transformer.transformers_ if _keeps(part) and weights.get(name) != 0]
    taken = sorted(index for name, _ in parts for index in indices[name])
    if taken != list(range(transformer.n_features_in_)):
        raise _information_loss(
            transformer,
            f"its parts keep the columns {taken} of {transformer.n_features_in_}, where each has to be kept once",
            "Use remainder='passthrough' for the columns that no part takes.",
        )
    by_name = hasattr(X, "columns") and hasattr(transformer, "feature_names_in_")
    total = np.zeros(np.shape(X)[:1])
    for name, part in parts:
        if len(indices[name]):  # scikit-learn does not fit a part without columns
            columns = list(transformer.feature_names_in_[indices[name]]) if by_name else indices[name]
            total = total + _of_part(part, weights.get(name) or 1.0, safe_indexing(X, columns, axis=1))
    return total


def _of_part(part: Any, weight: float, X: Any) -> ArrayLike:
    """Log-Jacobian of a part of a ColumnTransformer, whose output is multiplied by a weight."""
    found = log_jacobian(part, X) if _transforms(part) else 0.0
    if weight == 1:
        return found
    return found + np.log(abs(weight)) * (~np.isnan(np.asarray(X, dtype=np.float64))).sum(axis=1)


def _keeps(part: Any) -> bool:
    return not (isinstance(part, str) and part == "drop")


def _where(inside: NDArray[Any], log_slopes: NDArray[Any]) -> NDArray[Any]:
    return np.where(inside, log_slopes, -np.inf)


# Logarithm of the derivative, and -inf outside the domain. Of two samples with the same square one is lost: the
# logarithm of a negative number is NaN, which `log_jacobian` reports.
_UFUNCS: dict[Any, Callable[[NDArray[Any]], NDArray[Any]]] = {
    np.log: lambda x: _where(x > 0, -np.log(x)),
    np.log1p: lambda x: _where(x > -1, -np.log1p(x)),
    np.sqrt: lambda x: _where(x >= 0, -np.log(2 * np.sqrt(x))),
    np.exp: lambda x: x,
    np.expm1: lambda x: x,
    np.square: lambda x: np.log(2 * x),
}

_LOG_JACOBIANS: dict[type, LogJacobian] = {
    StandardScaler: _of_scaling(-1),
    RobustScaler: _of_scaling(-1),
    MaxAbsScaler: _of_scaling(-1),
    MinMaxScaler: _of_scaling(1),
    PowerTransformer: _of_power,
    QuantileTransformer: _of_quantiles,
    FunctionTransformer: _of_function,
    PCA: _of_pca,
    PCAReducer: _of_pca,
    Pipeline: _of_pipeline,
    ColumnTransformer: _of_columns,
}
