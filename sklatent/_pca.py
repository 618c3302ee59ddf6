"""Principal component analysis as a density model (probabilistic PCA)."""

__all__ = ["PCAReducer"]

import math
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral
from typing import Any, ClassVar, Literal, Self
from weakref import WeakKeyDictionary

import numpy as np
from array_api_compat import array_namespace, is_torch_array, to_device
from array_api_compat import device as device_of
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import assert_all_finite, check_is_fitted, validate_data

from sklatent._base import (
    FLOAT_DTYPES,
    BaseLatentModel,
    all_or_nothing,
    check_loaded_array,
    check_total_weight,
    forget_fit,
    learns_like,
    spawn_seeds,
)
from sklatent._memo import is_equal
from sklatent._ppca.blocks import BlockRows, Blocks, centered_rows
from sklatent._ppca.centered import CenteredRows, center, is_near_origin, split
from sklatent._ppca.chunks import slices
from sklatent._ppca.density import (
    NestedScores,
    feature_log_density,
    feature_precisions,
    log_density,
    model_variances,
    scaled_axes,
    squared_distances,
)
from sklatent._ppca.dimension import minka_dimension, parallel_dimension
from sklatent._ppca.missing_values import LEAST_NOISE, FactorModel, spectrum_of_incomplete
from sklatent._ppca.moments import FactoredMoments, NotFiniteError
from sklatent._ppca.solvers import Spectrum, decompose, spectrum_of_moments
from sklatent._sklearn_compat import Interval, RealNotInt, StrOptions, fit_context, get_namespace
from sklatent._sources.dask_arrays import DaskBlocks, is_lazy, lazy_weights
from sklatent._sources.parquet import opened
from sklatent._sources.stored import StoredBlocks, is_stored

Array = Any

# Up to this number of features `partial_fit` keeps a scatter matrix of at most 200 MB. Beyond it keeps a factor of it.
LARGE_SCATTER = 5000
# The scores that models of a search share, and the attributes that each was given: one that was changed since has other
# scores. They are kept here, since estimators are pickled.
_shared_scores: "WeakKeyDictionary[PCAReducer, tuple[SharedScores, tuple[Any, ...]]]" = WeakKeyDictionary()
# Number of samples that `partial_fit` merges at a time when it keeps a factor.
N_FACTORED_ROWS = 500


@dataclass(frozen=True)
class Learned:
    """What `PCAReducer` learns from samples.

    Attributes
    ----------
    spectrum : Spectrum
        At least the components that are asked for.
    like : array of shape (0,)
        In the namespace, in the precision and on the device of the samples.
    has_converged : bool
        Whether EM over missing values has.
    n_kept : int or None
        Number of components, where the spectrum does not tell it: by parallel analysis, which needs the samples; and
        with missing values, where the spectrum is that of a model with this number of components.
    scores : SharedScores or None
        Of all the models that share this spectrum in a search, if several do.
    """

    spectrum: Spectrum
    like: Any
    has_converged: bool = True
    n_kept: int | None = None
    scores: "SharedScores | None" = None

    def __deepcopy__(self, memo: Any) -> "Learned":
        return self  # nothing writes to it: `_publish` copies

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"scores": None}  # in another process nobody shares them


class SharedScores:
    """Mean log-likelihoods of samples under models that share a spectrum, from one projection of the samples.

    Parameters
    ----------
    spectrum : Spectrum
    """

    def __init__(self, spectrum: Spectrum):
        self.spectrum = spectrum
        self._known: list[tuple[NDArray[Any], NestedScores]] = []

    def score(self, X: Any, nz: int) -> float | None:
        """Mean log-likelihood of X under the model with nz components; None where each sample has to be looked at."""
        is_plain = isinstance(X, np.ndarray) and X.dtype in FLOAT_DTYPES and X.ndim == 2 and len(X) > 0
        if not (is_plain and X.shape[1] == len(self.spectrum.mean)):
            return None
        nested = next((nested for samples, nested in self._known if is_equal(samples, X)), None)
        if nested is None:
            nested = NestedScores(self.spectrum, X)
            self._known.append((X.copy(), nested))
        score = nested.score(nz)
        return score if math.isfinite(score) else None  # NaN or infinity in X


class PCAReducer(BaseLatentModel):
    r"""Principal component analysis (PCA) as a density model that can be scored and sampled.

    Probabilistic PCA is the model

    .. math:: z \sim N(0, I), \quad x | z \sim N(\mu + W z, \sigma^2 I),

    At the maximum of the likelihood, the columns of W span the space of the `nz` leading eigenvectors V of the sample
    covariance, and :math:`\sigma^2` is the mean of the remaining eigenvalues. Then x is normally distributed with
    covariance :math:`V \mathrm{diag}(\lambda - \sigma^2) V' + \sigma^2 I`. The fitted attributes are those of
    :class:`sklearn.decomposition.PCA`, with the same meanings and signs.

    NaN is treated as a missing value. The latent code of a sample with missing values is the posterior mean of its
    projection given the observed values, and `impute` fills in the missing values.

    Parameters
    ----------
    nz : int, float, "mle", "parallel" or None, default=None
        Number of components to keep, like `n_components` of scikit-learn's PCA. None keeps
        min(n_samples, n_features) components. A float in (0, 1) keeps the smallest number of components that explain
        more than this fraction of the variance. "mle" uses Minka's estimate, which assumes normal noise of the same
        variance in all features, and more samples than features. "parallel" uses parallel analysis, which does not: it
        keeps the components that stand out from the same data with random signs, and at least one. It takes the time
        of some hundreds of fits, and does not support sparse X, X in blocks, missing values, `sample_weight` and
        `partial_fit`.
    whiten : bool, default=False
        Whether to divide the latent codes by their standard deviation.
    solver : {"auto", "covariance", "full", "randomized"}, default="auto"
        "covariance" computes the eigenvectors of the scatter matrix, or of the Gram matrix if there are fewer samples
        than features, with matrix products in the precision of X. "full" computes a QR decomposition and the singular
        vectors of its triangular factor; it is accurate to the last component, and does not support sparse X.
        "randomized" finds `nz` components in a block Krylov space, for data with many samples and many features; the
        last components may be inaccurate if the variances decrease slowly. "auto" selects the cheaper of "covariance"
        and "randomized". If the spectrum shows a loss of precision, it continues with matrix products in float64, and
        then with "full".
    n_oversamples : int, default=10
        Used by "randomized". Each block has (nz + n_oversamples) / 2 columns, and nz + n_oversamples if `n_iter` is 1,
        rounded up to a multiple of 16.
    n_iter : int or "auto", default="auto"
        Used by "randomized". Number of blocks of the Krylov space, each of which requires two products with X. "auto"
        is 7.
    device : str, default="auto"
        Device for the matrix products: "cpu", "cuda" or "xpu", or with a number ("cuda:1"). NumPy arrays are moved to
        it chunk by chunk. "auto" selects CUDA or XPU if PyTorch is already loaded and X is large enough, by a rule on
        sizes, and leaves tensors on their device. The fitted attributes are on the device of X.
    random_state : int, RandomState instance or None, default=None
        Controls the initialization of "randomized" and the random signs of `nz="parallel"`. Pass an int for
        reproducible results.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        Principal axes in the precision of X, sorted by decreasing variance. The entry of largest magnitude of each axis
        is positive.
    explained_variance_ : ndarray of shape (n_components,)
        Variance along each axis, with divisor n_samples - 1. The variances, ratios, singular values and the mean are
        float64 for every precision of X.
    explained_variance_ratio_ : ndarray of shape (n_components,)
        Fraction of the total variance along each axis; 0 if X is constant.
    singular_values_ : ndarray of shape (n_components,)
        Singular values of the centred data.
    mean_ : ndarray of shape (n_features,)
        Mean of each feature.
    n_components_ : int
        Number of components.
    noise_variance_ : float
        Mean of the min(n_samples, n_features) - n_components variances that were left out; 0.0 if there are none.
    n_samples_ : int
        Number of training samples. A sample with an integer weight counts that many times.
    moments_ : Moments
        Weight, mean and scatter of the training samples; only available after `partial_fit`.
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features seen during `fit`; only defined if X has feature names that are all strings.

    See Also
    --------
    sklearn.decomposition.PCA : Computes the same components.
    AutoencoderTransformer : Learns a curved manifold instead of a flat one.

    References
    ----------
    .. [1] Tipping & Bishop (1999), "Probabilistic principal component analysis", JRSS B 61, eq. 4 to 8 and appendix B.

    For "mle", Minka (2000), "Automatic choice of dimensionality for PCA". For "parallel", Horn (1965), "A rationale and
    test for the number of factors in factor analysis"; Hong, Sheng & Dobriban (2020), "Selecting the number of
    components in PCA via random signflips".

    Chaudhury (2024), "Math and Architectures of Deep Learning", section 14.4 and listing 14.1.

    Examples
    --------
    >>> from sklatent import PCAReducer
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> pca = PCAReducer(2).fit(X)
    >>> pca.transform(X).shape
    (150, 2)
    >>> round(pca.score(X), 3)  # nats per sample
    -2.7
    """

    # Chunks that stay in the cache: centring and squaring them then costs little beside products with few columns.
    _CHUNK_SIZE = 2**20
    _N_SCORE_ROWS = 256
    _ROUTE = "shared_svd"
    _free_parameters = frozenset({"nz", "whiten"})

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "nz": [
            Interval(Integral, 1, None, closed="left"),
            Interval(RealNotInt, 0, 1, closed="neither"),
            StrOptions({"mle", "parallel"}),
            None,
        ],
        "whiten": ["boolean"],
        "solver": [StrOptions({"auto", "covariance", "full", "randomized"})],
        "n_oversamples": [Interval(Integral, 1, None, closed="left")],
        "n_iter": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "device": [str],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        nz: int | float | Literal["mle", "parallel"] | None = None,
        *,
        whiten: bool = False,
        solver: Literal["auto", "covariance", "full", "randomized"] = "auto",
        n_oversamples: int = 10,
        n_iter: int | Literal["auto"] = "auto",
        device: str = "auto",
        random_state: Any = None,
    ):
        self.nz = nz
        self.whiten = whiten
        self.solver = solver
        self.n_oversamples = n_oversamples
        self.n_iter = n_iter
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the model to X.

        Parameters
        ----------
        X : array-like or sparse array of shape (n_samples, n_features)
            Training data. float32 and float64 are used as they are; other types are converted to float64. A memory map
            is read chunk by chunk and never copied as a whole. Sparse arrays are not densified. NaN is treated as a
            missing value: the model then maximizes the likelihood of the observed values by the EM algorithm, on
            the CPU for NumPy arrays and on their device for tensors.
            Dask arrays and DataFrames, arrays of h5py or zarr, and Parquet datasets (the path of a folder or file, or a
            `pyarrow.dataset.Dataset`) are read in blocks, each of which leaves its mean and scatter in float64. One
            pass is enough, unless a block Krylov space (for more than 5000 features), "full" or EM needs more of them.
        y : Ignored
            Not used, present for API consistency by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Individual weights for each sample. A sample with weight 2 is equivalent to two copies of it, a sample with
            weight 0 to none.

        Returns
        -------
        self : object
            The fitted estimator. If `fit` raises an exception, the estimator is unchanged.

        See Also
        --------
        partial_fit : Fits in batches.
        sklearn.decomposition.PCA : The same components, without missing values and weights.

        Examples
        --------
        >>> import numpy as np
        >>> from sklatent import PCAReducer
        >>> from sklearn.datasets import load_iris
        >>> X = load_iris().data
        >>> X[::7, 0] = np.nan  # missing values
        >>> PCAReducer(2).fit(X).components_.shape
        (2, 4)
        """
        if sample_weight is not None and self.nz == "parallel":
            raise ValueError("sample_weight is not supported with nz='parallel'. Use repeated samples instead.")
        return super().fit(X, y, sample_weight)

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any = None, sample_weight: ArrayLike | None = None) -> Self:
        """Update the model with a batch of samples.

        After each call the model is the one that `fit` gives for the samples of all calls together. The first batch
        needs at least `nz` samples; the others may have any size. Matrix products are in float64, since the samples are
        not available for a second, more precise pass. Each call computes the eigenvectors of an
        n_features x n_features matrix, so batches of about n_features samples are the most efficient. With more than
        5000 features, a factor replaces this matrix; for an integer `nz` it has at most `nz + n_oversamples`
        directions. Then the result is exact as long as the total number of samples does not exceed that, and a good
        approximation if the variances that are left out are small.

        Parameters
        ----------
        X : array-like or sparse array of shape (n_samples, n_features)
            Batch of training data, which may be a dask array, or anything else that `fit` takes.
        y : Ignored
            Not used, present for API consistency by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Individual weights for each sample.

        Returns
        -------
        self : object
            The estimator, fitted to the samples of all calls of `partial_fit` since the last `fit`. If `partial_fit`
            raises an exception, the estimator is unchanged.

        See Also
        --------
        fit : All samples at once.

        Examples
        --------
        >>> import numpy as np
        >>> from sklatent import PCAReducer
        >>> from sklearn.datasets import load_iris
        >>> X = load_iris().data
        >>> pca = PCAReducer(2)
        >>> for batch in np.array_split(X, 4):
        ...     pca = pca.partial_fit(batch)
        >>> np.allclose(pca.explained_variance_, PCAReducer(2).fit(X).explained_variance_)
        True
        """
        if self.nz == "parallel":
            raise ValueError("partial_fit is not supported with nz='parallel', which needs all samples at once.")
        with all_or_nothing(self):
            former = getattr(self, "moments_", None)
            if former is None:
                forget_fit(self)
            X = self._check_training(X, reset=former is None)
            weights = self._check_weights(sample_weight, X)
            try:
                with np.errstate(over="ignore", invalid="ignore"):
                    moments = self._moments(X, weights, former)
            except NotFiniteError:
                if not self._has_missing(X):
                    raise
                raise ValueError(
                    "Input X contains NaN. PCAReducer does not accept missing values in partial_fit."
                ) from None
            self._check_size(moments.weight, moments.n_samples)
            nz = self.nz if isinstance(self.nz, Integral) else None
            self._publish(Learned(spectrum_of_moments(moments, nz), _nothing_of(X)))
            self.moments_ = moments
        return self

    def transform(self, X: Any) -> Any:
        """Project X onto the principal axes.

        Parameters
        ----------
        X : array-like or sparse array of shape (n_samples, n_features)
            Samples to transform.

        Returns
        -------
        Z : array of shape (n_samples, n_components)
            Latent codes V'(x - mean), in the precision of X. For samples with missing values, their expectation given
            the observed values. For a dask array or DataFrame it is a dask array, computed block by block when it is
            asked for.

        See Also
        --------
        inverse_transform : From latent codes to samples.

        Examples
        --------
        >>> from sklatent import PCAReducer
        >>> from sklearn.datasets import load_iris
        >>> PCAReducer(2).fit_transform(load_iris().data).shape
        (150, 2)
        """
        return super().transform(X)

    def score_samples(self, X: Any) -> NDArray[np.float64]:
        r"""Compute the exact log-likelihood log p(x) of each sample.

        With the projection :math:`y = V'(x - \mu)` and the residual :math:`r = x - \mu - V y`,

        .. math::
            \ln p(x) = -\frac12 \Bigl[ d \ln 2\pi + \sum_i \ln \lambda_i + (d - k) \ln \sigma^2
            + \sum_i \frac{y_i^2}{\lambda_i} + \frac{\|r\|^2}{\sigma^2} \Bigr],

        where d is the number of features and k the number of components. The cost is O(n d k), and no d x d matrix is
        formed.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples to score.

        Returns
        -------
        log_prob : ndarray of shape (n_samples,), float64
            Log-likelihood of each sample in nats: a log-density with respect to Lebesgue measure in the units of X. For
            samples with missing values, the exact marginal log-density of the observed values, with a noise variance of
            at least 1e-12 of the largest variance; 0.0 if no value is observed. Variances have a floor of 2.2e-16 times
            the largest variance (times the largest squared mean if X is constant, times 1 if X is zero), so scores are
            finite for rank-deficient data. For a dask array it is a dask array.

        See Also
        --------
        score : The mean over the samples.
        score_features : The score of each value.

        Examples
        --------
        >>> import numpy as np
        >>> from scipy.stats import multivariate_normal
        >>> from sklatent import PCAReducer
        >>> from sklearn.datasets import load_iris
        >>> X = load_iris().data
        >>> pca = PCAReducer(2).fit(X)
        >>> density = multivariate_normal(pca.mean_, pca.get_covariance())
        >>> np.allclose(pca.score_samples(X), density.logpdf(X))
        True
        """
        return super().score_samples(X)

    def score_features(self, X: Any) -> NDArray[np.float64]:
        r"""Compute the exact log-likelihood log p(x_j | all other features) of each value.

        It tells which value made a sample improbable. With the precision matrix P, the inverse of the covariance, the
        value of feature j given all others is normally distributed with variance :math:`1 / P_{jj}`, so

        .. math::
            \ln p(x_j | x_{-j}) = -\frac12 \Bigl[ \ln 2\pi - \ln P_{jj}
            + \frac{(P (x - \mu))_j^2}{P_{jj}} \Bigr],

        which is :math:`\ln p(x) - \ln p(x_{-j})`. The cost is O(n d k) for d features and k components, and no d x d
        matrix is formed.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples to score.

        Returns
        -------
        log_prob : ndarray of shape (n_samples, n_features), float64
            Conditional log-likelihood of each value in nats: a log-density in the unit of the feature. In samples with
            missing values it is conditional on the other observed values, and NaN for the missing ones. Variances have
            the floors of `score_samples`. For a dask array it is a dask array.

        See Also
        --------
        score_samples : The score of each sample.

        References
        ----------
        Rue & Held (2005), "Gaussian Markov random fields", theorem 2.3.

        Examples
        --------
        >>> from sklatent import PCAReducer
        >>> from sklearn.datasets import load_iris
        >>> pca = PCAReducer(2).fit(load_iris().data)
        >>> pca.score_features([[5.1, 3.5, 1.4, 2.2]]).argmin(axis=1)  # the petal width of another species
        array([3])
        """
        return super().score_features(X)

    def score(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> float:
        """Compute the mean log-likelihood of X.

        Parameters
        ----------
        X : array-like or sparse array of shape (n_samples, n_features)
            Samples to score.
        y : Ignored
            Not used, present for API consistency by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Individual weights for each sample.

        Returns
        -------
        score : float
            Mean of `score_samples` in nats per sample; larger is better.

        See Also
        --------
        score_samples : The score of each sample.

        Examples
        --------
        >>> import numpy as np
        >>> from sklatent import PCAReducer
        >>> from sklearn.datasets import load_iris
        >>> X = load_iris().data
        >>> pca = PCAReducer(2).fit(X)
        >>> bool(np.isclose(pca.score(X), pca.score_samples(X).mean()))
        True
        """
        if sample_weight is None and (mean := self._shared_score(X)) is not None:
            return mean
        return super().score(X, y, sample_weight)

    def get_covariance(self) -> NDArray[np.float64]:
        """Compute the covariance of the model.

        Returns
        -------
        covariance : ndarray of shape (n_features, n_features)
            V diag(lambda - s2) V' + s2 I, where s2 is `noise_variance_`.

        See Also
        --------
        get_precision : Its inverse.

        Examples
        --------
        >>> import numpy as np
        >>> from sklatent import PCAReducer
        >>> from sklearn.datasets import load_iris
        >>> X = load_iris().data
        >>> np.allclose(PCAReducer(3).fit(X).get_covariance(), np.cov(X.T))  # the noise is the fourth component
        True
        """
        check_is_fitted(self)
        xp = array_namespace(self.mean_)
        axes, noise = xp.astype(self.components_, xp.float64), self.noise_variance_
        excess = xp.clip(self.explained_variance_ - noise, min=0.0)
        return (axes.T * excess) @ axes + noise * xp.eye(self.n_features_in_, dtype=xp.float64, device=device_of(axes))

    def get_precision(self) -> NDArray[np.float64]:
        """Compute the inverse of the model's covariance, with the variance floor of `score_samples`.

        Returns
        -------
        precision : ndarray of shape (n_features, n_features)
            V diag(1 / lambda) V' + (I - V V') / s2, where s2 is `noise_variance_`.

        See Also
        --------
        get_covariance : Its inverse.

        Examples
        --------
        >>> import numpy as np
        >>> from sklatent import PCAReducer
        >>> from sklearn.datasets import load_iris
        >>> pca = PCAReducer(2).fit(load_iris().data)
        >>> np.allclose(pca.get_precision() @ pca.get_covariance(), np.eye(4))
        True
        """
        check_is_fitted(self)
        xp = array_namespace(self.mean_)
        axes = xp.astype(self.components_, xp.float64)
        variances, noise = self._model_variances()
        if self.n_components_ == self.n_features_in_:
            return (axes.T / variances) @ axes
        identity = xp.eye(self.n_features_in_, dtype=xp.float64, device=device_of(axes))
        return (axes.T * (1 / variances - 1 / noise)) @ axes + identity / noise

    def _learn(self, X: Any, weights: Array | None = None) -> "Learned":
        nz = self.nz if isinstance(self.nz, Integral) else None
        load = self._loader(X)
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is reported as what it is
                spectrum = decompose(
                    self._operator(X, weights if weights is None or load is None else load(weights), load),
                    self.solver,
                    nz,
                    n_oversamples=self.n_oversamples,
                    n_iter=self.n_iter,
                    seed=lambda: spawn_seeds(self.random_state, 1)[0],
                )
            return Learned(spectrum, _nothing_of(X), n_kept=self._n_parallel(X, spectrum))
        except NotFiniteError:
            if not self._has_missing(X):
                raise
        if isinstance(X, Blocks):
            self._check_size(*X.size(weights))
        if self.nz == "parallel":
            raise ValueError("Input X contains NaN. PCAReducer does not accept missing values with nz='parallel'.")
        with np.errstate(over="ignore", invalid="ignore"):
            spectrum, has_converged = spectrum_of_incomplete(X, nz, weights)
            n_kept = self._n_kept(spectrum)
            if nz is None and n_kept < len(spectrum.components) - 1:
                # What EM finds depends on nz: unlike complete samples, the first axes of more are not those of fewer.
                spectrum, has_converged = spectrum_of_incomplete(X, n_kept, weights)
        return Learned(spectrum, _nothing_of(X), has_converged, n_kept)

    def _operator(self, X: Any, weights: Any, load: Any) -> CenteredRows:
        """The centred samples. Blocks are read here, to the end, to learn whether there are enough samples."""
        if not isinstance(X, Blocks):
            return centered_rows(X, weights, load)
        is_wide = X.n_features > LARGE_SCATTER and self.solver != "covariance"
        rows = BlockRows(X, weights, diagonal=is_wide or self.solver in ("randomized", "full"))
        self._check_size(*rows.size())
        return rows

    def _check_size(self, weight: float, n_samples: int) -> None:
        """The checks of weights and of their number, which for blocks come after they were counted."""
        check_total_weight(weight, n_samples)
        self._check_weight(weight, n_samples)

    @classmethod
    def _learn_many(
        cls, models: Sequence[Any], Xs: Sequence[Any], weights: Sequence[Any] | None = None, **limits: Any
    ) -> list[Any]:
        """One spectrum for all models of the same samples that differ in `nz` and `whiten` alone."""
        learned: list[Any] = [None] * len(models)
        weights = learned if weights is None else weights
        groups = defaultdict(list)
        for number, (model, X, own) in enumerate(zip(models, Xs, weights, strict=True)):
            if model._can_share(X):
                groups[id(X), id(own), learns_like(model)].append(number)
        for numbers in groups.values():
            widest = max(numbers, key=lambda k: math.inf if models[k].nz is None else models[k].nz)
            if len(numbers) == 1 or not np.isfinite(Xs[widest]).all():  # what EM finds depends on nz
                continue
            with suppress(ValueError):  # which each fit meets too, and there it is reported
                found = models[widest]._learn(Xs[widest], weights[widest])
                found = replace(found, scores=SharedScores(found.spectrum))
                for k in numbers:
                    learned[k] = found
        return learned

    @property
    def _is_random(self) -> bool:  # type: ignore[override]
        return self.solver == "randomized" or self.nz == "parallel"

    def _can_share(self, X: Any) -> bool:
        """Whether the components are the first of those that a larger `nz` gives."""
        is_count = self.nz is None or (isinstance(self.nz, Integral) and 0 < self.nz <= min(X.shape))
        return is_count and self.solver in ("auto", "covariance", "full")

    def _has_missing(self, X: Any) -> bool:
        """Whether X contains NaN. Raise ValueError for infinity, and for NaN in a sparse X."""
        if isinstance(X, Blocks):
            return X.has_missing()
        name = type(self).__name__
        assert_all_finite(X.data if issparse(X) else X, allow_nan=not issparse(X), estimator_name=name, input_name="X")
        return not issparse(X) and bool(array_namespace(X).any(array_namespace(X).isnan(X)))

    def _publish(self, learned: "Learned") -> None:
        """Set the fitted attributes on the device of the samples, the axes in their precision."""
        spectrum, like = learned.spectrum, learned.like
        k = learned.n_kept or self._n_kept(spectrum)
        xp = array_namespace(like)
        self.mean_ = xp.asarray(_beside(like, spectrum.mean), copy=True)
        self.components_ = xp.asarray(xp.astype(_beside(like, spectrum.components)[:k, :], like.dtype), copy=True)
        self.explained_variance_ = xp.asarray(_beside(like, spectrum.variances)[:k], copy=True)
        self.explained_variance_ratio_ = self.explained_variance_ / (spectrum.total or 1.0)
        self.singular_values_ = xp.sqrt(self.explained_variance_ * spectrum.divisor)
        self.noise_variance_ = spectrum.noise_variance(k)
        self.n_components_ = k
        self.n_samples_ = spectrum.n_samples
        if learned.scores is not None and type(self) is PCAReducer:  # a subclass may score in another way
            _shared_scores[self] = learned.scores, deepcopy(self._density_attributes())
        if not learned.has_converged:
            message = f"{type(self).__name__}: the EM algorithm for missing values did not converge."
            warnings.warn(message, ConvergenceWarning)

    def _shared_score(self, X: Any) -> float | None:
        """The mean score of X, where a search has fitted several models to one spectrum and none was changed since."""
        if type(self) is not PCAReducer or self not in _shared_scores:
            return None
        shared, published = _shared_scores[self]
        is_unchanged = all(map(np.array_equal, published, self._density_attributes()))
        return shared.score(X, self.n_components_) if is_unchanged else None

    def _density_attributes(self) -> tuple[Any, ...]:
        """The fitted attributes that the density depends on."""
        return self.mean_, self.components_, self.explained_variance_, self.noise_variance_, self.n_components_

    def _n_kept(self, spectrum: Spectrum) -> int:
        rank = len(spectrum.components)
        if self.nz is None:
            return rank
        if isinstance(self.nz, Integral):
            return int(self.nz)
        variances = np.asarray(to_device(spectrum.variances, "cpu"))
        if self.nz == "mle":
            return minka_dimension(variances, spectrum.n_samples) if rank > 1 else 1
        shares = np.cumsum(variances / (spectrum.total or 1.0))  # the sums of explained_variance_ratio_, to the bit
        return min(int(np.searchsorted(shares, self.nz, side="right")) + 1, rank)

    def _n_parallel(self, X: Any, spectrum: Spectrum) -> int | None:
        """Number of components by parallel analysis on the CPU, if that is asked for."""
        if self.nz != "parallel":
            return None
        X, mean, components, variances = (
            np.asarray(to_device(array, "cpu")) for array in (X, spectrum.mean, spectrum.components, spectrum.variances)
        )
        n_positive = np.count_nonzero(variances)
        eigenvalues = variances[:n_positive] * spectrum.divisor
        return parallel_dimension(X - mean, components[:n_positive], eigenvalues, spawn_seeds(self.random_state, 1)[0])

    def _moments(self, X: Any, weights: Any, former: Any) -> Any:
        """Moments of X merged with those of the samples seen before."""
        load = self._loader(X)
        if self.n_features_in_ > LARGE_SCATTER:
            limit = int(self.nz) + self.n_oversamples if isinstance(self.nz, Integral) else None
            if not isinstance(X, Blocks):
                return _factored_moments(X, weights, limit, load, former)
            moments = X.total(_factored_moments, partial(_merged_factors, limit), weights, limit)
            return moments if former is None else _merged_factors(limit, former, moments)
        rows = centered_rows(X, weights, load)
        moments = rows.moments(rows.xp.float64)
        return moments if former is None else former.merge(moments)

    def _check_training(self, X: Any, reset: bool) -> Any:
        """X as samples to learn from: an array, or `Blocks` of what is not in memory."""
        if is_lazy(X):
            return self._check_blocks(DaskBlocks(self._validate_lazy(X, reset=reset)))
        X = opened(X)
        if is_stored(X):
            return self._check_blocks(StoredBlocks(self._validate_stored(X, reset=reset)))
        return self._check_rows(X, reset)

    def _check_blocks(self, X: Blocks) -> Blocks:
        """Raise ValueError for what takes more than totals over blocks."""
        if self.nz == "parallel":
            raise ValueError("nz='parallel' needs all samples in memory. Pass an array, or choose nz from a sample.")
        if self.device not in ("auto", "cpu"):
            raise ValueError(f"device={self.device!r} is not supported for X in blocks, whose products are on the CPU.")
        is_wide = X.n_features > LARGE_SCATTER and self.solver in ("auto", "randomized")
        if is_wide and not isinstance(self.nz, Integral):
            raise ValueError(
                f"nz={self.nz!r} must be an int for X in blocks with more than {LARGE_SCATTER} features, got "
                f"{X.n_features} features: all components of so many need a matrix of their squared number."
            )
        return X

    def _check_rows(self, X: Any, reset: bool) -> Any:
        X = validate_data(
            self,
            X,
            dtype=self._float_dtypes(X),
            accept_sparse=("csr", "csc"),
            ensure_all_finite=issparse(X) and not reset,  # dense data are checked by sums that are computed anyway
            reset=reset,
        )
        if reset and issparse(X) and self.nz == "parallel":
            raise TypeError("PCAReducer does not support sparse inputs with nz='parallel'. Pass a dense X.")
        if reset and issparse(X) and self.solver == "full":
            raise TypeError(
                'PCAReducer only support sparse inputs with the "auto", "covariance" and "randomized" solvers, while '
                f'"{self.solver}" was passed. See TruncatedSVD for a possible alternative.'
            )
        return X

    def _validate_training_rows(self, X: Any) -> Any:
        return self._check_training(X, reset=True)

    def _validate_rows(self, X: Any) -> Any:
        return self._check_rows(X, reset=False)

    def _check_weights(self, sample_weight: Any, X: Any) -> Array | None:
        if isinstance(X, DaskBlocks):
            return None if sample_weight is None else lazy_weights(sample_weight, X.X)
        if isinstance(X, StoredBlocks):
            return super()._check_weights(sample_weight, X.X)
        weights = super()._check_weights(sample_weight, X)
        return None if weights is None else _beside(X, weights)

    def _check_weight(self, weight: float, n_samples: int) -> None:
        """Raise ValueError if the samples so far do not allow `nz`."""
        super()._check_weight(weight, n_samples)
        n_samples, n_features = max(n_samples, int(weight)), self.n_features_in_
        if self.nz == "mle" and n_samples < n_features:
            raise ValueError("nz='mle' is only supported if n_samples >= n_features")
        if isinstance(self.nz, Integral) and self.nz > min(n_samples, n_features):
            raise ValueError(
                f"nz={self.nz} must be between 1 and min(n_samples, n_features)={min(n_samples, n_features)} "
                f"with solver={self.solver!r}"
            )

    def _loader(self, X: Any) -> Callable[[Any], Array] | None:
        """Function that moves a chunk of X to `device`, or None if X is already there."""
        if (
            isinstance(X, Blocks)
            or issparse(X)
            or self.device == "cpu"
            or (self.device == "auto" and "torch" not in sys.modules)
        ):
            return None
        import torch

        from sklatent._nn.devices import has_float64, pays, resolve_device

        device = resolve_device(self.device)
        if not has_float64(device):
            raise ValueError(f"device={self.device!r} is not supported by PCAReducer, which adds up in float64.")
        n_products = math.prod(X.shape) * min(X.shape)
        if device == "cpu" or (self.device == "auto" and (is_torch_array(X) or not pays(n_products, n_bytes=X.nbytes))):
            return None

        return lambda rows: torch.as_tensor(rows).to(device)

    def _encode(self, X: Any) -> Array:
        """Projections of the samples, or their expectations given the observed values."""
        with np.errstate(over="ignore", invalid="ignore"):  # values that are not finite are reported as such
            codes = self._project(X)
        xp = array_namespace(codes)
        incomplete = self._incomplete(X, codes[:, 0])
        if incomplete is not None:
            codes[incomplete] = self._project(xp.astype(self._factor_model(X).fill(X[incomplete]), X.dtype))
        return codes

    def _project(self, X: Any) -> Array:
        xp = array_namespace(X.data if issparse(X) else X)
        axes = xp.astype(_beside(X, self._scaled_components(-1)), X.dtype, copy=False).T
        rest = _beside(X, self.mean_)
        if not (issparse(X) or self._is_near_origin(X.dtype)):
            head, rest = split(rest, X.dtype)
            X = center(X, [head])
        codes = X @ axes
        offset = xp.astype(rest, xp.float64) @ xp.astype(axes, xp.float64)
        codes -= xp.astype(offset, X.dtype)
        return codes

    def _is_near_origin(self, dtype: Any) -> bool:
        return is_near_origin(self.mean_, float(array_namespace(self.mean_).sum(self.explained_variance_)), dtype)

    def _decode(self, Z: Array) -> Array:
        xp = array_namespace(Z)
        axes = xp.astype(_beside(Z, self._scaled_components(1)), Z.dtype, copy=False)
        return xp.astype(Z @ axes + _beside(Z, self.mean_), Z.dtype, copy=False)

    def _log_prob(self, X: Any) -> Array:
        scores = self._log_prob_complete(X)
        incomplete = self._incomplete(X, scores)
        if incomplete is not None:
            scores[incomplete] = self._factor_model(X).log_density(X[incomplete])
        return scores

    def _feature_log_prob(self, X: Any) -> Array:
        scores = self._feature_log_prob_complete(X)
        xp = array_namespace(scores)
        if xp.all(xp.isfinite(scores)):
            return scores
        incomplete = self._incomplete(X, scores)
        if incomplete is not None:
            scores[incomplete, ...] = self._factor_model(X).feature_log_density(X[incomplete, ...])
        return xp.where(xp.isnan(scores) & ~xp.isnan(X), -xp.inf, scores)  # squares beyond float64

    def _feature_log_prob_complete(self, X: Array) -> Array:
        """The scores of samples without missing values."""
        xp = array_namespace(X)
        variances, noise = self._model_variances()
        axes = _beside(X, self.components_)
        axes, eps = xp.astype(axes, xp.float64, copy=False), float(xp.finfo(axes.dtype).eps)
        arguments = axes, _beside(X, variances), noise
        precisions, inside = feature_precisions(*arguments, eps)
        # As in `_log_prob_complete`, but a rounding error of the residual counts by the conditional variances: for a
        # feature that lies almost within the span of the components, it may be all that there is.
        least = noise * noise * float(xp.min(precisions))
        has_noise = self.n_components_ < self.n_features_in_
        with np.errstate(over="ignore", invalid="ignore"):
            if has_noise and self._is_safe_in(X, least, float(variances[0])):
                scores = feature_log_density(self._centered(X, X.dtype), *arguments, precisions, inside)
                if xp.isfinite(xp.sum(scores)):
                    return scores
            return feature_log_density(center(X, [_beside(X, self.mean_)]), *arguments, precisions, inside)

    def _log_prob_complete(self, X: Array) -> Array:
        xp = array_namespace(X)
        variances, noise = self._model_variances()
        least = noise if self.n_components_ < self.n_features_in_ else float(variances[-1])
        is_single = self._is_safe_in(X, least, float(variances[0]))
        with np.errstate(over="ignore", invalid="ignore"):
            scores = self._log_prob_in(X.dtype if is_single else xp.float64, X, _beside(X, variances), noise)
        if is_single and not xp.all(xp.isfinite(scores)):  # squares beyond float32
            return self._log_prob_in(xp.float64, X, _beside(X, variances), noise)
        return scores

    def _log_prob_in(self, dtype: Any, X: Array, variances: Array, noise: float) -> Array:
        """Log-density with matrix products in `dtype`."""
        xp = array_namespace(X)
        axes = xp.astype(_beside(X, self.components_), dtype, copy=False)
        distance = squared_distances(self._centered(X, dtype), axes, variances, noise)
        return log_density(distance, variances, noise, self.n_features_in_)

    def _centered(self, X: Array, dtype: Any) -> Array:
        """X minus the mean, in `dtype`."""
        means = split(_beside(X, self.mean_), dtype)
        return center(X, means[:1] if self._is_near_origin(dtype) else means)

    def _is_safe_in(self, X: Array, least: float, largest: float) -> bool:
        """Whether float32 is precise enough for residuals, by the least and the largest variance; not asked of float64.

        A float32 residual has a rounding error in proportion to the largest axis. It must be small compared with the
        smallest standard deviation.
        """
        xp = array_namespace(X)
        return X.dtype != xp.float64 and least > 16 * float(xp.finfo(X.dtype).eps) * largest

    def _rate_distortion(self, X: Array) -> Array:
        """The posterior of probabilistic PCA is exact, so rate and distortion add up to minus the log-likelihood."""
        rate = self._checked_factor_model(X).kl(X)
        return array_namespace(rate).stack([rate, -self._log_prob(X) - rate], axis=1)

    def _posterior_mean(self, X: Array) -> Array:
        return self._checked_factor_model(X).encode(X)

    def _incomplete(self, X: Any, results: Array) -> Array | None:
        """Mask of the samples with missing values. None, at almost no cost, if all results are finite."""
        xp = array_namespace(results)
        if xp.all(xp.isfinite(results)) or not self._has_missing(X):
            return None
        return xp.any(xp.isnan(X), axis=1)

    def _factor_model(self, X: Array) -> FactorModel:
        """The model as loadings and noise, for samples with missing values."""
        xp = array_namespace(X)
        variances, noise = self._model_variances()
        if self.n_components_ == self.n_features_in_:  # the last axis takes the place of the noise
            noise = float(variances[-1])
        noise = max(noise, LEAST_NOISE * float(variances[0]))
        deviations = xp.sqrt(xp.clip(_beside(X, variances) - noise, min=0.0))
        axes = xp.astype(_beside(X, self.components_), xp.float64)
        return FactorModel(_beside(X, self.mean_), axes.T * deviations, noise)

    def _checked_factor_model(self, X: Array) -> FactorModel:
        """The same for samples of which nobody knows yet whether they are finite."""
        self._has_missing(X)
        return self._factor_model(X)

    def _impute(self, X: Array, rng: np.random.Generator | None) -> Array:
        model = self._checked_factor_model(X)
        return model.fill(X) if rng is None else model.draw(X, rng)

    def _sample(self, n_samples: int, mean: bool, seed: int) -> NDArray[Any]:
        rng = np.random.default_rng(seed)
        axes, center, variances = (
            np.asarray(to_device(values, "cpu")) for values in (self.components_, self.mean_, self.explained_variance_)
        )
        excess = np.maximum(variances - self.noise_variance_, 0.0)
        rows = (rng.standard_normal((n_samples, self.n_components_)) * np.sqrt(excess)) @ axes + center
        if mean:
            return rows
        return rows + np.sqrt(self.noise_variance_) * rng.standard_normal(rows.shape)

    def _pack_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """NumPy arrays in place of tensors, so that what was fitted on a GPU loads on a machine without one."""
        return {
            name: np.asarray(to_device(value, "cpu")) if is_torch_array(value) else value
            for name, value in state.items()
        }

    def _unpack_state(self, state: dict[str, Any]) -> dict[str, Any]:
        if "components_" not in state:
            return state
        n_components, n_features = state["n_components_"], state["n_features_in_"]
        check_loaded_array("components_", state["components_"], (n_components, n_features))
        check_loaded_array("mean_", state["mean_"], (n_features,))
        for name in ("explained_variance_", "explained_variance_ratio_", "singular_values_"):
            check_loaded_array(name, state[name], (n_components,), least=0.0)
        check_loaded_array("noise_variance_", np.asarray(state["noise_variance_"]), (), least=0.0)
        return state

    def _scaled_components(self, power: Literal[-1, 1]) -> Array:
        """Components, times their standard deviations to `power` if whitened: -1 encodes and 1 decodes."""
        if not self.whiten:
            return self.components_
        return scaled_axes(self.components_, self._model_variances()[0], power)

    def _model_variances(self) -> tuple[Array, float]:
        """Variances along the axes and orthogonal to them, with a floor that keeps their logarithms finite."""
        return model_variances(self.explained_variance_, self.noise_variance_, self.mean_)

    def _float_dtypes(self, X: Any) -> list[Any]:
        xp, _ = get_namespace(X)
        return [xp.float64, xp.float32]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = self.solver != "full"
        return tags


def _beside(X: Any, array: Array) -> Array:
    """The array in the namespace and on the device of X; a NumPy array if X is sparse."""
    if isinstance(array, np.ndarray):
        return array if issparse(X) or isinstance(X, np.ndarray) else _asarray(X, array)
    if issparse(X) or isinstance(X, np.ndarray):
        return np.asarray(to_device(array, "cpu"))
    return to_device(array, device_of(X))


def _nothing_of(X: Any) -> Array:
    """An empty array in the namespace, in the precision and on the device of X."""
    if isinstance(X, Blocks):
        return np.empty(0, dtype=X.dtype)
    xp = array_namespace(X.data if issparse(X) else X)
    return xp.empty(0, dtype=X.dtype, device=None if issparse(X) else device_of(X))


def _factored_moments(
    X: Any, weights: Array | None, limit: int | None, load: Any = None, former: Any = None
) -> FactoredMoments:
    """Moments of X, merged with former ones, with a factor of at most `limit` rows."""
    for part in slices(X.shape[0], N_FACTORED_ROWS):
        chunk = X[part].toarray() if issparse(X) else X[part]
        moments = CenteredRows(chunk, None if weights is None else weights[part], load).factored_moments()
        former = moments.truncate(limit) if former is None else _merged_factors(limit, former, moments)
    return former


def _merged_factors(limit: int | None, first: FactoredMoments, second: FactoredMoments) -> FactoredMoments:
    return first.merge(second).truncate(limit)


def _asarray(X: Array, array: NDArray[Any]) -> Array:
    return array_namespace(X).asarray(array, device=device_of(X))
