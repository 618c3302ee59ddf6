"""Metrics of encoding and decoding."""

__all__ = ["reconstruction_error", "reconstruction_scorer"]

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_array

from sklatent._sklearn_compat import check_sample_weight


def reconstruction_error(X: ArrayLike, X_reconstructed: ArrayLike, *, sample_weight: ArrayLike | None = None) -> float:
    r"""Squared error summed over the features, averaged over the samples.

    .. math:: \frac1n \sum_i \|x_i - \hat x_i\|^2

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Samples.
    X_reconstructed : array-like of shape (n_samples, n_features)
        Reconstructions of the samples.
    sample_weight : array-like of shape (n_samples,) or None, default=None
        Sample weights.

    Returns
    -------
    error : float
        Reconstruction error in squared units of X; the best value is 0.0. Divide it by n_features for the mean squared
        error.

    See Also
    --------
    reconstruction_scorer : Scorer of a fitted transformer, the negative of this error.

    References
    ----------
    Chaudhury (2024), "Math and Architectures of Deep Learning", section 14.5 and listing 14.1.

    Examples
    --------
    >>> from sklatent.metrics import reconstruction_error
    >>> reconstruction_error([[0, 0], [1, 1]], [[0, 1], [1, 1]])
    0.5
    """
    rows, reconstructed = (check_array(array, dtype=np.float64) for array in (X, X_reconstructed))
    if rows.shape != reconstructed.shape:
        raise ValueError(f"X and X_reconstructed must have the same shape, got {rows.shape} and {reconstructed.shape}.")
    weights = check_sample_weight(sample_weight, rows)
    return float(np.average(((rows - reconstructed) ** 2).sum(axis=1), weights=weights))


def reconstruction_scorer(estimator: Any, X: ArrayLike, y: Any = None) -> float:
    """Negative reconstruction error of a fitted transformer, for the parameter `scoring` of a grid search.

    Parameters
    ----------
    estimator : object
        Fitted transformer with `transform` and `inverse_transform`: a model of this package, scikit-learn's PCA or a
        Pipeline.
    X : array-like of shape (n_samples, n_features)
        Samples to reconstruct.
    y : Ignored
        Not used, present for API consistency by convention.

    Returns
    -------
    score : float
        Negative of `reconstruction_error`, in squared units of X; larger is better, and the best value is 0.0.

    Examples
    --------
    >>> from sklatent import PCAReducer
    >>> from sklatent.metrics import reconstruction_scorer
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import GridSearchCV
    >>> search = GridSearchCV(PCAReducer(), {"nz": [1, 2, 3]}, scoring=reconstruction_scorer)
    >>> search.fit(load_iris().data).best_params_
    {'nz': 3}
    """
    if not (hasattr(estimator, "transform") and hasattr(estimator, "inverse_transform")):
        raise TypeError(
            "reconstruction_scorer needs an estimator with transform and inverse_transform, "
            f"got {type(estimator).__name__}."
        )
    return -reconstruction_error(X, estimator.inverse_transform(estimator.transform(X)))
