"""Metrics of encoding, decoding and densities, and scorers of searches."""

__all__ = [
    "active_units_scorer",
    "distortion_scorer",
    "log_likelihood_samples",
    "log_likelihood_scorer",
    "rate_distortion",
    "rate_scorer",
    "reconstruction_error",
    "reconstruction_scorer",
    "register_log_jacobian",
]

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array

from sklatent._base import BaseLatentModel, active_units, posterior_means, rate_distortion_samples
from sklatent._jacobians import log_density, push_forward, register_log_jacobian, unroll
from sklatent._sklearn_compat import check_sample_weight


def reconstruction_error(X: ArrayLike, X_reconstructed: ArrayLike, *, sample_weight: ArrayLike | None = None) -> float:
    r"""Squared error summed over the features, averaged over the samples.

    .. math:: \frac1n \sum_i \|x_i - \hat x_i\|^2

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Samples. Missing values (NaN) are left out of the error.
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
    rows = check_array(X, dtype=np.float64, ensure_all_finite="allow-nan")
    reconstructed = check_array(X_reconstructed, dtype=np.float64)
    if rows.shape != reconstructed.shape:
        raise ValueError(f"X and X_reconstructed must have the same shape, got {rows.shape} and {reconstructed.shape}.")
    weights = check_sample_weight(sample_weight, rows)
    return float(np.average(np.nansum((rows - reconstructed) ** 2, axis=1), weights=weights))


def reconstruction_scorer(estimator: Any, X: ArrayLike, y: Any = None) -> float:
    """Negative reconstruction error of a fitted transformer, for the parameter `scoring` of a grid search.

    Parameters
    ----------
    estimator : object
        Fitted transformer with `transform` and `inverse_transform`: a model of this package, scikit-learn's PCA or a
        Pipeline.
    X : array-like of shape (n_samples, n_features)
        Samples to reconstruct. Missing values (NaN) are left out of the error.
    y : Ignored
        Not used, present for API consistency by convention.

    Returns
    -------
    score : float
        Negative of `reconstruction_error`, in squared units of X; larger is better, and the best value is 0.0.

    See Also
    --------
    reconstruction_error : The error of given reconstructions.

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

    `GenerativeClassifier` and `LatentOutlierDetector` score a Pipeline in the same way.

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
    return log_density(estimator, X)


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

    See Also
    --------
    log_likelihood_samples : The log-likelihood of each sample.

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


def rate_distortion(estimator: Any, X: ArrayLike) -> tuple[float, float]:
    r"""Rate and distortion of a latent model: what the latent codes cost, and what they leave out.

    .. math::
        R = \frac1n \sum_i \mathrm{KL}(q(z | x_i) \| p(z)), \quad
        D = -\frac1n \sum_i \mathrm{E}_{q(z | x_i)} \ln p(x_i | z)

    The rate is the mean information that a latent code holds about its sample. The evidence lower bound is -(R + D),
    and a VAE is trained to minimize D + beta R. Models with different `nz` and `beta` lie on a curve in the plane of R
    and D. A good choice is at its knee, beyond which more nats of rate take off little distortion.

    - `VAETransformer`: both are averages over `n_draws` Monte Carlo samples of q(z | x); the rate is exact for
      `prior="standard_normal"`.
    - `PCAReducer`: both are exact, from the posterior of probabilistic PCA, and add up to minus the log-likelihood. If
      it keeps all dimensions, the noise variance is the smallest variance.
    - `AutoencoderTransformer`: an encoder without a posterior has no rate of its own, so q is the normal approximation
      of the posterior about the most probable latent code, and p(z) the fitted latent density. For `density="laplace"`
      both add up to minus the score. They are exact for a linear decoder with Gaussian likelihood.

    Parameters
    ----------
    estimator : object
        Fitted estimator of this package, a Pipeline with one among its steps (the last of them counts), or a search
        over such a Pipeline.
    X : array-like of shape (n_samples, n_features)
        Samples.

    Returns
    -------
    rate : float
        Nats per sample, at least 0 up to the Monte Carlo error.
    distortion : float
        Nats per sample in the units of X: the steps before the model count as in `log_likelihood_samples`.

    Raises
    ------
    TypeError
        If there is no latent model of this package.
    ValueError
        If a step before it loses information about the samples or is unknown, or if samples are outside the support of
        the steps. `rate_scorer` needs no such steps.

    See Also
    --------
    rate_scorer, distortion_scorer, active_units_scorer : For the parameter `scoring` of a search.

    References
    ----------
    Alemi et al. (2018), "Fixing a broken ELBO", eq. 1 to 4 and figure 1. Tipping & Bishop (1999), "Probabilistic
    principal component analysis", eq. 6 to 7.

    Examples
    --------
    >>> from sklatent import PCAReducer
    >>> from sklatent.metrics import rate_distortion
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> for nz in (1, 2, 3):
    ...     rate, distortion = rate_distortion(PCAReducer(nz).fit(X), X)
    ...     print(f"nz={nz}: rate {rate:.2f}, distortion {distortion:.2f} nats per sample")
    nz=1: rate 1.80, distortion 1.34 nats per sample
    nz=2: rate 2.98, distortion -0.28 nats per sample
    nz=3: rate 4.33, distortion -1.80 nats per sample
    """
    steps, model = _latent_model(estimator)
    log_det, Z = push_forward(steps, X)
    if not np.isfinite(log_det).all():
        raise ValueError(
            f"rate_distortion needs samples within the support of the steps before {type(model).__name__}, got "
            f"{np.isinf(log_det).sum()} of {len(log_det)} samples outside."
        )
    rate, distortion = rate_distortion_samples(model, Z).mean(axis=0)
    return float(rate), float(distortion - log_det.mean())


def rate_scorer(estimator: Any, X: ArrayLike, y: Any = None) -> float:
    """Negative rate of a latent model, for the parameter `scoring` of a search.

    The model may be any step of a Pipeline, with a classifier after it, say, and the steps before it may be any
    transformers.

    Parameters
    ----------
    estimator : object
        Fitted latent model or Pipeline, see `rate_distortion`.
    X : array-like of shape (n_samples, n_features)
        Samples.
    y : Ignored
        Not used, present for API consistency by convention.

    Returns
    -------
    score : float
        Minus the rate in nats per sample. As for every scorer larger is better: fewer nats for the same distortion. The
        sum with `distortion_scorer` is the evidence lower bound.

    See Also
    --------
    distortion_scorer : What the latent codes leave out.
    rate_distortion : Both of a fitted model.

    Examples
    --------
    >>> from sklatent import PCAReducer
    >>> from sklatent.metrics import distortion_scorer, rate_scorer
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import GridSearchCV
    >>> scoring = {"rate": rate_scorer, "distortion": distortion_scorer}
    >>> search = GridSearchCV(PCAReducer(), {"nz": [1, 2, 3]}, scoring=scoring, refit=False).fit(load_iris().data)
    >>> print((-search.cv_results_["mean_test_rate"]).round(1))
    [2.1 3.4 4.8]
    """
    steps, model = _latent_model(estimator)
    return -float(rate_distortion_samples(model, _transformed(steps, X))[:, 0].mean())


def distortion_scorer(estimator: Any, X: ArrayLike, y: Any = None) -> float:
    """Negative distortion of a latent model, for the parameter `scoring` of a search.

    Parameters
    ----------
    estimator : object
        Fitted latent model or Pipeline, see `rate_distortion`.
    X : array-like of shape (n_samples, n_features)
        Samples.
    y : Ignored
        Not used, present for API consistency by convention.

    Returns
    -------
    score : float
        Minus the distortion, in nats per sample in the units of X; larger is better.

    See Also
    --------
    rate_scorer : The other term of the evidence lower bound, with an example of both.

    Examples
    --------
    >>> import numpy as np
    >>> from sklatent import PCAReducer
    >>> from sklatent.metrics import distortion_scorer, rate_scorer
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> pca = PCAReducer(2).fit(X)
    >>> bool(np.isclose(rate_scorer(pca, X) + distortion_scorer(pca, X), pca.score(X)))  # exact for PCA
    True
    """
    return -rate_distortion(estimator, X)[1]


def active_units_scorer(estimator: Any, X: ArrayLike, y: Any = None) -> int:
    """Number of latent dimensions that are used, for the parameter `scoring` of a search.

    A latent dimension is active if the variance of its posterior mean over the samples, in units in which the prior is
    standard normal, is larger than 0.01.

    Parameters
    ----------
    estimator : object
        Fitted latent model or Pipeline, see `rate_distortion`. For `PCAReducer` the posterior mean is that of
        probabilistic PCA, and for `AutoencoderTransformer` the most probable latent code. For a `VAETransformer` with a
        learned prior the units are those of the latent space.
    X : array-like of shape (n_samples, n_features)
        Samples.
    y : Ignored
        Not used, present for API consistency by convention.

    Returns
    -------
    n_active : int
        Number of active latent dimensions, from 0 to the latent dimension. Compare it with the latent dimension: it is
        no score to be maximized.

    See Also
    --------
    rate_scorer : The nats that all dimensions hold together.

    References
    ----------
    Burda, Grosse & Salakhutdinov (2016), "Importance weighted autoencoders", section 5.1.

    Examples
    --------
    >>> import numpy as np
    >>> from sklatent import PCAReducer
    >>> from sklatent.metrics import active_units_scorer
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((500, 2)) @ rng.standard_normal((2, 6)) + 0.1 * rng.standard_normal((500, 6))
    >>> active_units_scorer(PCAReducer(2).fit(X), X)
    2
    """
    steps, model = _latent_model(estimator)
    return int(active_units(posterior_means(model, _transformed(steps, X))).sum())


def _latent_model(estimator: Any) -> tuple[Sequence[Any], BaseLatentModel]:
    """The last latent model among the steps of an estimator, and the steps before it."""
    steps = unroll(estimator)
    numbers = [number for number, step in enumerate(steps) if isinstance(step, BaseLatentModel)]
    if not numbers:
        raise TypeError(
            "Rate and distortion need a PCAReducer, an AutoencoderTransformer or a VAETransformer, or a Pipeline with "
            f"one among its steps, got {type(estimator).__name__}."
        )
    return steps[: numbers[-1]], steps[numbers[-1]]


def _transformed(steps: Sequence[Any], X: Any) -> Any:
    return reduce(lambda samples, step: step.transform(samples), steps, X)
