"""Outlier detection by log-likelihood."""

__all__ = ["LatentOutlierDetector"]

from numbers import Real
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, MetaEstimatorMixin, OutlierMixin, clone
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from sklatent._base import FLOAT_DTYPES, all_or_nothing, has_method
from sklatent._sklearn_compat import HasMethods, Interval, StrOptions, fit_context


class LatentOutlierDetector(OutlierMixin, MetaEstimatorMixin, BaseEstimator):
    r"""Outlier and novelty detection by the log-likelihood of any density estimator.

    A sample is an outlier if its score is below a threshold t, which is set on the scores of the training samples:

    .. math:: s(x) = \ln p(x), \qquad x \text{ is an outlier} \iff s(x) < t.

    If `contamination` is a number c, t is the 100 c-th percentile of the training scores, so that a fraction c of the
    training samples lies below it. If it is "auto", t is Tukey's lower fence

    .. math:: t = Q_1 - 1.5 \, (Q_3 - Q_1)

    of the quartiles Q of the training scores. A change of the units of X adds the same constant to the scores and to t,
    so neither rule depends on the units (apart from the Monte Carlo error of scores that are estimated by sampling).

    Parameters
    ----------
    estimator : object
        Estimator with `fit` and `score_samples`, whose larger scores mean more normal samples: an estimator of this
        package, :class:`sklearn.mixture.GaussianMixture`, :class:`sklearn.neighbors.KernelDensity`, or a Pipeline that
        ends in one of these. A clone is fitted. It receives X as an array, also if X is a DataFrame.
    contamination : "auto" or float in (0, 0.5], default="auto"
        Fraction of outliers among the training samples. "auto" does not assume a fraction, and detects no outlier if
        the scores have no lower tail. For normally distributed samples that are scored by their own density, it detects
        7.6 % with one feature, 4.8 % with two, 1.9 % with ten and 0.7 % with a hundred features.

    Attributes
    ----------
    estimator_ : object
        The fitted clone of `estimator`.
    offset_ : float
        The threshold t, in the unit of the scores: nats for log-densities.
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features seen during `fit`; only defined if X has feature names that are all strings.

    See Also
    --------
    sklearn.covariance.EllipticEnvelope : Outlier detection with a robust normal density.
    sklearn.ensemble.IsolationForest : Outlier detection without a density.

    Notes
    -----
    The threshold is computed from the samples to which the estimator was fitted. A flexible estimator gives them higher
    scores than new samples, so the fraction of new samples below the threshold may be larger than `contamination`.

    References
    ----------
    Tukey (1977), "Exploratory Data Analysis", chapter 2 (the fences).
    Bishop (1994), "Novelty detection and neural network validation", IEE Proc. Vision 141 (a threshold on ln p(x)).

    Examples
    --------
    >>> from sklatent import LatentOutlierDetector, PCAReducer
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> detector = LatentOutlierDetector(PCAReducer(2)).fit(X)
    >>> detector.predict([[5.1, 3.5, 1.4, 0.2], [5.1, 3.5, 1.4, 5.0]])
    array([ 1, -1])
    """

    _parameter_constraints: ClassVar[dict[str, list]] = {
        "estimator": [HasMethods(["fit", "score_samples"])],
        "contamination": [StrOptions({"auto"}), Interval(Real, 0, 0.5, closed="right")],
    }

    def __init__(self, estimator: Any, *, contamination: float | Literal["auto"] = "auto"):
        self.estimator = estimator
        self.contamination = contamination

    @fit_context(prefer_skip_nested_validation=False)  # the parameters of `estimator` are its own to validate
    def fit(self, X: ArrayLike, y: Any = None) -> Any:
        """Fit a clone of the estimator to X, and set the threshold from its scores of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training data. float32 and float64 are used as they are; other types are converted to float64.
        y : Ignored
            Not used, present for API consistency by convention.

        Returns
        -------
        self : object
            The fitted detector. If `fit` raises an exception, the detector is unchanged.

        Raises
        ------
        ValueError
            If `estimator` has no `score_samples` (before anything is fitted), or if the threshold is not finite.
        """
        with all_or_nothing(self):
            rows = validate_data(self, X, dtype=FLOAT_DTYPES)
            self.estimator_ = clone(self.estimator).fit(rows)
            self.offset_ = self._threshold(self._score_rows(rows))
        return self

    def fits_within(self, X: ArrayLike, y: Any = None) -> list[tuple[Any, NDArray]]:
        """List what `fit(X)` fits: a clone of `estimator`, on all samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : Ignored
            Present for scikit-learn's conventions.

        Returns
        -------
        fits : list of (estimator, ndarray)
            One pair of an unfitted estimator and its samples. The fused searches train such estimators together.
        """
        return [(clone(self.estimator), validate_data(clone(self), X, dtype=FLOAT_DTYPES))]

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """Score each sample with the fitted estimator.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples to score.

        Returns
        -------
        scores : ndarray of shape (n_samples,), float64
            `estimator_.score_samples(X)`; larger values mean more normal samples. Log-densities are in nats. The
            documentation of the estimator states whether they are exact, bounds or estimates.
        """
        check_is_fitted(self)
        return self._score_rows(validate_data(self, X, dtype=FLOAT_DTYPES, reset=False))

    @available_if(has_method("score_features"))
    def score_features(self, X: ArrayLike) -> NDArray[np.float64]:
        """Score each value given the other values of its sample: the least score is the value that does not fit.

        Only available if `estimator` has this method, as the estimators of this package do.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples to score.

        Returns
        -------
        scores : ndarray of shape (n_samples, n_features), float64
            `estimator_.score_features(X)`: estimates of log p(x_j | all other features) in nats.

        Examples
        --------
        >>> from sklatent import LatentOutlierDetector, PCAReducer
        >>> from sklearn.datasets import load_iris
        >>> iris = load_iris()
        >>> detector = LatentOutlierDetector(PCAReducer(2)).fit(iris.data)
        >>> strange = [[5.1, 3.5, 1.4, 5.0]]
        >>> detector.predict(strange)
        array([-1])
        >>> [iris.feature_names[j] for j in detector.score_features(strange).argmin(axis=1)]
        ['petal width (cm)']
        """
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=FLOAT_DTYPES, reset=False)
        return np.asarray(self.estimator_.score_features(rows), dtype=np.float64)

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Compute the score of each sample relative to the threshold.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples to score.

        Returns
        -------
        decision : ndarray of shape (n_samples,), float64
            `score_samples(X) - offset_`, in the unit of the scores. It is negative for outliers.
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> NDArray[np.int_]:
        """Predict whether each sample is an outlier, for training samples and new samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples to classify as inliers or outliers.

        Returns
        -------
        is_inlier : ndarray of shape (n_samples,)
            1 for inliers, -1 for outliers.
        """
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def _score_rows(self, X: NDArray) -> NDArray[np.float64]:
        return np.asarray(self.estimator_.score_samples(X), dtype=np.float64)

    def _threshold(self, scores: NDArray[np.float64]) -> float:
        with np.errstate(invalid="ignore"):  # scores of -inf are reported below
            if self.contamination == "auto":
                threshold = _lower_fence(scores)
            else:
                threshold = float(np.percentile(scores, 100 * self.contamination))
        if not np.isfinite(threshold):
            raise ValueError(
                f"The scores of X have no finite threshold with contamination={self.contamination!r}: "
                f"{type(self.estimator).__name__}.score_samples returns values that are not finite for "
                f"{np.sum(~np.isfinite(scores))} of {len(scores)} samples."
            )
        return threshold


def _lower_fence(scores: NDArray[np.float64]) -> float:
    """Tukey's lower fence: at most the lower quartile, and equal to it if the quartiles are equal."""
    lower, upper = np.percentile(scores, [25, 75])
    return float(lower - 1.5 * (upper - lower))
