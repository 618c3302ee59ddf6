"""Outlier detection by a density, against Mahalanobis distances, percentiles and planted outliers."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import digamma
from scipy.stats import chi2, multivariate_normal
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.covariance import EllipticEnvelope, EmpiricalCovariance
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import SelectKBest
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import KFold
from sklearn.neighbors import KernelDensity, LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, QuantileTransformer, RobustScaler, StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator
from sklearn.utils.validation import check_is_fitted

from sklatent import AutoencoderTransformer, LatentImputer, LatentOutlierDetector, PCAReducer, VAETransformer
from sklatent._jacobians import unroll
from sklatent._memo import Memo
from sklatent._search.crossfit import extrapolated_scores
from sklatent.metrics import log_likelihood_samples

DENSITIES = [
    PCAReducer(2),
    AutoencoderTransformer(2, max_epochs=3, random_state=0),
    VAETransformer(2, max_epochs=3, random_state=0),
    GaussianMixture(2, random_state=0),
    KernelDensity(),
    make_pipeline(StandardScaler(), PCAReducer(2)),
]


def f_of_variance(X, y):
    return X.var(axis=0)


def name_of(item):
    return getattr(item, "__name__", None) or getattr(getattr(item, "func", item), "__name__", repr(item))


@pytest.fixture
def X(rng):
    return rng.standard_normal((400, 4)) @ rng.standard_normal((4, 4)) + 5


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # what a check does with warnings is its own affair
@pytest.mark.parametrize(
    ("detector", "check"),
    [
        pair
        for detector in (
            LatentOutlierDetector(),
            LatentOutlierDetector(PCAReducer(1), n_splits=None),
            LatentOutlierDetector(make_pipeline(StandardScaler(), PCAReducer(1)), support_fraction=0.75, n_splits=2),
        )
        for pair in estimator_checks_generator(detector, mark=None)
    ],
    ids=name_of,
)
def test_check_estimator(detector, check):
    check(detector)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", DENSITIES, ids=name_of)
@pytest.mark.parametrize("n_splits", [None, 2])
def test_scores_of_new_samples_are_those_of_the_estimator(estimator, n_splits, X, rng):
    new = X if n_splits is None else X + rng.standard_normal(X.shape)
    detector = LatentOutlierDetector(estimator, n_splits=n_splits).fit(X)
    expected = log_likelihood_samples(clone(estimator).fit(X), new)
    np.testing.assert_array_equal(detector.score_samples(new), expected)
    np.testing.assert_array_equal(detector.decision_function(new), expected - detector.offset_)
    np.testing.assert_array_equal(detector.predict(new), np.where(expected >= detector.offset_, 1, -1))
    with pytest.raises(NotFittedError):
        check_is_fitted(estimator)


def test_full_rank_pca_orders_rows_by_their_mahalanobis_distance(X, rng):
    new = 3 * rng.standard_normal((200, 4))
    detector = LatentOutlierDetector(PCAReducer(), contamination=0.1, n_splits=None).fit(X)
    covariance = EmpiricalCovariance().fit(X)
    order = np.argsort(covariance.mahalanobis(new))
    np.testing.assert_array_equal(np.argsort(-detector.decision_function(new)), order)
    cutoff = np.percentile(covariance.mahalanobis(X), 90)
    np.testing.assert_array_equal(detector.predict(new), np.where(covariance.mahalanobis(new) > cutoff, -1, 1))


@pytest.mark.parametrize("contamination", [0.01, 0.1, 0.25, 0.5])
@pytest.mark.parametrize("n_splits", [None, 2, 5])
def test_contamination_is_the_share_of_training_rows_below_the_threshold(n_splits, contamination, X):
    detector = LatentOutlierDetector(PCAReducer(2), contamination=contamination, n_splits=n_splits)
    assert np.mean(detector.fit_predict(X) == -1) == contamination
    assert detector.offset_ == np.percentile(detector.training_scores_, 100 * contamination, method="weibull")


def test_auto_is_tukeys_fence_of_the_training_scores(X):
    detector = LatentOutlierDetector(PCAReducer(2)).fit(X)
    lower, upper = np.percentile(detector.training_scores_, [25, 75])
    assert detector.offset_ == lower - 1.5 * (upper - lower)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", DENSITIES, ids=name_of)
def test_training_scores_are_those_of_fits_without_the_fold(estimator, X):
    detector = LatentOutlierDetector(estimator, n_splits=4).fit(X)
    expected = np.empty(len(X))
    for train, test in KFold(4, shuffle=True, random_state=0).split(X):
        expected[test] = log_likelihood_samples(clone(estimator).fit(X[train]), X[test])
    if isinstance(unroll(detector.estimator_)[-1], PCAReducer):  # extrapolated from 300 to 400 samples
        expected += (log_likelihood_samples(clone(estimator).fit(X), X) - expected) / 7
    # 1e-4: networks are trained together, whose sums are in another order; float32 rounding grows over the steps.
    tolerance = 1e-4 if hasattr(estimator, "max_epochs") else 1e-12
    np.testing.assert_allclose(detector.training_scores_, expected, rtol=tolerance)
    np.testing.assert_array_equal(detector.score_samples(X[::-1]), detector.training_scores_[::-1])
    np.testing.assert_array_equal(detector.score_samples(X[7:9]), detector.training_scores_[7:9])
    assert len(detector.fold_estimators_) == 4
    assert detector.support_.all()


def test_without_splits_training_scores_are_those_of_the_estimator(X):
    detector = LatentOutlierDetector(PCAReducer(2), n_splits=None).fit(X)
    np.testing.assert_array_equal(detector.training_scores_, PCAReducer(2).fit(X).score_samples(X))
    assert detector.fold_estimators_ == []
    with pytest.raises(ValueError, match=r"p_values needs out-of-fold scores. Got n_splits=None, set n_splits to"):
        detector.p_values(X)
    with pytest.raises(ValueError, match=r"p_values needs out-of-fold scores. Got n_splits=None"):
        detector.select(X)


def test_none_stands_for_pca_by_parallel_analysis(rng):
    X = rng.standard_normal((300, 3)) @ rng.standard_normal((3, 10)) + 0.1 * rng.standard_normal((300, 10))
    detector = LatentOutlierDetector().fit(X)
    assert detector.estimator_.n_components_ == 3
    new = X + rng.standard_normal(X.shape)
    np.testing.assert_array_equal(detector.score_samples(new), PCAReducer(3).fit(X).score_samples(new))
    assert detector.estimator is None
    assert detector.score_features(new).shape == new.shape


@pytest.mark.slow
def test_threshold_and_scores_do_not_depend_on_how_the_models_were_trained(X):
    """Beside another detector's fit, that is one by one and together."""
    network = AutoencoderTransformer(1, max_epochs=2, random_state=0)
    together = LatentOutlierDetector(network).fit(X)
    memo = Memo()  # an open memo that knows nothing
    apart = LatentOutlierDetector(network).fit(X)
    memo.close()
    # 1e-4: sums in another order, in float32, over all training steps.
    np.testing.assert_allclose(together.training_scores_, apart.training_scores_, rtol=1e-4)


@pytest.mark.parametrize("n_splits", [2, 5])
@pytest.mark.parametrize(("n_samples", "part"), [(60, 0.4), (1_000, 0.03)])
def test_extrapolated_scores_are_those_of_as_many_samples_in_expectation(n_samples, part, n_splits):
    """Normal samples: the moments of Wishart matrices give the expected scores of new and of training samples."""
    d = 4

    def expected(n, is_new):
        log_det = digamma((n - np.arange(1, d + 1)) / 2).sum() + d * np.log(2 / n)
        distance = d * n / (n - d - 2) * (1 + 1 / n) if is_new else d
        return -0.5 * (log_det + distance)

    fewer = expected(n_samples - n_samples // n_splits, True)
    found = extrapolated_scores(fewer, expected(n_samples, False), n_splits)
    lack = expected(n_samples, True) - fewer
    assert lack > 0
    assert abs(expected(n_samples, True) - found) < part * lack


@pytest.mark.slow
@pytest.mark.parametrize("contamination", [0.05, 0.2])
def test_flagged_share_of_new_samples_of_a_flexible_density(contamination, rng):
    """In 30 dimensions a normal density of 120 samples scores them far too high."""
    flagged = {5: [], None: []}
    for _ in range(20):
        X, new = rng.standard_normal((120, 30)), rng.standard_normal((1000, 30))
        for n_splits, shares in flagged.items():
            detector = LatentOutlierDetector(PCAReducer(), contamination=contamination, n_splits=n_splits)
            shares.append(np.mean(detector.fit(X).predict(new) == -1))
    # A fit without a fold has fewer samples for its 30 x 30 covariances, so its scores and the share are too low.
    assert 0.6 * contamination < np.mean(flagged[5]) < 1.2 * contamination
    assert np.mean(flagged[None]) > 2 * contamination


def test_p_values_by_counting(X, rng):
    new = X[:50] + rng.standard_normal((50, 4))
    detector = LatentOutlierDetector(PCAReducer(2), n_splits=3).fit(X)
    counts = np.zeros(50)
    for train, test in KFold(3, shuffle=True, random_state=0).split(X):
        model = PCAReducer(2).fit(X[train])
        counts += (model.score_samples(X[test]) <= model.score_samples(new)[:, None]).sum(axis=1)
    np.testing.assert_array_equal(detector.p_values(new), (1 + counts) / 401)
    assert detector.p_values(X + 1e6).max() == 1 / 401


@pytest.mark.slow
def test_p_values_of_normal_samples_are_uniform(rng):
    p_values = []
    for _ in range(200):
        X = rng.standard_normal((120, 5))
        detector = LatentOutlierDetector(PCAReducer(2), n_splits=4).fit(X[:100])
        p_values.append(detector.p_values(X[100:]))
    for a in (0.05, 0.1, 0.2):
        shares = np.mean(np.array(p_values) <= a, axis=1)
        error = shares.std() / np.sqrt(len(shares))
        assert a / 2 <= shares.mean() <= a + 3 * error


def test_select_is_benjamini_and_hochbergs_procedure(X, rng):
    new = np.concatenate([X[:90] + 0.1 * rng.standard_normal((90, 4)), 100 * rng.standard_normal((10, 4))])
    detector = LatentOutlierDetector(PCAReducer(2)).fit(X)
    ordered = np.sort(detector.p_values(new))
    for fdr in (0.05, 0.1, 0.5):
        below = np.flatnonzero(ordered <= fdr * np.arange(1, 101) / 100)
        np.testing.assert_array_equal(detector.select(new, fdr), detector.p_values(new) <= ordered[below[-1]])
    assert detector.select(new, 0.1)[90:].all()
    assert detector.select(new).dtype == bool
    assert not detector.select(new[:1]).any()


@pytest.mark.parametrize("fdr", [0, 1, -0.1, 1.5])
def test_bad_fdr(fdr, X):
    detector = LatentOutlierDetector(PCAReducer(2)).fit(X)
    with pytest.raises(ValueError, match=rf"fdr == {fdr}, must be"):
        detector.select(X, fdr)
    with pytest.raises(TypeError, match="fdr must be an instance of"):
        detector.select(X, "x")


def contaminated(rng, n=200, n_outliers=30):
    """Samples of two features and close outliers, which pull the covariance of all samples."""
    X = rng.standard_normal((n, 4)) @ np.diag([3.0, 2.0, 1.0, 0.5])
    X[:n_outliers] = [8, -8, 6, 3] + 0.3 * rng.standard_normal((n_outliers, 4))
    return X


def test_support_is_where_concentration_stands(rng):
    X = contaminated(rng)
    detector = LatentOutlierDetector(support_fraction=0.7).fit(X)
    assert detector.support_.sum() == 140
    assert not detector.support_[:30].any()
    own = PCA(detector.estimator_.n_components_).fit(X[detector.support_])
    np.testing.assert_array_equal(np.flatnonzero(detector.support_), np.sort(np.argsort(-own.score_samples(X))[:140]))
    np.testing.assert_allclose(detector.estimator_.mean_, X[detector.support_].mean(axis=0), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [PCAReducer(2), make_pipeline(StandardScaler(), GaussianMixture(2))], ids=name_of)
def test_support_fraction_ranks_the_outliers_of_the_training_samples(estimator, rng):
    X = contaminated(rng)
    is_normal = np.arange(len(X)) >= 30
    plain = LatentOutlierDetector(clone(estimator)).fit(X)
    robust = LatentOutlierDetector(clone(estimator), support_fraction=0.75).fit(X)
    assert roc_auc_score(is_normal, robust.training_scores_) > 0.99
    assert roc_auc_score(is_normal, plain.training_scores_) < 0.9


def test_support_of_everything_is_the_plain_fit(X):
    plain, robust = (LatentOutlierDetector(PCAReducer(2), support_fraction=f).fit(X) for f in (None, 1.0))
    np.testing.assert_array_equal(robust.training_scores_, plain.training_scores_)
    assert robust.support_.all()


@pytest.mark.parametrize("value", [0.5, 0, 1.1, -1, np.nan, "auto", "x"], ids=repr)
def test_bad_support_fraction(value, X):
    with pytest.raises(
        ValueError, match="The 'support_fraction' parameter of LatentOutlierDetector must be a float in"
    ):
        LatentOutlierDetector(PCAReducer(2), support_fraction=value).fit(X)


@pytest.mark.parametrize("value", [0, 1, -1, 2.5, "auto"], ids=repr)
def test_bad_n_splits(value, X):
    with pytest.raises(ValueError, match="The 'n_splits' parameter of LatentOutlierDetector must be an int in"):
        LatentOutlierDetector(PCAReducer(2), n_splits=value).fit(X)


def test_fewer_samples_than_folds(X):
    detector = LatentOutlierDetector(PCAReducer(2))
    with pytest.raises(ValueError, match=r"n_splits=5 must be less than or equal to .* n_samples=4"):
        detector.fit(X[:4])
    assert not hasattr(detector, "estimator_")
    assert LatentOutlierDetector(PCAReducer(1)).fit(X[:5]).training_scores_.shape == (5,)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_training_samples_are_recognized_in_either_precision(dtype, X):
    X = X.astype(dtype)
    X[3] = 0.0
    detector = LatentOutlierDetector(PCAReducer(2)).fit(X)
    for known in (X, X.astype(np.float64), np.asfortranarray(X), np.where(X == 0, -0.0, X).astype(dtype)):
        np.testing.assert_array_equal(detector.score_samples(known), detector.training_scores_)
    changed = np.nextafter(X, np.inf, dtype=dtype)
    assert np.isin(detector.score_samples(changed), detector.training_scores_).mean() < 0.01
    assert (detector.score_samples(X[:, [1, 0, 2, 3]]) != detector.training_scores_)[X[:, 0] != X[:, 1]].all()


@pytest.mark.parametrize(("n_features", "share"), [(1, 0.076), (2, 0.048), (10, 0.019), (100, 0.007)])
def test_auto_flags_the_documented_share_of_normal_rows(n_features, share, rng):
    lower, upper = chi2.ppf([0.25, 0.75], n_features)  # -2 ln p(x) is chi-squared, up to a constant
    tail = chi2.sf(upper + 1.5 * (upper - lower), n_features)
    assert round(tail, 3) == share
    X = rng.standard_normal((10_000, n_features))
    flagged = np.mean(LatentOutlierDetector(PCAReducer()).fit_predict(X) == -1)
    # Over draws of 10,000 rows the share flagged deviates by 4 % (one feature) to 10 % (a hundred) of itself.
    assert flagged == pytest.approx(tail, rel=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("estimator", DENSITIES, ids=name_of)
def test_planted_outliers_among_new_rows(estimator, dtype, X, rng):
    directions = rng.standard_normal((10, 4))
    planted = X.mean(axis=0) + 100 * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    detector = LatentOutlierDetector(estimator).fit(X[:300].astype(dtype))
    assert (detector.predict(planted.astype(dtype)) == -1).all()
    assert (detector.predict(X[300:].astype(dtype)) == 1).mean() > 0.85
    assert detector.score_samples(planted.astype(dtype)).dtype == np.float64


@pytest.mark.slow
@pytest.mark.parametrize("contamination", ["auto", 0.1])
@pytest.mark.parametrize(
    ("estimator", "least"),
    # The draws of the VAE are tied to the values of a row, so its rows at the threshold may change sides.
    list(zip(DENSITIES[:3], [1, 1, 0.95], strict=True)),
    ids=name_of,
)
def test_units_do_not_matter(estimator, least, contamination, X, rng):
    new = X + rng.standard_normal(X.shape)
    detector = LatentOutlierDetector(estimator, contamination=contamination)
    predicted = detector.fit(X).predict(new)
    assert set(predicted) == {-1, 1}
    assert np.mean(detector.fit(1000 * X).predict(1000 * new) == predicted) >= least


@pytest.mark.parametrize("n_splits", [None, 5])
@pytest.mark.parametrize(
    "steps", [[StandardScaler()], [MinMaxScaler(), RobustScaler()], [PCA(whiten=True), StandardScaler()]], ids=name_of
)
def test_affine_steps_of_a_pipeline_change_no_score(steps, n_splits, X, rng):
    """A normal density in other units is the same density of X, whichever samples the scalers were fitted to."""
    new = X + 3 * rng.standard_normal(X.shape)
    plain, scaled = (
        LatentOutlierDetector(model, contamination=0.1, n_splits=n_splits).fit(X)
        for model in (PCAReducer(), make_pipeline(*steps, PCAReducer()))
    )
    np.testing.assert_allclose(scaled.training_scores_, plain.training_scores_, rtol=1e-10)
    np.testing.assert_allclose(scaled.score_samples(new), plain.score_samples(new), rtol=1e-10)
    assert scaled.offset_ == pytest.approx(plain.offset_, rel=1e-10)
    np.testing.assert_array_equal(scaled.predict(new), plain.predict(new))
    if n_splits:
        np.testing.assert_array_equal(scaled.p_values(new), plain.p_values(new))


def test_pipeline_scores_as_its_steps_by_hand(X, rng):
    new = X + rng.standard_normal(X.shape)
    detector = LatentOutlierDetector(make_pipeline(StandardScaler(), GaussianMixture(2, random_state=0))).fit(X)
    scaled, scaled_new = ((rows - X.mean(axis=0)) / X.std(axis=0) for rows in (X, new))
    expected = GaussianMixture(2, random_state=0).fit(scaled).score_samples(scaled_new) - np.log(X.std(axis=0)).sum()
    # 1e-9: rounding of the scaled values, by sums over 400 rows in another order.
    np.testing.assert_allclose(detector.score_samples(new), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("steps", "n_units"),
    [
        ([PCA(2)], 1),
        ([StandardScaler(), SelectKBest(f_of_variance, k=3)], 2),
        ([QuantileTransformer(n_quantiles=50)], 1),
        ([MinMaxScaler(clip=True)], 1),
        ([StandardScaler(), PCA(2), StandardScaler()], 2),
    ],
    ids=["one unit", "selection", "quantiles", "clipped", "in the middle"],
)
def test_units_are_those_of_what_leaves_the_last_step_that_loses_information(steps, n_units, X, rng):
    new = X + rng.standard_normal(X.shape)
    detector = LatentOutlierDetector(make_pipeline(*steps, PCAReducer(1)), contamination=0.1).fit(X)
    inner, last = detector.estimator_[:n_units], detector.estimator_[n_units:]
    np.testing.assert_allclose(
        detector.score_samples(new), log_likelihood_samples(last, inner.transform(new)), rtol=1e-12
    )
    assert np.isfinite(detector.training_scores_).all()
    assert np.mean(detector.predict(X) == -1) == 0.1


@pytest.mark.slow
@pytest.mark.parametrize("model", [IsolationForest(random_state=0), EllipticEnvelope(random_state=0)], ids=name_of)
def test_scores_of_outlier_detectors_have_no_units(model, X, rng):
    new = X + rng.standard_normal(X.shape)
    detector = LatentOutlierDetector(make_pipeline(StandardScaler(), PCA(), model)).fit(100 * X)
    np.testing.assert_array_equal(detector.score_samples(100 * new), detector.estimator_.score_samples(100 * new))


class Distance:
    """The least that a density has to have: no base class of scikit-learn, so no tags."""

    def get_params(self, deep=True):
        return {}

    def fit(self, X, y=None):
        self.mean_ = X.mean(axis=0)
        return self

    def score_samples(self, X):
        return -np.linalg.norm(X - self.mean_, axis=1)


@pytest.mark.parametrize("steps", [[], [StandardScaler()]], ids=["alone", "scaled"])
def test_an_estimator_needs_no_more_than_fit_and_scores(steps, X, rng):
    new = X + rng.standard_normal(X.shape)
    detector = LatentOutlierDetector(make_pipeline(*steps, Distance()) if steps else Distance()).fit(X)
    np.testing.assert_array_equal(detector.score_samples(new), log_likelihood_samples(detector.estimator_, new))


def test_rows_of_equal_scores_are_inliers():
    X = np.full((5, 3), 2.0)
    for contamination in ("auto", 0.5):
        np.testing.assert_array_equal(
            LatentOutlierDetector(PCAReducer(1), contamination=contamination).fit_predict(X), 1
        )


def test_rows_of_density_zero_are_outliers(X):
    detector = LatentOutlierDetector(KernelDensity(kernel="tophat", bandwidth=5)).fit(X)
    assert detector.predict(X[:1] + 1000) == -1


def test_column_names_stay_on_the_detector(X):
    frame = pd.DataFrame(X, columns=list("abcd"))
    detector = LatentOutlierDetector(PCAReducer(2)).fit(frame)
    assert list(detector.feature_names_in_) == list("abcd")
    assert not hasattr(detector.estimator_, "feature_names_in_")
    np.testing.assert_array_equal(detector.score_samples(frame + 1), detector.estimator_.score_samples(X + 1))
    with pytest.raises(ValueError, match="Feature names must be in the same order"):
        detector.predict(frame[list("bacd")])
    with pytest.raises(ValueError, match=r"Feature names seen at fit time, yet now missing:\n- d"):
        detector.predict(frame[list("abc")])


def test_fewer_columns_than_in_fit(X):
    detector = LatentOutlierDetector(PCAReducer(2)).fit(X)
    for method in (detector.score_samples, detector.decision_function, detector.predict):
        with pytest.raises(ValueError, match="X has 3 features, but LatentOutlierDetector is expecting 4 features"):
            method(X[:, :3])


@pytest.mark.parametrize("contamination", [0, 0.0, 0.6, -0.1, 1, np.nan, np.inf, "x", None, [0.1]], ids=repr)
def test_bad_contamination(contamination, X):
    detector = LatentOutlierDetector(PCAReducer(2), contamination=contamination)
    with pytest.raises(ValueError, match="The 'contamination' parameter of LatentOutlierDetector must be"):
        detector.fit(X)
    assert set(vars(detector)) == set(detector.get_params(deep=False))


@pytest.mark.parametrize(
    ("estimator", "name"),
    [
        (KMeans(2), "KMeans"),
        (LocalOutlierFactor(), "LocalOutlierFactor"),  # scores with novelty=True only
        (make_pipeline(StandardScaler(), KMeans(2)), "Pipeline"),
    ],
    ids=name_of,
)
def test_an_estimator_without_scores_is_refused_before_fitting(estimator, name, X, monkeypatch):
    monkeypatch.setattr(KMeans, "fit", lambda *args: pytest.fail("an estimator without scores was fitted"))
    detector = LatentOutlierDetector(estimator)
    with pytest.raises(
        ValueError, match=rf"(?s)'estimator' .* implementing 'fit' and 'score_samples' or None. Got {name}"
    ):
        detector.fit(X)
    assert set(vars(detector)) == set(detector.get_params(deep=False))


def test_the_estimators_own_parameters_are_validated_by_it(X):
    with pytest.raises(ValueError, match=r"The 'nz' parameter of PCAReducer must be .* Got -1 instead"):
        LatentOutlierDetector(PCAReducer(-1)).fit(X)


class ScoresThatFail(PCA):
    """PCA whose scores are what is asked for."""

    failure = None

    def score_samples(self, X):
        if self.failure is None:
            return super().score_samples(X)
        if isinstance(self.failure, float):
            return np.full(len(X), self.failure)
        raise self.failure


@pytest.mark.parametrize(
    ("failure", "error", "message"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (-np.inf, ValueError, "ScoresThatFail.score_samples returns values that are not finite for 12 of 12 samples"),
        (np.nan, ValueError, "The scores of X have no finite threshold with contamination="),
    ],
    ids=repr,
)
@pytest.mark.parametrize("contamination", ["auto", 0.1])
def test_a_failed_fit_leaves_the_former_one(failure, error, message, contamination, X, monkeypatch):
    detector = LatentOutlierDetector(ScoresThatFail(2), contamination=contamination).fit(X)
    before, decision = dict(vars(detector)), detector.decision_function(X)
    monkeypatch.setattr(ScoresThatFail, "failure", failure)
    with pytest.raises(error, match=message):
        detector.fit(X[:12, :3])
    monkeypatch.undo()
    assert vars(detector) == before
    np.testing.assert_array_equal(detector.decision_function(X), decision)


def test_methods_before_fit(X):
    for method in ("score_samples", "decision_function", "predict", "p_values", "select"):
        with pytest.raises(NotFittedError, match="This LatentOutlierDetector instance is not fitted yet"):
            getattr(LatentOutlierDetector(PCAReducer(2)), method)(X)


@pytest.fixture
def incomplete(rng):
    X = rng.standard_normal((400, 2)) @ rng.standard_normal((2, 4)) + 0.3 * rng.standard_normal((400, 4))
    return np.where(rng.random(X.shape) < 0.15, np.nan, X)


def marginal_log_density(pca, x):
    """That of SciPy's normal distribution over the observed values."""
    seen = ~np.isnan(x)
    normal = multivariate_normal(pca.mean_[seen], pca.get_covariance()[np.ix_(seen, seen)])
    return normal.logpdf(x[seen]) if seen.any() else 0.0


def test_scores_of_incomplete_samples_are_those_of_their_observed_values(incomplete):
    X, new = incomplete[:200], incomplete[200:]
    detector = LatentOutlierDetector(PCAReducer(2), n_splits=4).fit(X)
    pca = PCAReducer(2).fit(X)
    expected = np.array([marginal_log_density(pca, x) for x in new])
    np.testing.assert_allclose(detector.score_samples(new), expected, rtol=1e-9)
    in_sample = np.array([marginal_log_density(pca, x) for x in X])
    out_of_fold = np.empty(200)
    counts = np.zeros(200)
    for train, test in KFold(4, shuffle=True, random_state=0).split(X):
        model = PCAReducer(2).fit(X[train])
        out_of_fold[test] = [marginal_log_density(model, x) for x in X[test]]
        counts += (out_of_fold[test] <= np.array([marginal_log_density(model, x) for x in new])[:, None]).sum(axis=1)
    np.testing.assert_allclose(detector.training_scores_, out_of_fold + (in_sample - out_of_fold) / 7, rtol=1e-9)
    np.testing.assert_allclose(detector.p_values(new), (1 + counts) / 201, rtol=1e-9)
    assert np.isnan(detector.score_features(new)[np.isnan(new)]).all()


def test_incomplete_training_samples_are_recognized(incomplete):
    detector = LatentOutlierDetector(PCAReducer(2)).fit(incomplete)
    np.testing.assert_array_equal(detector.score_samples(incomplete[::-1]), detector.training_scores_[::-1])
    other = np.where(np.isnan(incomplete), np.uint64(0xFFF8000000000123).view(np.float64), incomplete)
    np.testing.assert_array_equal(detector.score_samples(other), detector.training_scores_)


@pytest.mark.slow
def test_p_values_of_incomplete_samples_are_uniform(rng):
    """Of 40 fits with 100 samples each: the standard deviation of a fraction over fits is about 0.03."""
    loadings = rng.standard_normal((2, 4))
    found = []
    for _ in range(40):
        X = rng.standard_normal((400, 2)) @ loadings + 0.3 * rng.standard_normal((400, 4))
        X[rng.random(X.shape) < 0.2] = np.nan
        detector = LatentOutlierDetector(PCAReducer(2)).fit(X[:100])
        found.append([np.mean(detector.p_values(X[100:]) <= level) for level in (0.05, 0.2, 0.5)])
    np.testing.assert_allclose(np.mean(found, axis=0), [0.05, 0.2, 0.5], atol=0.02)


def test_units_change_no_decision_about_incomplete_samples(incomplete):
    units = np.array([1e-2, 1.0, 30.0, 1e4])
    X, new = incomplete[:200], incomplete[200:] * 1.5
    detector = LatentOutlierDetector(make_pipeline(StandardScaler(), PCAReducer(2)), contamination=0.1).fit(X)
    other = clone(detector).fit(X * units)
    shift = -np.where(np.isnan(new), 0.0, np.log(units)).sum(axis=1)
    np.testing.assert_allclose(other.score_samples(new * units), detector.score_samples(new) + shift, atol=1e-8)
    np.testing.assert_array_equal(other.support_, detector.support_)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AutoencoderTransformer, VAETransformer])
def test_networks_detect_among_incomplete_samples(kind, incomplete):
    network = kind(2, max_epochs=2, random_state=0)
    detector = LatentOutlierDetector(network, n_splits=2).fit(incomplete[:200])
    new = incomplete[200:]
    expected = clone(network).fit(incomplete[:200]).score_samples(new)
    np.testing.assert_allclose(detector.score_samples(new), expected, rtol=1e-4)  # trained together
    assert (detector.predict(np.where(np.isnan(new), np.nan, 100.0)[~np.isnan(new).all(axis=1)]) == -1).all()


@pytest.mark.parametrize(
    ("detector", "message"),
    [
        (LatentOutlierDetector(GaussianMixture()), "LatentOutlierDetector does not accept missing values"),
        (LatentOutlierDetector(make_pipeline(StandardScaler(), GaussianMixture())), "GaussianMixture does not accept"),
        (LatentOutlierDetector(), "LatentOutlierDetector does not accept missing values"),
        (LatentOutlierDetector(PCAReducer("parallel")), "PCAReducer does not accept missing values with nz='parallel'"),
        (LatentOutlierDetector(PCAReducer(2), support_fraction=0.8), "LatentOutlierDetector does not accept missing"),
    ],
    ids=repr,
)
def test_missing_values_that_are_refused(detector, message, incomplete):
    with pytest.raises(ValueError, match=message):
        detector.fit(incomplete)
    assert set(vars(detector)) == set(detector.get_params(deep=False))


def test_missing_values_are_filled_in_before_the_detector(rng):
    X = rng.standard_normal((60, 2)) @ rng.standard_normal((2, 4)) + 0.1 * rng.standard_normal((60, 4))
    X[rng.random(X.shape) < 0.1] = np.nan
    imputer, detector = LatentImputer(PCAReducer(2)), LatentOutlierDetector(PCAReducer(2))
    together = make_pipeline(imputer, detector).fit(X)
    filled = clone(imputer).fit_transform(X)
    np.testing.assert_array_equal(together.score_samples(X), clone(detector).fit(filled).score_samples(filled))


@pytest.mark.parametrize("n_splits", [None, 2, 5])
def test_equal_samples_have_one_score(n_splits, rng):
    X = (rng.random((300, 6)) < 0.3).astype(float)  # at most 64 are distinct
    detector = LatentOutlierDetector(PCAReducer(2), contamination=0.1, n_splits=n_splits).fit(X)
    np.testing.assert_array_equal(detector.score_samples(X), detector.training_scores_)
    np.testing.assert_array_equal(detector.predict(X) == -1, detector.training_scores_ < detector.offset_)
    distinct = np.unique(X, axis=0)
    assert len(np.unique(detector.training_scores_)) <= len(distinct)


@pytest.mark.parametrize("n_splits", [None, 3])
def test_a_density_that_is_frozen(n_splits, rng):
    """A threshold for a density that is trained already."""
    X = rng.standard_normal((80, 4))
    pca = PCAReducer(2).fit(rng.standard_normal((200, 4)))
    detector = LatentOutlierDetector(FrozenEstimator(pca), contamination=0.1, n_splits=n_splits).fit(X)
    np.testing.assert_allclose(detector.training_scores_, pca.score_samples(X), rtol=1e-12)
