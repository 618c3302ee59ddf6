"""Generative classification: one density for each class."""

__all__ = ["GenerativeClassifier"]

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from copy import copy
from inspect import signature
from itertools import count, cycle
from numbers import Integral, Real
from operator import methodcaller
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax, logsumexp
from sklearn import get_config
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils import get_tags
from sklearn.utils.metadata_routing import MetadataRouter
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted, check_scalar, has_fit_parameter, validate_data

from sklatent._base import FLOAT_DTYPES, Persistent, all_or_nothing, check_weights, forget_fit, has_method, spawn_seeds
from sklatent._jacobians import last_undefined_step, log_density, unroll
from sklatent._memo import fingerprint, is_open
from sklatent._search.crossfit import (
    Subset,
    allows_missing,
    at,
    complements,
    extrapolated_scores,
    fit_density,
    folds,
    is_maximum_likelihood,
    listed_fits,
    route_to_fit,
    sample_params,
)
from sklatent._search.plan import learned_together
from sklatent._sklearn_compat import DocLinkMixin, HasMethods, Interval, fit_context

# Folds by which `reject_fraction` chooses the threshold.
N_SPLITS = 5


class GenerativeClassifier(Persistent, DocLinkMixin, ClassifierMixin, BaseEstimator):
    r"""Generative classifier that fits a density estimator to each class and applies Bayes' rule.

    The density p(x | c) of each class c and the class priors p(c) give

    .. math:: p(c | x) = \frac{p(x | c) \, p(c)}{p(x)}, \qquad p(x) = \sum_c p(x | c) \, p(c).

    A discriminative classifier models p(c | x) only. This one also has p(x), so it can distinguish a sample that lies
    between two classes from a sample that belongs to none, and reject the latter.

    If `estimator` takes NaN as a missing value, as the models of this package do, so does the classifier: p(c | x) is
    the posterior given the observed values of a sample, and p(x) their density. A threshold on p(x) then compares
    densities of different numbers of values.

    Parameters
    ----------
    estimator : object
        Density estimator with `fit(X)` and `score_samples(X)`, whose scores are log-densities in nats: a model of this
        package, scikit-learn's :class:`~sklearn.mixture.GaussianMixture` or
        :class:`~sklearn.neighbors.KernelDensity`, or a Pipeline that ends in one of these. A clone is fitted for each
        class. A Pipeline is scored in the units of X, as by :func:`sklatent.metrics.log_likelihood_samples`, since a
        scaler has other units in each class. A step that loses information, such as a PCA of fewer components, is only
        allowed if it is the same in all classes, with all steps before it: put it before this classifier, or fit it
        first and wrap it by :class:`sklearn.frozen.FrozenEstimator`. Then the densities are those of what leaves it.
        The clones receive arrays, so that steps within the estimator cannot choose columns by their names.
    class_prior : array-like of shape (n_classes,) or None, default=None
        Class priors p(c) in the order of `classes_`: non-negative numbers that sum to 1. None uses the class
        frequencies of the training data.
    reject_threshold : float or None, default=None
        Threshold on log p(x), in nats. `predict` returns `reject_label_` for samples below it. None rejects no sample.
        `reject_fraction` chooses it by cross-validation. Tools that count votes of `predict` do not know this label:
        they need `predict_proba`, as scikit-learn's VotingClassifier does with ``voting="soft"``.
    reject_fraction : float in (0, 1) or None, default=None
        Fraction of new samples of the classes to reject. The threshold is this quantile of log p(x) of the training
        samples, each scored by densities that were fitted without it: five more fits for each class, of which each
        leaves out one of five folds, learned together where they can be. For :class:`PCAReducer` the scores are
        extrapolated to densities of all samples, as by :class:`LatentOutlierDetector`; with few samples in many
        dimensions somewhat fewer are rejected. It cannot be combined with `reject_threshold`.
    n_jobs : int or None, default=None
        Number of classes to fit or score in parallel. None means 1, and -1 means all processors.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Sorted class labels.
    class_count_ : ndarray of shape (n_classes,)
        Number of training samples of each class, or the sum of their weights.
    class_prior_ : ndarray of shape (n_classes,)
        Class priors p(c), in float64.
    reject_threshold_ : float
        Threshold on log p(x), in nats, that `reject_fraction` has led to; only defined with `reject_fraction`.
    estimators_ : list of object
        The fitted density of each class, in the order of `classes_`.
    reject_label_ : int or str
        Label of rejected samples. For numeric labels it is -1, or the smallest class minus 1 if -1 is a class. For
        string labels it is "rejected", followed by as many underscores as it takes to differ from all classes. If no
        integer type can hold that label together with the classes, for example with classes above 2**63 - 1, it is the
        largest number of their type that is not a class.
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features seen during `fit`; only defined if X has feature names that are all strings.

    See Also
    --------
    sklearn.discriminant_analysis.QuadraticDiscriminantAnalysis : Special case of one normal density for each class.
    sklearn.naive_bayes.GaussianNB : Special case of independent, normally distributed features.

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

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "estimator": [HasMethods(["fit", "score_samples"])],
        "class_prior": ["array-like", None],
        "reject_threshold": [Interval(Real, None, None, closed="neither"), None],
        "reject_fraction": [Interval(Real, 0, 1, closed="neither"), None],
        "n_jobs": [Integral, None],
    }

    def __init__(
        self,
        estimator: Any,
        *,
        class_prior: ArrayLike | None = None,
        reject_threshold: float | None = None,
        reject_fraction: float | None = None,
        n_jobs: int | None = None,
    ):
        self.estimator = estimator
        self.class_prior = class_prior
        self.reject_threshold = reject_threshold
        self.reject_fraction = reject_fraction
        self.n_jobs = n_jobs

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit one density for each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training data. float32 and float64 are used as they are; other types are converted to float64.
        y : array-like of shape (n_samples,)
            Class labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Individual weights for each sample. They count in the class frequencies, and the `fit` of `estimator`
            receives them; with scikit-learn's metadata routing, if it requests them. Samples with weight 0 are left
            out. The threshold of `reject_fraction` counts each of the other samples once.

        Returns
        -------
        self : object
            The fitted classifier. If `fit` raises an exception, the classifier is unchanged.

        Raises
        ------
        ValueError
            If a density cannot be fitted to the samples of its class (the message states the class and the number of
            its samples), if a step of a Pipeline loses information and differs between the classes, if `class_prior` is
            not a distribution over the classes, if `reject_fraction` is set together with `reject_threshold` or with a
            class of fewer than five samples, or if `estimator` does not take the `sample_weight` that is given.

        See Also
        --------
        fits_within : What is fitted to which samples.

        Examples
        --------
        >>> from sklatent import GenerativeClassifier, PCAReducer
        >>> from sklearn.datasets import load_iris
        >>> GenerativeClassifier(PCAReducer(2)).fit(*load_iris(return_X_y=True)).class_count_
        array([50, 50, 50])
        """
        with all_or_nothing(self):
            forget_fit(self)
            rows, labels = validate_data(self, X, y, dtype=FLOAT_DTYPES, ensure_all_finite=self._finite())
            check_classification_targets(labels)
            rows, labels, weights = _with_weight(rows, labels, sample_weight)
            fit_params = self._weights_for_densities(weights)
            self.classes_, numbers = np.unique(labels, return_inverse=True)
            self.class_count_ = np.bincount(numbers, weights)
            self.class_prior_ = self._make_class_prior()
            self.reject_label_ = _make_reject_label(self.classes_)
            parts = self._folds(labels)
            subsets = _class_subsets(labels, parts)
            densities = self._fit_densities(rows, subsets, fit_params)
            self._n_skipped = _n_shared_steps(densities, rows, subsets)
            n = len(self.classes_)
            self.estimators_, *without_fold = (densities[start : start + n] for start in range(0, len(densities), n))
            if self.reject_fraction is not None:
                self.reject_threshold_ = self._find_threshold(self.reject_fraction, rows, parts, without_fold)
        return self

    def fits_within(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> list[tuple[Any, ...]]:
        """List what `fit(X, y)` fits: clones of `estimator`, for each class and for each class without each fold.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training data, as for `fit`.
        y : array-like of shape (n_samples,)
            Class labels.
        sample_weight : array-like of shape (n_samples,), default=None
            As for `fit`.

        Returns
        -------
        fits : list of (estimator, ndarray)
            Unfitted, with the samples of the sorted classes; with `reject_fraction`, then those without the first fold,
            and so on. With weights, each has a third entry: a dict of the parameters that its `fit` receives. The fused
            searches train these estimators together.

        See Also
        --------
        sklatent.model_selection.FusedGridSearchCV : Learns these models together.

        Examples
        --------
        >>> from sklatent import GenerativeClassifier, PCAReducer
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> [samples.shape for _, samples in GenerativeClassifier(PCAReducer(2)).fits_within(X, y)]
        [(50, 4), (50, 4), (50, 4)]
        """
        rows, labels = validate_data(clone(self), X, y, dtype=FLOAT_DTYPES, ensure_all_finite=self._finite())
        rows, labels, weights = _with_weight(rows, labels, sample_weight)
        subsets = _class_subsets(labels, self._folds(labels))
        return listed_fits(self.estimator, rows, subsets, self._weights_for_densities(weights))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Predict the most probable class of each sample, or reject it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples to classify.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            Predicted classes, and `reject_label_` for samples whose log p(x) is below the threshold. The type is
            that of `classes_`. If there is a threshold and this type cannot hold `reject_label_`, it is widened:
            bool to int8, uint8 to int16, uint64 to int64.

        See Also
        --------
        predict_proba : How probable each class is.
        score_samples : How probable the sample is under all classes.

        Examples
        --------
        >>> from sklatent import GenerativeClassifier, PCAReducer
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> classifier = GenerativeClassifier(PCAReducer(2)).fit(X, y)
        >>> classifier.predict(X[[0, 60, 120]])
        array([0, 1, 2])
        """
        log_joint = self._log_joint(self._validate_rows(X))
        labels = self.classes_[self._log_posterior(log_joint).argmax(axis=1)]
        if self.reject_fraction is not None:
            check_is_fitted(self, "reject_threshold_")  # it may have been set since
        threshold = self.reject_threshold if self.reject_fraction is None else self.reject_threshold_
        if threshold is None:
            return labels
        # The type is widened first: NumPy would truncate "rejected" to the length of the longest class, and -1 would
        # wrap around in unsigned labels.
        labels = labels.astype(_common_type(labels.dtype, self.reject_label_))
        labels[logsumexp(log_joint, axis=1) < threshold] = self.reject_label_
        return labels

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Predict the class probabilities p(c | x) of each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples to classify.

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes), float64
            Class probabilities in the order of `classes_`, which sum to 1 for each sample. For samples where all
            densities are zero, they are `class_prior_`.

        See Also
        --------
        predict_log_proba : Their logarithms, which do not underflow.
        score_samples : How probable the sample is under all classes.

        Examples
        --------
        >>> from sklatent import GenerativeClassifier, PCAReducer
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> classifier = GenerativeClassifier(PCAReducer(2)).fit(X, y)
        >>> classifier.predict_proba(X[[70]]).round(2)  # a flower between two species
        array([[0.  , 0.48, 0.52]])
        """
        return np.exp(self.predict_log_proba(X))

    def predict_log_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Predict the log-probabilities log p(c | x) of the classes for each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples to classify.

        Returns
        -------
        log_proba : ndarray of shape (n_samples, n_classes), float64
            Natural logarithms of the class probabilities, accurate also for probabilities that underflow.

        See Also
        --------
        predict_proba : The probabilities themselves.

        Examples
        --------
        >>> from sklatent import GenerativeClassifier, PCAReducer
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> classifier = GenerativeClassifier(PCAReducer(2)).fit(X, y)
        >>> bool(classifier.predict_log_proba(X)[0, 2] < -100)  # whose exponential float32 cannot hold
        True
        """
        return self._log_posterior(self._log_joint(self._validate_rows(X)))

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        r"""Compute the log-likelihood of each sample under the mixture of all classes.

        .. math:: \ln p(x) = \ln \sum_c p(x | c) \, p(c)

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples to score.

        Returns
        -------
        log_prob : ndarray of shape (n_samples,), float64
            Log-likelihood of each sample in nats, with respect to the base measure of `estimator`. It is a bound or an
            estimate if the scores of `estimator` are.

        See Also
        --------
        score_features : The score of each value.
        predict : Rejects samples with a low score, with `reject_threshold`.

        Examples
        --------
        >>> from sklatent import GenerativeClassifier, PCAReducer
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> classifier = GenerativeClassifier(PCAReducer(2)).fit(X, y)
        >>> bool(classifier.score_samples(10 * X).max() < classifier.score_samples(X).min())  # millimetres
        True
        """
        return logsumexp(self._log_joint(self._validate_rows(X)), axis=1)

    @available_if(has_method("score_features"))
    def score_features(self, X: ArrayLike) -> NDArray[np.float64]:
        r"""Compute the log-likelihood log p(x_j | all other features) under the mixture of all classes.

        It tells which value made a sample improbable under all classes. Only available if `estimator` has this method,
        as the estimators of this package do.

        .. math::
            \ln p(x_j | x_{-j}) = \ln \sum_c p(x | c) \, p(c) - \ln \sum_c p(x_{-j} | c) \, p(c),
            \qquad p(x_{-j} | c) = \frac{p(x | c)}{p(x_j | x_{-j}, c)}

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples to score.

        Returns
        -------
        log_prob : ndarray of shape (n_samples, n_features), float64
            Conditional log-likelihood of each value in nats, with respect to the base measure of `estimator`; -inf for
            samples whose densities are zero under all classes, and NaN for missing values. It is an estimate if the
            scores of `estimator` are.

        See Also
        --------
        score_samples : The score of each sample.

        Examples
        --------
        >>> from sklatent import GenerativeClassifier, PCAReducer
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> classifier = GenerativeClassifier(PCAReducer(2)).fit(X, y)
        >>> int(classifier.score_features([[5.0, 3.4, 1.5, 2.4]]).argmin())  # whose petals are too wide
        3
        """
        rows = self._validate_rows(X)
        log_joint = self._log_joint(rows)
        without = np.full((len(rows), self.n_features_in_), -np.inf)  # log p(x_-j)
        for joint, conditional in zip(log_joint.T, self._for_each(methodcaller("score_features", rows)), strict=True):
            # A class that gives a sample no density counts for nothing, whichever value is left out.
            known = np.where(np.isneginf(joint)[:, None], 0.0, conditional)
            with np.errstate(invalid="ignore"):  # NaN for missing values
                np.logaddexp(without, joint[:, None] - known, out=without)
        log_prob = logsumexp(log_joint, axis=1)[:, None]
        return log_prob - np.where(np.isneginf(log_prob), 0.0, without)

    @available_if(has_method("sample"))
    def sample(
        self, n_samples: int = 1, y: ArrayLike | None = None, random_state: Any = None
    ) -> tuple[NDArray[np.float64], NDArray[Any]]:
        """Generate samples of given classes, or of classes in proportion to their priors.

        Only available if `estimator` has this method: the estimators of this package, and scikit-learn's
        :class:`~sklearn.mixture.GaussianMixture` and :class:`~sklearn.neighbors.KernelDensity`.

        Parameters
        ----------
        n_samples : int, default=1
            Number of samples to generate.
        y : label or array-like of shape (n_samples,), default=None
            Class of all samples, or the class of each sample. None chooses each class at random, with the probability
            `class_prior_`.
        random_state : int, RandomState instance or None, default=None
            Controls the generated samples and, if y is None, their classes. Pass an int for reproducible results.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features), float64
            Generated samples.
        y : ndarray of shape (n_samples,)
            Their classes.

        Raises
        ------
        ValueError
            If `y` contains a label that is not a class, or is not of shape (n_samples,).

        See Also
        --------
        predict : The class of a sample.

        Examples
        --------
        >>> from sklatent import GenerativeClassifier, PCAReducer
        >>> from sklearn.datasets import load_iris
        >>> classifier = GenerativeClassifier(PCAReducer(2)).fit(*load_iris(return_X_y=True))
        >>> X, y = classifier.sample(3, y=[0, 2, 2], random_state=0)
        >>> X.shape, y, classifier.predict(X)
        ((3, 4), array([0, 2, 2]), array([0, 2, 2]))
        """
        check_is_fitted(self)
        check_scalar(n_samples, "n_samples", Integral, min_val=1)
        class_seed, *seeds = spawn_seeds(random_state, 1 + len(self.classes_))
        members = self._class_numbers(n_samples, y, class_seed)
        X = np.empty((n_samples, self.n_features_in_))
        for k in np.unique(members):
            X[members == k] = _sample(self.estimators_[k], int(np.sum(members == k)), seeds[k])
        return X, self.classes_[members]

    def get_metadata_routing(self) -> Any:
        """Get the routes of metadata: `sample_weight` counts here, and goes to the `fit` of `estimator`.

        Returns
        -------
        routing : MetadataRouter
            As scikit-learn's metadata routing expects it.

        See Also
        --------
        fit : Counts the weights, and passes them on if `estimator` requests them.

        Examples
        --------
        >>> import sklearn
        >>> from sklatent import GenerativeClassifier, PCAReducer
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> with sklearn.config_context(enable_metadata_routing=True):
        ...     classifier = GenerativeClassifier(PCAReducer(2).set_fit_request(sample_weight=True))
        ...     classifier = classifier.fit(X, y, sample_weight=1.0 + (y == 2))
        >>> classifier.class_count_
        array([ 50.,  50., 100.])
        """
        return route_to_fit(MetadataRouter(owner=self).add_self_request(self), self.estimator)

    def _weights_for_densities(self, weights: NDArray[Any] | None) -> dict[str, NDArray[Any]]:
        """Parameters by which the `fit` of `estimator` receives the weights."""
        is_routed = get_config()["enable_metadata_routing"]
        if weights is None or is_routed or has_fit_parameter(self.estimator, "sample_weight"):
            return sample_params(self, {"sample_weight": weights}, 0 if weights is None else len(weights))
        raise ValueError(
            f"sample_weight is not supported with estimator={type(self.estimator).__name__}, whose fit does not take "
            "it. A Pipeline takes it with sklearn.set_config(enable_metadata_routing=True), if its steps request it."
        )

    def _folds(self, y: NDArray[Any]) -> list[Subset]:
        """Indices of the samples of each fold, which `reject_fraction` asks for; none without it."""
        if self.reject_fraction is None:
            return []
        if self.reject_threshold is not None:
            raise ValueError(
                f"reject_fraction={self.reject_fraction!r} cannot be combined with reject_threshold="
                f"{self.reject_threshold!r}. Set one of them to None."
            )
        classes, counts = np.unique(y, return_counts=True)
        if counts.min() < N_SPLITS:
            raise ValueError(
                f"reject_fraction needs at least {N_SPLITS} samples of each class, for {N_SPLITS} folds. Got "
                f"n_samples={counts.min()} of class {classes[counts.argmin()].item()!r}."
            )
        return folds(len(y), N_SPLITS, y)

    def _fit_densities(
        self, X: NDArray[Any], subsets: Sequence[Subset], fit_params: Mapping[str, NDArray[Any]]
    ) -> list[Any]:
        """The densities of all classes, fitted to all samples and to those outside each fold."""
        has_folds = len(subsets) > len(self.classes_)
        with learned_together(self.estimator, X, subsets, fit_params) if has_folds else nullcontext():
            # What was learned for the densities is found in this process, not in others.
            parallel = Parallel(n_jobs=self.n_jobs, require="sharedmem" if is_open() else None)
            return parallel(
                delayed(_fit_class)(clone(self.estimator), X[subset], label, at(fit_params, subset))
                for subset, label in zip(subsets, cycle(self.classes_.tolist()), strict=False)
            )

    def _find_threshold(
        self, fraction: float, X: NDArray[Any], parts: Sequence[Subset], densities: Sequence[list[Any]]
    ) -> float:
        """The quantile of log p(x) over samples that the densities were not fitted to, as far as that is known."""
        log_prob = np.empty(len(X))
        for part, models in zip(parts, densities, strict=True):
            log_prob[part] = logsumexp(self._log_joint(X[part], models), axis=1)
        if is_maximum_likelihood(self.estimators_[0]):
            in_sample = logsumexp(self._log_joint(X), axis=1)
            log_prob = extrapolated_scores(log_prob, in_sample, N_SPLITS)
        with np.errstate(invalid="ignore"):  # scores of -inf are reported below
            threshold = float(np.quantile(log_prob, fraction))
        if not np.isfinite(threshold):
            raise ValueError(
                f"reject_fraction={fraction!r} gives no finite threshold: the density of "
                f"{np.sum(np.isneginf(log_prob))} of {len(log_prob)} samples is zero without their fold."
            )
        return threshold

    def _class_numbers(self, n_samples: int, y: Any, seed: int) -> NDArray[np.int_]:
        """Positions in `classes_` of the labels y, or of random classes."""
        if y is None:
            prior = self.class_prior_ / self.class_prior_.sum()
            return np.random.default_rng(seed).choice(len(prior), n_samples, p=prior)
        labels = np.asarray(y)
        if labels.shape not in ((), (n_samples,)):
            raise ValueError(
                f"y must be a label or an array-like of shape (n_samples,)=({n_samples},). Got an array of shape "
                f"{labels.shape} instead."
            )
        numbers = {label: k for k, label in enumerate(self.classes_.tolist())}
        unknown = [label for label in labels.ravel().tolist() if label not in numbers]
        if unknown:
            raise ValueError(
                f"y must contain only labels in classes_={self.classes_.tolist()}. Got {unknown[0]!r} instead."
            )
        return np.broadcast_to([numbers[label] for label in labels.ravel().tolist()], n_samples)

    def _make_class_prior(self) -> NDArray[np.float64]:
        if self.class_prior is None:
            return self.class_count_ / self.class_count_.sum()
        n_classes = len(self.classes_)
        try:
            prior = np.array(self.class_prior, dtype=np.float64)
            valid = prior.shape == (n_classes,) and (prior >= 0).all() and np.isclose(prior.sum(), 1.0)
        except (TypeError, ValueError):  # values that are not numbers
            valid = False
        if not valid:
            raise ValueError(
                f"class_prior must be an array-like of shape (n_classes,)=({n_classes},) with non-negative numbers "
                f"that sum to 1. Got {self.class_prior!r} instead."
            )
        return prior / prior.sum()

    def _log_joint(self, X: NDArray[Any], densities: Sequence[Any] | None = None) -> NDArray[np.float64]:
        """Log p(x | c) + log p(c) for each sample and class; by `estimators_`, or by other densities."""
        scores = self._for_each(log_density, X, self._n_skipped, densities=densities)
        log_prob = np.stack(scores, axis=1, dtype=np.float64)  # (n_samples, n_classes)
        undefined = ~(log_prob < np.inf)
        if undefined.any():
            row, k = np.argwhere(undefined)[0]
            raise ValueError(
                f"{type(self.estimator).__name__}.score_samples must be less than infinity. Got {log_prob[row, k]} for "
                f"sample {row} under class {self.classes_.tolist()[k]!r}."
            )
        return log_prob + self._log_prior()

    def _for_each(self, function: Any, *arguments: Any, densities: Sequence[Any] | None = None) -> list[NDArray[Any]]:
        """What a function gives for each density."""
        # Threads suffice, since NumPy and PyTorch release the interpreter lock. They copy neither samples nor networks.
        parallel = Parallel(n_jobs=self.n_jobs, prefer="threads")
        return parallel(delayed(function)(density, *arguments) for density in densities or self.estimators_)

    def _validate_rows(self, X: ArrayLike) -> NDArray[Any]:
        check_is_fitted(self)
        return validate_data(self, X, dtype=FLOAT_DTYPES, ensure_all_finite=self._finite(), reset=False)

    def _finite(self) -> Any:
        """Which values of X are refused: NaN only if `estimator` does not take it as a missing value."""
        return "allow-nan" if get_tags(self).input_tags.allow_nan else True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = allows_missing(self.estimator)
        return tags

    def _log_posterior(self, log_joint: NDArray[np.float64]) -> NDArray[np.float64]:
        # If all densities are zero, Bayes' rule is 0 / 0; the posterior is then defined as the prior.
        impossible = np.isneginf(log_joint).all(axis=1, keepdims=True)
        return log_softmax(np.where(impossible, self._log_prior(), log_joint), axis=1)

    def _log_prior(self) -> NDArray[np.float64]:
        with np.errstate(divide="ignore"):  # a class with prior 0 is never predicted
            return np.log(self.class_prior_)


def _with_weight(
    X: NDArray[Any], y: NDArray[Any], sample_weight: Any
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
    """The samples with a weight above zero, their labels and their weights, which are None without any."""
    if sample_weight is None:
        return X, y, None
    weights = check_weights(sample_weight, X)
    kept = weights > 0
    return X[kept], y[kept], weights[kept]


def _class_subsets(y: NDArray[Any], parts: Sequence[Subset]) -> list[Subset]:
    """Indices of the samples of each class, and then of those of each class outside each fold."""
    subsets = [np.arange(len(y)), *complements(len(y), parts)]
    return [subset[y[subset] == label] for subset in subsets for label in np.unique(y)]


def _fit_class(estimator: Any, X: NDArray[Any], label: Any, fit_params: Mapping[str, NDArray[Any]]) -> Any:
    """The estimator, fitted to the samples of one class."""
    try:
        return fit_density(estimator, X, fit_params)
    except (ValueError, ArithmeticError) as error:  # the errors that data can cause
        raise ValueError(
            f"{type(estimator).__name__} could not be fitted on class {label!r} with n_samples={len(X)}: {error}"
        ) from error


def _n_shared_steps(densities: Sequence[Any], X: NDArray[Any], subsets: Sequence[Subset]) -> int:
    """Number of the first steps of Pipelines up to the last one that loses information; they have to be the same."""
    found = [last_undefined_step(density, X[subset]) for density, subset in zip(densities, subsets, strict=True)]
    n_steps, error = max(found, key=lambda number_and_error: number_and_error[0])
    if n_steps and len({tuple(map(fingerprint, unroll(density)[:n_steps])) for density in densities}) > 1:
        raise ValueError(
            f"The densities of the classes by estimator={type(densities[0]).__name__} cannot be compared: {error} Or "
            "put the step before GenerativeClassifier, or fit it first and wrap it by sklearn.frozen.FrozenEstimator, "
            "so that it is the same in all classes."
        ) from error
    return n_steps


def _sample(density: Any, n_samples: int, seed: int) -> NDArray[Any]:
    """Samples of one density. `GaussianMixture` has the seed among its parameters, and returns components as well."""
    if "random_state" in signature(density.sample).parameters:
        return density.sample(n_samples, random_state=seed)
    X, _ = copy(density).set_params(random_state=seed).sample(n_samples)
    return X


def _make_reject_label(classes: NDArray[Any]) -> int | str:
    """A label of the same kind as `classes` that differs from all of them."""
    labels = set(classes.tolist())
    if isinstance(classes[0], str):
        return next(name for n in count() if (name := "rejected" + n * "_") not in labels)
    label = -1 if -1 not in labels else int(min(labels)) - 1
    widest = np.iinfo(np.int64)
    if classes.dtype.kind not in "iu" or (widest.min <= label and max(labels) <= widest.max):
        return label
    return next(label for label in count(int(np.iinfo(classes.dtype).max), -1) if label not in labels)


def _common_type(dtype: np.dtype, reject_label: int | str) -> np.dtype:
    """The narrowest type for all values of `dtype` and `reject_label`; int64 for uint64 with a negative label."""
    if dtype.kind in "iu" and np.iinfo(dtype).min <= int(reject_label) <= np.iinfo(dtype).max:
        return dtype
    if dtype == np.uint64:  # NumPy would use float64, which merges labels above 2**53
        return np.dtype(np.int64)
    return np.result_type(dtype, np.min_scalar_type(reject_label))
