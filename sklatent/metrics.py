"""Metrics of encoding, decoding and densities, and scorers of searches."""

__all__ = [
    "log_likelihood_samples",
    "log_likelihood_scorer",
    "reconstruction_error",
    "reconstruction_scorer",
    "register_log_jacobian",
]

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array

from sklatent._jacobians import push_forward, register_log_jacobian, unroll
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


def log_likelihood_samples(estimator: Any, X: ArrayLike) -> NDArray[np.float64]:
    r"""Log-likelihood of each sample in the units of the X that a Pipeline is given.

    A density model at the end of a Pipeline scores what the steps before it make of a sample, so a scaler adds a
    constant to its log-likelihoods, and those of different Pipelines cannot be compared. With the transformation t of
    these steps and the density q of the model,

    .. math:: \ln p(x) = \ln q(t(x)) + \ln \left| \det \frac{\partial t}{\partial x} \right|

    is a density with respect to Lebesgue measure in the units of X, whatever the steps are.

    The last term, the log-Jacobian, is known for StandardScaler, MinMaxScaler, MaxAbsScaler, RobustScaler,
    PowerTransformer, QuantileTransformer, FunctionTransformer (with log, log1p, sqrt or their inverses exp, expm1 and
    square, of NumPy), scikit-learn's PCA and `PCAReducer` if they keep all dimensions, "passthrough", and for
    ColumnTransformer and Pipelines of those. `register_log_jacobian` adds others.

    Parameters
    ----------
    estimator : object
        Fitted density model whose `score_samples` gives log-densities, such as an estimator of this package,
        KernelDensity or GaussianMixture; a Pipeline that ends with one; or a search over such a Pipeline.
    X : array-like of shape (n_samples, n_features)
        Samples. A missing value (NaN) that the steps leave to the model has no part in the density.

    Returns
    -------
    log_prob : ndarray of shape (n_samples,)
        Log-likelihood of each sample in nats. It has the meaning that `score_samples` of the model has: a density, a
        bound or an estimate. -inf for a sample outside the support of the steps (see Notes).

    Raises
    ------
    TypeError
        If the model at the end has no `score_samples`.
    ValueError
        If a step loses information or is unknown, such as a PCA of fewer components, OneHotEncoder or SelectKBest; if
        a sample has no finite density, such as one at a value that many training samples of a QuantileTransformer
        share; or if X is not valid input.

    See Also
    --------
    log_likelihood_scorer : Their mean, for the parameter `scoring` of a search.
    register_log_jacobian : Adds a transformer.

    Notes
    -----
    QuantileTransformer, and MinMaxScaler and MaxAbsScaler with `clip=True`, map everything beyond the training samples
    to one value. The Pipeline gives these samples the density 0, and a single one of them makes the mean
    log-likelihood -inf. Prefer PowerTransformer for selecting models. The same holds for values outside the domain of
    the logarithm, the square root or the transformation of Box & Cox.

    References
    ----------
    Casella & Berger (2002), "Statistical inference", section 4.3 and eq. 4.6.7.

    Examples
    --------
    >>> from sklatent import PCAReducer
    >>> from sklatent.metrics import log_likelihood_samples
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> X = load_iris().data
    >>> scaled = make_pipeline(StandardScaler(), PCAReducer()).fit(X)
    >>> plain = PCAReducer().fit(X)  # the same normal density in other units
    >>> print(f"{scaled.score(X):.3f} {log_likelihood_samples(scaled, X).mean():.3f} {plain.score(X):.3f}")
    -3.268 -2.533 -2.533
    """
    steps, model = unroll(estimator)
    if not hasattr(model, "score_samples"):
        raise TypeError(
            f"log_likelihood_samples needs an estimator with score_samples, got {type(model).__name__}. A Pipeline has "
            "to end with a density model."
        )
    log_prob, Z = push_forward(steps, X)
    if Z is not None:
        log_prob[log_prob > -np.inf] += np.asarray(model.score_samples(Z))
    return log_prob


def log_likelihood_scorer(estimator: Any, X: ArrayLike, y: Any = None) -> float:
    """Mean log-likelihood in the units of X, for the parameter `scoring` of a search.

    Unlike `score`, it compares Pipelines with different scalers or transformations of the features.

    Parameters
    ----------
    estimator : object
        Fitted density model or Pipeline, see `log_likelihood_samples`.
    X : array-like of shape (n_samples, n_features)
        Samples to score.
    y : Ignored
        Not used, present for API consistency by convention.

    Returns
    -------
    score : float
        Mean of `log_likelihood_samples` in nats per sample; larger is better.

    Examples
    --------
    >>> from sklatent import PCAReducer
    >>> from sklatent.metrics import log_likelihood_scorer
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklearn.pipeline import Pipeline
    >>> from sklearn.preprocessing import PowerTransformer, StandardScaler
    >>> pipeline = Pipeline([("scale", "passthrough"), ("pca", PCAReducer(6))])
    >>> steps = ["passthrough", StandardScaler(), PowerTransformer()]
    >>> search = GridSearchCV(pipeline, {"scale": steps}, scoring=log_likelihood_scorer)
    >>> search.fit(load_wine().data).best_params_
    {'scale': PowerTransformer()}
    """
    return float(np.mean(log_likelihood_samples(estimator, X)))
