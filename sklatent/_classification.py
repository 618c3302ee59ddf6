"""Classification by one density for each class."""

__all__ = ["GenerativeClassifier"]

from itertools import count
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax, logsumexp
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted, validate_data

from sklatent._base import FLOAT_DTYPES, all_or_nothing
from sklatent._memo import is_open
from sklatent._sklearn_compat import HasMethods, Interval, fit_context


class GenerativeClassifier(ClassifierMixin, BaseEstimator):
    r"""Bayes' rule on densities: one clone of a density estimator is fitted on the rows of each class.

    The density p(x | c) of each class c and the class priors p(c) give

    .. math:: p(c | x) = \frac{p(x | c) \, p(c)}{p(x)}, \qquad p(x) = \sum_c p(x | c) \, p(c).

    Unlike a discriminative classifier, which knows only the first, it also has p(x): it can tell a row that lies
    between two classes from one that belongs to none, and refuse the latter.

    Parameters
    ----------
    estimator : object
        Unfitted density estimator with `fit(X)` and `score_samples(X)`, whose scores are log densities in nats: a model
        of this package, scikit-learn's :class:`~sklearn.mixture.GaussianMixture` or
        :class:`~sklearn.neighbors.KernelDensity`, or a Pipeline that ends in one of these. The Jacobian of a
        Pipeline's earlier steps is not in its scores, so a step that is fitted on each class (a scaler, say) makes the
        classes incomparable: put it before this classifier.
    class_prior : array-like of shape (n_classes,) or None, default=None
        p(c) in the order of `classes_`: non-negative numbers that sum to 1. None takes the relative frequencies of the
        training data.
    reject_threshold : float or None, default=None
        Nats: `predict` gives rows whose log p(x) is below it the label `reject_label_`. None rejects no row. Quantiles
        of `score_samples` on held-out rows are a good start.
    n_jobs : int or None, default=None
        Number of classes to fit or score at a time; None means 1, -1 all processors.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, sorted.
    class_count_ : ndarray of shape (n_classes,)
        Number of training rows of each class.
    class_prior_ : ndarray of shape (n_classes,)
        p(c), float64.
    estimators_ : list of object
        The fitted density of each class, in the order of `classes_`.
    reject_label_ : int or str
        Label of rejected rows: -1, or where that is a class one less than the least class; for strings "rejected", with
        underscores appended while that is a class. Where no integer type holds that beside the classes, as with classes
        above 2**63 - 1, the largest number of their type that is no class.
    n_features_in_ : int
        Number of columns seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Column names, where `fit` saw string names.

    See Also
    --------
    sklearn.discriminant_analysis.QuadraticDiscriminantAnalysis : The case of one full normal density for each class.
    sklearn.naive_bayes.GaussianNB : The case of independent features.

    References
    ----------
    Chaudhury (2024), "Math and Architectures of Deep Learning", section 14.2.
    Hastie, Tibshirani & Friedman (2009), "The Elements of Statistical Learning", 2nd ed., eq. 4.7 and section 6.6.2.

    Examples
    --------
    >>> from sklatent import GenerativeClassifier, PCAReducer
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = GenerativeClassifier(PCAReducer(2), reject_threshold=-20).fit(X, y)
    >>> round(classifier.score(X, y), 3)
    0.98
    >>> classifier.predict([[5.0, 3.4, 1.5, 0.2], [50.0, 34.0, 15.0, 2.0]])  # centimetres, and millimetres by mistake
    array([ 0, -1])
    """

    _parameter_constraints: ClassVar[dict[str, list]] = {
        "estimator": [HasMethods(["fit", "score_samples"])],
        "class_prior": ["array-like", None],
        "reject_threshold": [Interval(Real, None, None, closed="neither"), None],
        "n_jobs": [Integral, None],
    }

    def __init__(
        self,
        estimator: Any,
        *,
        class_prior: ArrayLike | None = None,
        reject_threshold: float | None = None,
        n_jobs: int | None = None,
    ):
        self.estimator = estimator
        self.class_prior = class_prior
        self.reject_threshold = reject_threshold
        self.n_jobs = n_jobs

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: ArrayLike, y: ArrayLike) -> Any:
        """Fit one density for each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows to fit. float32 and float64 are taken as they are, other numbers as float64.
        y : array-like of shape (n_samples,)
            Class labels.

        Returns
        -------
        self : object
            The fitted classifier. When `fit` raises, it is as it was before.

        Raises
        ------
        ValueError
            Where a density cannot be fitted on the rows of its class, naming the class and the number of its rows, or
            where `class_prior` is no distribution over the classes.
        """
        with all_or_nothing(self):
            rows, labels = validate_data(self, X, y, dtype=FLOAT_DTYPES)
            check_classification_targets(labels)
            self.classes_, self.class_count_ = np.unique(labels, return_counts=True)
            self.class_prior_ = self._make_class_prior()
            self.reject_label_ = _make_reject_label(self.classes_)
            # What a search has learned for the densities is found in this process, not in others.
            parallel = Parallel(n_jobs=self.n_jobs, require="sharedmem" if is_open() else None)
            fits = _fits(self.estimator, rows, labels)
            self.estimators_ = parallel(
                delayed(_fit_class)(*fit, label) for fit, label in zip(fits, self.classes_.tolist(), strict=True)
            )
        return self

    def fits_within(self, X: ArrayLike, y: ArrayLike) -> list[tuple[Any, NDArray]]:
        """List what `fit(X, y)` fits: a clone of `estimator` for each class, and the samples of the class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)

        Returns
        -------
        fits : list of (estimator, ndarray)
            Unfitted, in the order of the sorted class labels. The fused searches train these estimators together.
        """
        return _fits(self.estimator, *validate_data(clone(self), X, y, dtype=FLOAT_DTYPES))

    def predict(self, X: ArrayLike) -> NDArray:
        """Most probable class of each row, or `reject_label_` where log p(x) is below `reject_threshold`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            Of the type of `classes_`, widened where `reject_threshold` is set and that type does not hold
            `reject_label_`: bool to int8, uint8 to int16, uint64 to int64.
        """
        log_joint = self._log_joint(X)
        labels = self.classes_[self._log_posterior(log_joint).argmax(axis=1)]
        if self.reject_threshold is None:
            return labels
        # Widened first: numpy would cut "rejected" to the length of the longest class, and wrap -1 in unsigned labels.
        labels = labels.astype(_common_type(labels.dtype, self.reject_label_))
        labels[logsumexp(log_joint, axis=1) < self.reject_threshold] = self.reject_label_
        return labels

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probability of each class given the row: p(c | x).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes), float64
            Each row sums to 1. Where every density is zero, it is `class_prior_`.
        """
        return np.exp(self.predict_log_proba(X))

    def predict_log_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Log probability of each class given the row: log p(c | x).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        log_proba : ndarray of shape (n_samples, n_classes), float64
            Natural logarithm; right also where the probability itself underflows.
        """
        return self._log_posterior(self._log_joint(X))

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        r"""Log density of each row under all classes together.

        .. math:: \ln p(x) = \ln \sum_c p(x | c) \, p(c)

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        log_prob : ndarray of shape (n_samples,), float64
            Nats, with respect to the base measure of `estimator`; a bound or an estimate where its scores are.
        """
        return logsumexp(self._log_joint(X), axis=1)

    def _make_class_prior(self) -> NDArray[np.float64]:
        if self.class_prior is None:
            return self.class_count_ / self.class_count_.sum()
        n_classes = len(self.classes_)
        try:
            prior = np.array(self.class_prior, dtype=np.float64)
            valid = prior.shape == (n_classes,) and (prior >= 0).all() and np.isclose(prior.sum(), 1.0)
        except (TypeError, ValueError):  # no numbers
            valid = False
        if not valid:
            raise ValueError(
                f"class_prior must be an array-like of shape (n_classes,)=({n_classes},) with non-negative numbers "
                f"that sum to 1. Got {self.class_prior!r} instead."
            )
        return prior

    def _log_joint(self, X: ArrayLike) -> NDArray[np.float64]:
        """Log p(x | c) + log p(c) for each row and class."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=FLOAT_DTYPES, reset=False)
        # Threads: numpy and torch let go of the interpreter, and neither rows nor networks are copied to a process.
        scores = Parallel(n_jobs=self.n_jobs, prefer="threads")(
            delayed(density.score_samples)(rows) for density in self.estimators_
        )
        log_prob = np.stack(scores, axis=1, dtype=np.float64)  # (n_samples, n_classes)
        undefined = ~(log_prob < np.inf)
        if undefined.any():
            row, k = np.argwhere(undefined)[0]
            raise ValueError(
                f"{type(self.estimator).__name__}.score_samples must be less than infinity. Got {log_prob[row, k]} for "
                f"row {row} under class {self.classes_.tolist()[k]!r}."
            )
        return log_prob + self._log_prior()

    def _log_posterior(self, log_joint: NDArray[np.float64]) -> NDArray[np.float64]:
        # Where every density is zero, x says nothing of c, and Bayes' rule would be 0 / 0.
        impossible = np.isneginf(log_joint).all(axis=1, keepdims=True)
        return log_softmax(np.where(impossible, self._log_prior(), log_joint), axis=1)

    def _log_prior(self) -> NDArray[np.float64]:
        with np.errstate(divide="ignore"):  # a prior of 0 rules its class out
            return np.log(self.class_prior_)


def _fits(estimator: Any, X: NDArray, y: NDArray) -> list[tuple[Any, NDArray]]:
    """A clone of `estimator` for each class, and the samples of the class."""
    return [(clone(estimator), X[y == label]) for label in np.unique(y)]


def _fit_class(estimator: Any, X: NDArray, label: Any) -> Any:
    """The estimator, fitted on the samples of one class."""
    try:
        return estimator.fit(X)
    except (ValueError, ArithmeticError) as error:  # what data can cause
        raise ValueError(
            f"{type(estimator).__name__} could not be fitted on class {label!r} with n_samples={len(X)}: {error}"
        ) from error


def _make_reject_label(classes: NDArray) -> int | str:
    """A label of the kind of `classes` that is none of them."""
    labels = set(classes.tolist())
    if isinstance(classes[0], str):
        return next(name for n in count() if (name := "rejected" + n * "_") not in labels)
    label = -1 if -1 not in labels else int(min(labels)) - 1
    widest = np.iinfo(np.int64)
    if classes.dtype.kind not in "iu" or (widest.min <= label and max(labels) <= widest.max):
        return label
    return next(label for label in count(int(np.iinfo(classes.dtype).max), -1) if label not in labels)


def _common_type(dtype: np.dtype, reject_label: int | str) -> np.dtype:
    """The narrowest type that holds all of `dtype` and `reject_label`; int64 for uint64 and a negative number."""
    if dtype.kind in "iu" and np.iinfo(dtype).min <= int(reject_label) <= np.iinfo(dtype).max:
        return dtype
    if dtype == np.uint64:  # numpy would take float64, which merges labels beyond 2**53
        return np.dtype(np.int64)
    return np.result_type(dtype, np.min_scalar_type(reject_label))
