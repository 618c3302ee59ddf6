"""Outlier detection by a density, against Mahalanobis distances, percentiles and planted outliers."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.covariance import EmpiricalCovariance
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity, LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator
from sklearn.utils.validation import check_is_fitted

from sklatent import AutoencoderTransformer, LatentOutlierDetector, PCAReducer, VAETransformer

DENSITIES = [
    PCAReducer(2),
    AutoencoderTransformer(2, max_epochs=3, random_state=0),
    VAETransformer(2, max_epochs=3, random_state=0),
    GaussianMixture(2, random_state=0),
    KernelDensity(),
    make_pipeline(StandardScaler(), PCAReducer(2)),
]


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
        for estimator in (PCAReducer(1), make_pipeline(StandardScaler(), PCAReducer(1)))
        for pair in estimator_checks_generator(LatentOutlierDetector(estimator), mark=None)
    ],
    ids=name_of,
)
def test_check_estimator(detector, check):
    check(detector)


@pytest.mark.parametrize("estimator", DENSITIES, ids=name_of)
def test_scores_are_those_of_the_estimator(estimator, X):
    detector = LatentOutlierDetector(estimator).fit(X)
    expected = clone(estimator).fit(X).score_samples(X)
    np.testing.assert_array_equal(detector.score_samples(X), expected)
    np.testing.assert_array_equal(detector.decision_function(X), expected - detector.offset_)
    np.testing.assert_array_equal(detector.predict(X), np.where(expected >= detector.offset_, 1, -1))
    with pytest.raises(NotFittedError):
        check_is_fitted(estimator)


def test_full_rank_pca_orders_rows_by_their_mahalanobis_distance(X, rng):
    new = 3 * rng.standard_normal((200, 4))
    detector = LatentOutlierDetector(PCAReducer(), contamination=0.1).fit(X)
    covariance = EmpiricalCovariance().fit(X)
    order = np.argsort(covariance.mahalanobis(new))
    np.testing.assert_array_equal(np.argsort(-detector.decision_function(new)), order)
    cutoff = np.percentile(covariance.mahalanobis(X), 90)
    np.testing.assert_array_equal(detector.predict(new), np.where(covariance.mahalanobis(new) > cutoff, -1, 1))


@pytest.mark.parametrize("contamination", [0.01, 0.1, 0.25, 0.5])
def test_contamination_is_the_share_of_training_rows_below_the_threshold(contamination, X):
    detector = LatentOutlierDetector(PCAReducer(2), contamination=contamination)
    assert np.mean(detector.fit_predict(X) == -1) == contamination
    assert detector.offset_ == np.percentile(PCAReducer(2).fit(X).score_samples(X), 100 * contamination)


def test_auto_is_tukeys_fence_of_the_training_scores(X):
    lower, upper = np.percentile(PCAReducer(2).fit(X).score_samples(X), [25, 75])
    assert LatentOutlierDetector(PCAReducer(2)).fit(X).offset_ == lower - 1.5 * (upper - lower)


@pytest.mark.parametrize(("n_features", "share"), [(1, 0.076), (2, 0.048), (10, 0.019), (100, 0.007)])
def test_auto_flags_the_documented_share_of_normal_rows(n_features, share, rng):
    lower, upper = chi2.ppf([0.25, 0.75], n_features)  # -2 ln p(x) is chi-squared, up to a constant
    tail = chi2.sf(upper + 1.5 * (upper - lower), n_features)
    assert round(tail, 3) == share
    X = rng.standard_normal((10_000, n_features))
    flagged = np.mean(LatentOutlierDetector(PCAReducer()).fit_predict(X) == -1)
    # Over draws of 10,000 rows the share flagged deviates by 4 % (one feature) to 10 % (a hundred) of itself.
    assert flagged == pytest.approx(tail, rel=0.25)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("estimator", DENSITIES, ids=name_of)
def test_planted_outliers_among_new_rows(estimator, dtype, X, rng):
    directions = rng.standard_normal((10, 4))
    planted = X.mean(axis=0) + 100 * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    detector = LatentOutlierDetector(estimator).fit(X[:300].astype(dtype))
    assert (detector.predict(planted.astype(dtype)) == -1).all()
    assert (detector.predict(X[300:].astype(dtype)) == 1).mean() > 0.85
    assert detector.score_samples(planted.astype(dtype)).dtype == np.float64


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


def test_pipeline_scores_as_its_steps_by_hand(X):
    detector = LatentOutlierDetector(make_pipeline(StandardScaler(), PCAReducer(2))).fit(X)
    scaled = (X - X.mean(axis=0)) / X.std(axis=0)
    # 1e-9: rounding of the scaled values, by sums over 400 rows in another order.
    np.testing.assert_allclose(detector.score_samples(X), PCAReducer(2).fit(scaled).score_samples(scaled), rtol=1e-9)


def test_rows_of_equal_scores_are_inliers():
    X = np.full((5, 3), 2.0)
    for contamination in ("auto", 0.5):
        np.testing.assert_array_equal(
            LatentOutlierDetector(PCAReducer(1), contamination=contamination).fit_predict(X), 1
        )


def test_rows_of_density_zero_are_outliers(X):
    detector = LatentOutlierDetector(KernelDensity(kernel="tophat")).fit(X)
    assert detector.predict(X[:1] + 1000) == -1


def test_column_names_stay_on_the_detector(X):
    frame = pd.DataFrame(X, columns=list("abcd"))
    detector = LatentOutlierDetector(PCAReducer(2)).fit(frame)
    assert list(detector.feature_names_in_) == list("abcd")
    assert not hasattr(detector.estimator_, "feature_names_in_")
    np.testing.assert_array_equal(detector.score_samples(frame), detector.estimator_.score_samples(X))
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
    assert set(vars(detector)) == {"estimator", "contamination"}


@pytest.mark.parametrize(
    ("estimator", "name"),
    [
        (KMeans(2), "KMeans"),
        (LocalOutlierFactor(), "LocalOutlierFactor"),  # scores with novelty=True only
        (make_pipeline(StandardScaler(), KMeans(2)), "Pipeline"),
        (None, "None"),
    ],
    ids=name_of,
)
def test_an_estimator_without_scores_is_refused_before_fitting(estimator, name, X, monkeypatch):
    monkeypatch.setattr(KMeans, "fit", lambda *args: pytest.fail("an estimator without scores was fitted"))
    detector = LatentOutlierDetector(estimator)
    with pytest.raises(ValueError, match=rf"(?s)'estimator' .* implementing 'fit' and 'score_samples'. Got {name}"):
        detector.fit(X)
    assert set(vars(detector)) == {"estimator", "contamination"}


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
    for method in ("score_samples", "decision_function", "predict"):
        with pytest.raises(NotFittedError, match="This LatentOutlierDetector instance is not fitted yet"):
            getattr(LatentOutlierDetector(PCAReducer(2)), method)(X)
