"""Outliers as the rows that a density finds unlikely."""

__all__ = ["LatentOutlierDetector"]

from numbers import Real
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, MetaEstimatorMixin, OutlierMixin, clone
from sklearn.utils.validation import check_is_fitted, validate_data

from sklatent._base import FLOAT_DTYPES, all_or_nothing
from sklatent._sklearn_compat import HasMethods, Interval, StrOptions, fit_context


class LatentOutlierDetector(OutlierMixin, MetaEstimatorMixin, BaseEstimator):
    r"""Outlier and novelty detection by the log density of any estimator that has one.

    A row is an outlier where its score falls below a threshold set on the scores of the training rows,

    .. math:: s(x) = \ln p(x), \qquad x \text{ is an outlier} \iff s(x) < t.

    With a `contamination` of c, t is the 100 c-th percentile of the training scores, so that a share c of the training
    rows lies below it. With "auto", t is Tukey's lower fence,

    .. math:: t = Q_1 - 1.5 \, (Q_3 - Q_1),

    of the quartiles of the training scores. A change of units adds a constant to a log density, hence to t too, so
    neither rule depends on them (save where a score is estimated by draws, within their error).

    Parameters
    ----------
    estimator : object
        With `fit` and `score_samples`, larger being more normal: an estimator of this package,
        :class:`sklearn.mixture.GaussianMixture`, :class:`sklearn.neighbors.KernelDensity`, or a Pipeline that ends in
        one. A clone of it is fitted, on an array whatever X is.
    contamination : "auto" or float in (0, 0.5], default="auto"
        Share of outliers among the training rows. "auto" supposes none: it flags no row where the scores have no
        lower tail. Of rows that are normally distributed and so scored, it flags 7.6 % with one feature, 4.8 % with
        two, 1.9 % with ten, 0.7 % with a hundred.

    Attributes
    ----------
    estimator_ : object
        The fitted clone of `estimator`.
    offset_ : float
        The threshold t, in the unit of the scores: nats for a log density.
    n_features_in_ : int
        Number of columns seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Column names, where `fit` saw string names.

    See Also
    --------
    sklearn.covariance.EllipticEnvelope : The same for a robust normal density.
    sklearn.ensemble.IsolationForest : Outliers without a density.

    Notes
    -----
    The threshold comes from the rows that the estimator was fitted to. A flexible estimator scores those higher than
    new ones, so among new rows a larger share than `contamination` may lie below it.

    References
    ----------
    Tukey (1977), "Exploratory Data Analysis", chapter 2: the fences.
    Bishop (1994), "Novelty detection and neural network validation", IEE Proc. Vision 141: a threshold on ln p(x).

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
        """Fit a clone of the estimator to X, and the threshold to its scores of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows to fit. float32 and float64 are taken as they are, other numbers as float64.
        y : Ignored
            Present for scikit-learn's conventions.

        Returns
        -------
        self : object
            The fitted detector. When `fit` raises, the detector is as it was before.

        Raises
        ------
        ValueError
            Where `estimator` has no `score_samples`, before anything is fitted; where the scores of X have no finite
            threshold.
        """
        with all_or_nothing(self):
            rows = validate_data(self, X, dtype=FLOAT_DTYPES)
            ((estimator, samples),) = self.fits_within(rows)
            self.estimator_ = estimator.fit(samples)
            self.offset_ = self._threshold(self._score_rows(rows))
        return self

    def fits_within(self, X: ArrayLike, y: Any = None) -> list[tuple[Any, ArrayLike]]:
        """List what `fit(X)` fits: a clone of `estimator`, on all samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : Ignored
            Present for scikit-learn's conventions.

        Returns
        -------
        fits : list of (estimator, array-like)
            One pair of an unfitted estimator and its samples. The fused searches train such estimators together.
        """
        return [(clone(self.estimator), X)]

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """Score each row of X by the fitted estimator.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        scores : ndarray of shape (n_samples,), float64
            `estimator_.score_samples(X)`: larger is more normal. Nats for a log density; whether it is exact, a bound
            or an estimate is the estimator's to say.
        """
        check_is_fitted(self)
        return self._score_rows(validate_data(self, X, dtype=FLOAT_DTYPES, reset=False))

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Score each row of X relative to the threshold.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        decision : ndarray of shape (n_samples,), float64
            `score_samples(X) - offset_`, in the same unit: negative for outliers.
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> NDArray[np.int_]:
        """Tell outliers from inliers, among new rows too.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        is_inlier : ndarray of shape (n_samples,)
            1 for inliers, -1 for outliers.
        """
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def _score_rows(self, X: NDArray) -> NDArray[np.float64]:
        return np.asarray(self.estimator_.score_samples(X), dtype=np.float64)

    def _threshold(self, scores: NDArray[np.float64]) -> float:
        with np.errstate(invalid="ignore"):  # scores of -inf are reported as what they are
            if self.contamination == "auto":
                threshold = _lower_fence(scores)
            else:
                threshold = float(np.percentile(scores, 100 * self.contamination))
        if not np.isfinite(threshold):
            raise ValueError(
                f"The scores of X have no finite threshold with contamination={self.contamination!r}: "
                f"{type(self.estimator).__name__}.score_samples gives {np.sum(~np.isfinite(scores))} of "
                f"{len(scores)} rows a score that is not finite."
            )
        return threshold


def _lower_fence(scores: NDArray[np.float64]) -> float:
    """Tukey's lower fence; at most the lower quartile, and equal to it where the scores are."""
    lower, upper = np.percentile(scores, [25, 75])
    return float(lower - 1.5 * (upper - lower))
