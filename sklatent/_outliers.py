"""Outlier detection by log-likelihood, with thresholds and p-values that hold for new samples."""

__all__ = ["LatentOutlierDetector"]

from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import false_discovery_control
from sklearn.base import BaseEstimator, MetaEstimatorMixin, OutlierMixin, clone
from sklearn.utils import get_tags
from sklearn.utils.metadata_routing import MetadataRouter
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, check_scalar, validate_data

from sklatent._base import FLOAT_DTYPES, Persistent, all_or_nothing, has_method
from sklatent._jacobians import log_density
from sklatent._pca import PCAReducer
from sklatent._search.crossfit import (
    KnownScores,
    Subset,
    allows_missing,
    complements,
    concentrated_supports,
    extrapolated_scores,
    fit_subsets,
    folds,
    is_maximum_likelihood,
    listed_fits,
    n_steps_to_skip,
    out_of_fold_scores,
    route_to_fit,
    sample_params,
)
from sklatent._sklearn_compat import DocLinkMixin, HasMethods, Interval, StrOptions, fit_context


class LatentOutlierDetector(Persistent, DocLinkMixin, OutlierMixin, MetaEstimatorMixin, BaseEstimator):
    r"""Outlier and novelty detection by the log-likelihood of any density estimator.

    A sample is an outlier if its score is below a threshold t, which is set on the scores of the training samples:

    .. math:: s(x) = \ln p(x), \qquad x \text{ is an outlier} \Leftrightarrow s(x) < t.

    A density gives higher scores to the samples that it was fitted to than to new ones. So no sample is scored by a
    density that was fitted to it: new ones are scored by `estimator_`, which is fitted to all training samples, and
    each training sample by a density that was fitted to the other folds of a cross-validation (`training_scores_`). If
    `contamination` is a number c, t is the 100 c-th percentile of these scores, the c (n + 1)-th in increasing order,
    and about the fraction c of new samples like the training samples lies below it. If it is "auto", t is Tukey's lower
    fence

    .. math:: t = Q_1 - 1.5 \, (Q_3 - Q_1)

    of the quartiles Q of these scores. A change of the units of X adds the same constant to the scores and to t, so
    neither rule depends on the units (apart from the Monte Carlo error of scores that are estimated by sampling).

    Parameters
    ----------
    estimator : object or None, default=None
        Estimator with `fit` and `score_samples`, whose larger scores mean more normal samples: an estimator of this
        package, :class:`sklearn.mixture.GaussianMixture`, :class:`sklearn.neighbors.KernelDensity`, or a Pipeline that
        ends in one of these. Clones are fitted. They receive X as an array, also if X is a DataFrame. None stands for
        `PCAReducer("parallel", random_state=0)`: a normal density with as many components as stand out from noise.
    contamination : "auto" or float in (0, 0.5], default="auto"
        Fraction of outliers among the training samples. "auto" does not assume a fraction, and detects no outlier if
        the scores have no lower tail. For normally distributed samples that are scored by their own density, it detects
        7.6 % with one feature, 4.8 % with two, 1.9 % with ten and 0.7 % with a hundred features.
    support_fraction : float in (0.5, 1] or None, default=None
        Fraction of the training samples to fit to, for training data that contain outliers. Concentration steps choose
        the most probable ones: fit PCAReducer to them, take those with the largest scores, and repeat until they no
        longer change. PCAReducer stands for the last step of a Pipeline there: it cannot follow a few outliers, which a
        flexible density learns as well. `estimator` is fitted to what they end at. None fits to all samples, which is
        better if there are hardly any outliers among them.
    n_splits : int or None, default=5
        Number of folds, at least 2. `estimator` is fitted once to all samples and once without each fold. Models of
        this package are trained together where they can be. None scores the training samples by the density that was
        fitted to them: the fraction of new samples below the threshold may then be far larger than `contamination`, and
        there are no p-values.

    Attributes
    ----------
    estimator_ : object
        The fitted clone of `estimator`.
    offset_ : float
        The threshold t, in the unit of the scores: nats for log-densities.
    training_scores_ : ndarray of shape (n_samples,), float64
        Score of each training sample by a density that was fitted without it (see Notes); with `n_splits=None`, by
        `estimator_`.
    support_ : ndarray of shape (n_samples,), bool
        Mask of the training samples that `estimator_` was fitted to; all of them with `support_fraction=None`.
    fold_estimators_ : list of object
        For each fold, the clone of `estimator` that was fitted without it; empty with `n_splits=None`.
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
    Training samples are recognized by their values, up to the precision of float64, wherever scores are asked for:
    `score_samples(X)` of the training data is `training_scores_`, `predict(X)` detects the fraction `contamination` of
    them, and `fit_predict(X)` does the same.

    With `support_fraction`, the concentration steps are taken anew without each fold. They start at all samples and at
    those about the median, and the result with the larger likelihood counts. A sample of the fold has no part
    in the fit that scores it, whether it is an outlier or not, so the threshold and the p-values keep their meaning.
    Outliers among the training samples have low scores, which makes the p-values of new ones larger.

    A Pipeline is scored in the units of X, as by :func:`sklatent.metrics.log_likelihood_samples`: its `score_samples`
    and the log-Jacobian of the steps before the density. Otherwise the scores of models that were fitted without
    different folds would be in the units of different scalers. A step that loses information, such as a PCA of fewer
    components, has no log-Jacobian, nor has one that maps a training sample outside its range to the end of it, such as
    QuantileTransformer. If there is one, the log-Jacobian of the last such step and of those before it is left out, in
    all scores alike: they are densities of what leaves this step. Outlier detectors such as IsolationForest have no
    densities, and are scored as they are.

    The folds are chosen at random, and are the same in each fit. The densities without a fold are fitted to fewer
    samples than `estimator_`, so their scores :math:`s_k` are too low for a threshold on its scores s if there are few
    samples. For :class:`PCAReducer`, with K folds, `training_scores_` are therefore extrapolated to the number of
    samples that `estimator_` is fitted to,

    .. math:: s_k(x_i) + \frac{s(x_i) - s_k(x_i)}{2 K - 1}:

    to first order in 1 / m, a density of largest likelihood scores one of its m samples as much too high as others too
    low, in proportion to 1 / m. Networks score their samples much higher than that, since they learn them by heart and
    are kept from losing as much on others, so their scores stay as they are. The p-values compare scores of the same
    densities, and need no such correction.

    If `estimator` takes NaN as a missing value, as the models of this package do, so does the detector, unless
    `estimator` is None or `support_fraction` is set. A score is then the log-likelihood of the observed values.
    Where values are missing in new samples as they are in the training samples, the threshold and the p-values mean
    what they do for complete ones: over all samples, and not over those with the same values missing. Densities of
    different numbers of values differ in their level, so a sample with fewer values has to be further away to be
    detected, if values like its missing ones lower the scores. Where many values are missing, put a
    :class:`~sklatent.LatentImputer` before the detector in a Pipeline.

    References
    ----------
    Burman (1989), "A comparative study of ordinary cross-validation, v-fold cross-validation and the repeated
    learning-testing methods", Biometrika 76 (the correction for fits without a fold, in the mean over the samples).
    Tukey (1977), "Exploratory Data Analysis", chapter 2 (the fences).
    Bishop (1994), "Novelty detection and neural network validation", IEE Proc. Vision 141 (a threshold on ln p(x)).
    Rousseeuw & Van Driessen (1999), "A fast algorithm for the minimum covariance determinant estimator", Technometrics
    41 (concentration steps).
    Neykov & Mueller (2003), "Breakdown point and computation of trimmed likelihood estimators", in "Developments in
    Robust Statistics" (the same steps for likelihoods).

    Examples
    --------
    >>> from sklatent import LatentOutlierDetector, PCAReducer
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> detector = LatentOutlierDetector(PCAReducer(2)).fit(X)
    >>> detector.predict([[5.1, 3.5, 1.4, 0.2], [5.1, 3.5, 1.4, 5.0]])
    array([ 1, -1])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "estimator": [HasMethods(["fit", "score_samples"]), None],
        "contamination": [StrOptions({"auto"}), Interval(Real, 0, 0.5, closed="right")],
        "support_fraction": [Interval(Real, 0.5, 1, closed="right"), None],
        "n_splits": [Interval(Integral, 2, None, closed="left"), None],
    }

    def __init__(
        self,
        estimator: Any = None,
        *,
        contamination: float | Literal["auto"] = "auto",
        support_fraction: float | None = None,
        n_splits: int | None = 5,
    ):
        self.estimator = estimator
        self.contamination = contamination
        self.support_fraction = support_fraction
        self.n_splits = n_splits

    @fit_context(prefer_skip_nested_validation=False)  # the parameters of `estimator` are its own to validate
    def fit(self, X: ArrayLike, y: Any = None, **fit_params: ArrayLike) -> Self:
        """Fit clones of the estimator to X and without each fold, and set the threshold from their scores.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training data. float32 and float64 are used as they are; other types are converted to float64.
        y : Ignored
            Not used, present for API consistency by convention.
        **fit_params : dict of array-like of shape (n_samples,)
            Parameters for the `fit` of `estimator` that have a value for each sample, such as `sample_weight`, or
            `<step>__sample_weight` for a Pipeline. If scikit-learn's metadata routing is enabled, `estimator` receives
            what it requests. The threshold and the p-values count each sample once, as those of scikit-learn's
            IsolationForest do. The default estimator does not take weights.

        Returns
        -------
        self : object
            The fitted detector. If `fit` raises an exception, the detector is unchanged.

        Raises
        ------
        ValueError
            If `estimator` has no `score_samples` or there are fewer samples than folds (before anything is fitted), if
            the threshold is not finite, or if one of `fit_params` does not have a value for each sample.

        See Also
        --------
        fits_within : What is fitted to which samples.

        Examples
        --------
        >>> from sklatent import LatentOutlierDetector, PCAReducer
        >>> from sklearn.datasets import load_iris
        >>> X = load_iris().data
        >>> detector = LatentOutlierDetector(PCAReducer(2)).fit(X)
        >>> len(detector.fold_estimators_), detector.training_scores_.shape
        (5, (150,))
        """
        with all_or_nothing(self):
            rows = self._validate(X, reset=True)
            params = sample_params(self, fit_params, len(rows))
            self._parts = self._folds(rows)
            subsets = self._subsets(rows, self._parts)
            self.estimator_, *self.fold_estimators_ = fit_subsets(self._density(), rows, subsets, params)
            self.support_ = np.isin(np.arange(len(rows)), subsets[0])
            models, parts = self.fold_estimators_ or [self.estimator_], self._parts or [np.arange(len(rows))]
            self._n_skipped = n_steps_to_skip(models, rows, parts)
            self._fold_scores = out_of_fold_scores(models, rows, parts, self._n_skipped)
            self.training_scores_ = self._scores_as_of_new_samples(rows)
            self._known = KnownScores(rows, self.training_scores_)
            self.training_scores_ = self._known.replace(rows, self.training_scores_)  # equal samples have one score
            self.offset_ = self._threshold(self.training_scores_)
        return self

    def fits_within(self, X: ArrayLike, y: Any = None, **fit_params: ArrayLike) -> list[tuple[Any, ...]]:
        """List what `fit(X)` fits: clones of `estimator`, to all samples and without each fold.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training data, as for `fit`.
        y : Ignored
            Present for scikit-learn's conventions.
        **fit_params : dict of array-like of shape (n_samples,)
            As for `fit`.

        Returns
        -------
        fits : list of (estimator, ndarray)
            Unfitted estimators and their samples: `n_splits` + 1 pairs, or one without `n_splits`. With `fit_params`,
            each has a third entry: a dict of the parameters that its `fit` receives. The fused searches train such
            estimators together.

        See Also
        --------
        sklatent.model_selection.FusedGridSearchCV : Learns these models together.

        Examples
        --------
        >>> from sklatent import LatentOutlierDetector, PCAReducer
        >>> from sklearn.datasets import load_iris
        >>> detector = LatentOutlierDetector(PCAReducer(2))
        >>> [len(samples) for _, samples in detector.fits_within(load_iris().data)]
        [150, 120, 120, 120, 120, 120]
        """
        rows = clone(self)._validate(X, reset=True)
        params = sample_params(self, fit_params, len(rows))
        return listed_fits(self._density(), rows, self._subsets(rows, self._folds(rows)), params)

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """Score each sample with a density that was not fitted to it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples to score.

        Returns
        -------
        scores : ndarray of shape (n_samples,), float64
            `estimator_.score_samples(X)`, for a Pipeline in the units of X (see Notes of the class), and for training
            samples their `training_scores_`; larger values mean more normal samples. Log-densities are in nats. The
            documentation of the estimator states whether they are exact, bounds or estimates.

        See Also
        --------
        decision_function : The same less the threshold.
        score_features : The score of each value.

        Examples
        --------
        >>> from sklatent import LatentOutlierDetector, PCAReducer
        >>> from sklearn.datasets import load_iris
        >>> X = load_iris().data
        >>> detector = LatentOutlierDetector(PCAReducer(2)).fit(X)
        >>> flower, mistake = detector.score_samples([[5.1, 3.5, 1.4, 0.2], [51.0, 35.0, 14.0, 2.0]])
        >>> bool(flower > detector.offset_ > mistake)
        True
        """
        return self._score_rows(self._validate_new_rows(X))

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

        See Also
        --------
        score_samples : The score of each sample.

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
        rows = self._validate_new_rows(X)
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

        See Also
        --------
        score_samples : The log-likelihood itself.
        predict : Its sign.

        Examples
        --------
        >>> from sklatent import LatentOutlierDetector, PCAReducer
        >>> from sklearn.datasets import load_iris
        >>> X = load_iris().data
        >>> detector = LatentOutlierDetector(PCAReducer(2)).fit(X)
        >>> bool(((detector.decision_function(X) < 0) == (detector.predict(X) == -1)).all())
        True
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

        See Also
        --------
        decision_function : The distance from the threshold, in nats.
        select : Bounds the fraction of normal samples among those selected.

        Examples
        --------
        >>> from sklatent import LatentOutlierDetector, PCAReducer
        >>> from sklearn.datasets import load_iris
        >>> X = load_iris().data
        >>> detector = LatentOutlierDetector(PCAReducer(2)).fit(X)
        >>> detector.predict([[5.1, 3.5, 1.4, 0.2], [51.0, 35.0, 14.0, 2.0]])  # centimetres, and millimetres by mistake
        array([ 1, -1])
        """
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def p_values(self, X: ArrayLike) -> NDArray[np.float64]:
        r"""Compute the probability that a normal sample scores as low as each sample: cross-conformal p-values.

        With the fold :math:`S_k`, the density :math:`s_k` that was fitted without it, and n training samples,

        .. math:: p(x) = \frac{1 + \sum_k \#\{i \in S_k : s_k(x_i) \le s_k(x)\}}{n + 1}.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            New samples, to test against the hypothesis that they are like the training samples. Those of training
            samples are too large, since most of the densities were fitted to them.

        Returns
        -------
        p_values : ndarray of shape (n_samples,), float64
            Between 1 / (n + 1) and 1; small for outliers.

        Raises
        ------
        ValueError
            If the detector was fitted with `n_splits=None`.

        See Also
        --------
        select : Selects outliers by these p-values.

        Notes
        -----
        Whatever the density is, if x and the training samples are exchangeable, then in K folds

        .. math:: P(p(x) \le a) \le 2 a + 2 (1 - a) \frac{K - 1}{n + K},

        since each fold by itself gives a p-value, and twice a mean of p-values is one. In practice the probability is
        about a. It is over training samples and x: given the training samples it differs from a by about
        :math:`\sqrt{a (1 - a) / n}`. Outliers among the training samples make the p-values larger.

        References
        ----------
        Vovk (2015), "Cross-conformal predictors", Annals of Mathematics and Artificial Intelligence 74.
        Vovk & Wang (2020), "Combining p-values via averaging", Biometrika 107 (the factor 2).
        Barber, Candes, Ramdas & Tibshirani (2021), "Predictive inference with the jackknife+", Annals of Statistics 49,
        section 3 (the bound for K folds).
        Bates, Candes, Lei, Romano & Sesia (2023), "Testing for outliers with conformal p-values", Annals of
        Statistics 51.

        Examples
        --------
        >>> from sklatent import LatentOutlierDetector
        >>> from sklearn.datasets import load_iris
        >>> detector = LatentOutlierDetector().fit(load_iris().data)
        >>> detector.p_values([[5.1, 3.5, 1.4, 0.2], [5.1, 3.5, 1.4, 5.0]]).round(3)
        array([0.755, 0.007])
        """
        rows = self._validate_new_rows(X)
        if not self.fold_estimators_:
            raise ValueError(
                "p_values needs out-of-fold scores. Got n_splits=None, set n_splits to an int of at least 2."
            )
        counts = np.zeros(len(rows))
        for model, part in zip(self.fold_estimators_, self._parts, strict=True):
            known = np.sort(self._fold_scores[part])
            counts += np.searchsorted(known, log_density(model, rows, self._n_skipped), side="right")
        return (1 + counts) / (1 + len(self.training_scores_))

    def select(self, X: ArrayLike, fdr: float = 0.1) -> NDArray[np.bool_]:
        """Select the samples that are outliers, such that few of those selected are normal.

        The procedure of Benjamini & Hochberg selects by the p-values of all samples together.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples to select from.
        fdr : float in (0, 1), default=0.1
            False discovery rate: expected fraction of normal samples among those that are selected.

        Returns
        -------
        is_outlier : ndarray of shape (n_samples,), bool
            Mask of the selected samples. A sample can only be selected if there are enough training samples: the least
            p-value of n training samples is 1 / (n + 1).

        Raises
        ------
        ValueError
            If `fdr` is not in (0, 1), or if the detector was fitted with `n_splits=None`.

        See Also
        --------
        p_values : What it selects by.
        predict : Selects by a threshold.

        Notes
        -----
        Bates et al. (2023) show that the procedure controls the false discovery rate for conformal p-values of one
        split into samples to fit to and samples to compare with. For cross-conformal p-values it holds in practice.

        References
        ----------
        Benjamini & Hochberg (1995), "Controlling the false discovery rate", JRSS B 57.
        Bates, Candes, Lei, Romano & Sesia (2023), "Testing for outliers with conformal p-values", Annals of
        Statistics 51.

        Examples
        --------
        >>> from sklatent import LatentOutlierDetector
        >>> from sklearn.datasets import load_iris
        >>> detector = LatentOutlierDetector().fit(load_iris().data)
        >>> detector.select([[5.1, 3.5, 1.4, 0.2], [5.1, 3.5, 1.4, 5.0]])
        array([False,  True])
        """
        check_scalar(fdr, "fdr", Real, min_val=0, max_val=1, include_boundaries="neither")
        return false_discovery_control(self.p_values(X)) <= fdr

    def get_metadata_routing(self) -> Any:
        """Get the routes of metadata: what `estimator` requests goes to its `fit`.

        Returns
        -------
        routing : MetadataRouter
            As scikit-learn's metadata routing expects it.

        See Also
        --------
        fit : Passes on what `estimator` requests.

        Examples
        --------
        >>> import sklearn
        >>> from sklatent import LatentOutlierDetector, PCAReducer
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> with sklearn.config_context(enable_metadata_routing=True):
        ...     detector = LatentOutlierDetector(PCAReducer(2).set_fit_request(sample_weight=True))
        ...     detector = detector.fit(X, sample_weight=1.0 + (y == 2))
        """
        return route_to_fit(MetadataRouter(owner=self), self._density())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # Neither parallel analysis nor the concentration steps take them.
        is_for_complete = self.estimator is None or self.support_fraction is not None
        tags.input_tags.allow_nan = not is_for_complete and allows_missing(self.estimator)
        return tags

    def _density(self) -> Any:
        """The unfitted density that `estimator` stands for."""
        return PCAReducer("parallel", random_state=0) if self.estimator is None else self.estimator

    def _folds(self, X: NDArray[Any]) -> list[Subset]:
        """Indices of the samples of each fold; none without `n_splits`."""
        if self.n_splits is None:
            return []
        if len(X) < self.n_splits:
            raise ValueError(
                f"n_splits={self.n_splits} must be less than or equal to the number of samples, n_samples={len(X)}. "
                "Use fewer folds, or n_splits=None."
            )
        return folds(len(X), self.n_splits)

    def _subsets(self, X: NDArray[Any], parts: list[Subset]) -> list[Subset]:
        """Indices of the samples to fit to: all and those outside each fold, or their supports."""
        subsets = [np.arange(len(X)), *complements(len(X), parts)]
        if self.support_fraction is None:
            return subsets
        return concentrated_supports(self._density(), X, subsets, self.support_fraction)

    def _scores_as_of_new_samples(self, X: NDArray[Any]) -> NDArray[np.float64]:
        """Scores of the training samples by densities that were fitted to as many others, so far as they are known."""
        if self.n_splits is None or not is_maximum_likelihood(self.estimator_):
            return self._fold_scores
        in_sample = log_density(self.estimator_, X, self._n_skipped)
        return extrapolated_scores(self._fold_scores, in_sample, self.n_splits)

    def _validate_new_rows(self, X: ArrayLike) -> NDArray[Any]:
        check_is_fitted(self)
        return self._validate(X, reset=False)

    def _validate(self, X: ArrayLike, reset: bool) -> NDArray[Any]:
        finite = "allow-nan" if get_tags(self).input_tags.allow_nan else True
        return validate_data(self, X, dtype=FLOAT_DTYPES, ensure_all_finite=finite, reset=reset)

    def _score_rows(self, X: NDArray[Any]) -> NDArray[np.float64]:
        """Scores by a density that has not seen the samples; by `estimator_` if all others have."""
        return self._known.replace(X, log_density(self.estimator_, X, self._n_skipped))

    def _threshold(self, scores: NDArray[np.float64]) -> float:
        with np.errstate(invalid="ignore"):  # scores of -inf are reported below
            if self.contamination == "auto":
                threshold = _lower_fence(scores)
            else:
                threshold = float(np.percentile(scores, 100 * self.contamination, method="weibull"))
        if not np.isfinite(threshold):
            raise ValueError(
                f"The scores of X have no finite threshold with contamination={self.contamination!r}: "
                f"{type(self.estimator_).__name__}.score_samples returns values that are not finite for "
                f"{np.sum(~np.isfinite(scores))} of {len(scores)} samples."
            )
        return threshold


def _lower_fence(scores: NDArray[np.float64]) -> float:
    """Tukey's lower fence: at most the lower quartile, and equal to it if the quartiles are equal."""
    lower, upper = np.percentile(scores, [25, 75])
    return float(lower - 1.5 * (upper - lower))
