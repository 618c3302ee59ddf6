"""Principal components as a density: probabilistic PCA."""

__all__ = ["PCAReducer"]

from numbers import Integral
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval, RealNotInt, StrOptions
from sklearn.utils.validation import check_is_fitted

from sklatent.base import _BaseLatentModel
from sklatent.linalg import Spectrum, decompose, minka_dimension


class PCAReducer(_BaseLatentModel):
    r"""Principal component analysis, scored and sampled as the density it is.

    Probabilistic PCA is the model

    .. math:: z \sim N(0, I), \quad x | z \sim N(\mu + W z, \sigma^2 I),

    whose maximum likelihood is reached where the columns of W span the leading `nz` eigenvectors V of the sample
    covariance, with :math:`\sigma^2` the mean of the remaining eigenvalues. So x is normal with covariance
    :math:`V \mathrm{diag}(\lambda - \sigma^2) V' + \sigma^2 I`. The fitted attributes are those of
    :class:`sklearn.decomposition.PCA`, with the same meanings and signs.

    Parameters
    ----------
    nz : int, float, "mle" or None, default=None
        Number of components, as `n_components` of scikit-learn's PCA: None keeps min(n_samples, n_features), a
        float in (0, 1) keeps as many as explain more than that share of the variance, and "mle" takes Minka's
        estimate.
    whiten : bool, default=False
        Whether to divide the codes by their standard deviation.
    solver : {"auto", "covariance", "full"}, default="auto"
        "covariance" decomposes the scatter matrix: fast for more rows than columns. "full" decomposes the centred
        rows: right to the last component. "auto" tries the first and goes on to the second where the components
        asked for are not well above its rounding.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        Principal axes in the precision of X, by decreasing variance; the largest entry of each is positive.
    explained_variance_ : ndarray of shape (n_components,)
        Variance along each axis, divisor n_samples - 1. This and the following are float64 whatever X is.
    explained_variance_ratio_ : ndarray of shape (n_components,)
        Its share of the total variance; 0 where X is constant.
    singular_values_ : ndarray of shape (n_components,)
        Singular values of the centred rows along each axis.
    mean_ : ndarray of shape (n_features,)
        Column means.
    n_components_ : int
        Number of components kept.
    noise_variance_ : float
        Mean of the min(n_samples, n_features) - n_components variances left out; 0.0 when none is.
    n_samples_ : int
        Number of rows seen in `fit`.
    n_features_in_ : int
        Number of columns seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Column names, where `fit` saw string names.

    See Also
    --------
    sklearn.decomposition.PCA : The same components.
    AutoencoderTransformer : The curved manifold.

    References
    ----------
    Tipping & Bishop (1999), "Probabilistic principal component analysis", JRSS B 61, eq. 4 to 8.
    Chaudhury (2024), "Math and Architectures of Deep Learning", section 14.4 and listing 14.1.

    Examples
    --------
    >>> from sklatent import PCAReducer
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> pca = PCAReducer(2).fit(X)
    >>> pca.transform(X).shape
    (150, 2)
    >>> round(pca.score(X), 3)  # nats a row
    -2.7
    """

    _parameter_constraints: ClassVar[dict[str, list]] = {
        "nz": [
            Interval(Integral, 1, None, closed="left"),
            Interval(RealNotInt, 0, 1, closed="neither"),
            StrOptions({"mle"}),
            None,
        ],
        "whiten": ["boolean"],
        "solver": [StrOptions({"auto", "covariance", "full"})],
    }

    def __init__(
        self,
        nz: int | float | Literal["mle"] | None = None,
        *,
        whiten: bool = False,
        solver: Literal["auto", "covariance", "full"] = "auto",
    ):
        self.nz = nz
        self.whiten = whiten
        self.solver = solver

    def score_samples(self, X: Any) -> NDArray[np.float64]:
        r"""Log density of each row: exact log p(x).

        With the projections :math:`y = V'(x - \mu)` and the residual :math:`r = x - \mu - V y`,

        .. math::
            \ln p(x) = -\frac12 \Big[ d \ln 2\pi + \sum_i \ln \lambda_i + (d - k) \ln \sigma^2
            + \sum_i \frac{y_i^2}{\lambda_i} + \frac{\|r\|^2}{\sigma^2} \Big],

        which costs O(n d k) and never forms a d x d matrix.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        log_prob : ndarray of shape (n_samples,), float64
            Nats, a density with respect to Lebesgue measure in the units of X. Variances below 2.2e-16 of the
            largest one are scored as that floor (of the largest squared mean where X is constant, of 1 where X is
            zero), so rank-deficient data have a finite score.
        """
        return super().score_samples(X)

    def get_covariance(self) -> NDArray[np.float64]:
        """Covariance of the model.

        Returns
        -------
        covariance : ndarray of shape (n_features, n_features)
            V diag(lambda - s2) V' + s2 I, s2 being `noise_variance_`.
        """
        check_is_fitted(self)
        axes = self.components_.astype(np.float64)
        excess = np.maximum(self.explained_variance_ - self.noise_variance_, 0.0)
        return (axes.T * excess) @ axes + self.noise_variance_ * np.eye(self.n_features_in_)

    def get_precision(self) -> NDArray[np.float64]:
        """Inverse of the model's covariance, with the variance floor of `score_samples`.

        Returns
        -------
        precision : ndarray of shape (n_features, n_features)
            V diag(1 / lambda) V' + (I - V V') / s2.
        """
        check_is_fitted(self)
        axes = self.components_.astype(np.float64)
        variances, noise = self._model_variances()
        if self.n_components_ == self.n_features_in_:
            return (axes.T / variances) @ axes
        return (axes.T * (1 / variances - 1 / noise)) @ axes + np.eye(self.n_features_in_) / noise

    def _fit(self, X: NDArray) -> None:
        n_samples, n_features = X.shape
        rank = min(n_samples, n_features)
        if self.nz == "mle" and n_samples < n_features:
            raise ValueError("nz='mle' is only supported if n_samples >= n_features")
        if isinstance(self.nz, Integral) and self.nz > rank:
            raise ValueError(
                f"nz={self.nz} must be between 1 and min(n_samples, n_features)={rank} with solver={self.solver!r}"
            )
        with np.errstate(over="ignore", invalid="ignore"):  # an overflow is reported as what it is
            spectrum = decompose(X, self.solver, self.nz if isinstance(self.nz, Integral) else None)
        k = self._n_kept(spectrum)
        total = spectrum.variances.sum()
        self.mean_ = spectrum.mean
        self.components_ = np.ascontiguousarray(spectrum.components[:k], dtype=X.dtype)
        self.explained_variance_ = spectrum.variances[:k].copy()
        self.explained_variance_ratio_ = self.explained_variance_ / (total or 1.0)
        self.singular_values_ = np.sqrt(self.explained_variance_ * max(n_samples - 1, 1))
        self.noise_variance_ = float(spectrum.variances[k:].mean()) if k < rank else 0.0
        self.n_components_ = k
        self.n_samples_ = n_samples

    def _n_kept(self, spectrum: Spectrum) -> int:
        rank = len(spectrum.variances)
        if self.nz is None:
            return rank
        if self.nz == "mle":
            return minka_dimension(spectrum.variances, spectrum.n_samples) if rank > 1 else 1
        if isinstance(self.nz, Integral):
            return int(self.nz)
        shares = np.cumsum(spectrum.variances) / (spectrum.variances.sum() or 1.0)
        return min(int(np.searchsorted(shares, self.nz, side="right")) + 1, rank)

    def _encode(self, X: NDArray) -> NDArray:
        return self._center(X).astype(X.dtype, copy=False) @ self._scaled_components(-1).T.astype(X.dtype)

    def _decode(self, Z: NDArray) -> NDArray:
        return (Z @ self._scaled_components(1).astype(Z.dtype) + self.mean_).astype(Z.dtype, copy=False)

    def _log_prob(self, X: NDArray) -> NDArray[np.float64]:
        axes = self.components_.astype(np.float64)
        variances, noise = self._model_variances()
        n_noise = self.n_features_in_ - self.n_components_
        centered = self._center(X)
        codes = centered @ axes.T
        distance = (codes**2 / variances).sum(axis=1)
        if n_noise:
            distance += ((centered - codes @ axes) ** 2).sum(axis=1) / noise
        log_det = np.log(variances).sum() + n_noise * np.log(noise)
        return -0.5 * (self.n_features_in_ * np.log(2 * np.pi) + log_det + distance)

    def _sample(self, n_samples: int, mean: bool, seed: int) -> NDArray:
        rng = np.random.default_rng(seed)
        excess = np.maximum(self.explained_variance_ - self.noise_variance_, 0.0)
        rows = (rng.standard_normal((n_samples, self.n_components_)) * np.sqrt(excess)) @ self.components_ + self.mean_
        if mean:
            return rows
        return rows + np.sqrt(self.noise_variance_) * rng.standard_normal(rows.shape)

    def _center(self, X: NDArray) -> NDArray[np.float64]:
        # In float64 for float32 too: there, rows far from the origin would lose the digits that make them differ.
        return X.astype(np.float64, copy=False) - self.mean_

    def _scaled_components(self, power: Literal[-1, 1]) -> NDArray:
        """Components times their deviation to `power` when whitened: -1 encodes, 1 decodes."""
        if not self.whiten:
            return self.components_
        return np.sqrt(self._model_variances()[0])[:, np.newaxis] ** power * self.components_

    def _model_variances(self) -> tuple[NDArray[np.float64], float]:
        """Variance along each axis and orthogonal to them, floored so that their logarithms are finite."""
        largest = float(self.explained_variance_[0]) or float(np.max(self.mean_**2)) or 1.0
        noise = max(self.noise_variance_, np.finfo(np.float64).eps * largest)
        return np.maximum(self.explained_variance_, noise), noise
