import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy.special import log_softmax, logsumexp
from scipy.stats import multivariate_normal, norm
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, Normalizer, StandardScaler
from sklearn.utils import estimator_checks, get_tags
from sklearn.utils.estimator_checks import estimator_checks_generator

from sklatent import AutoencoderTransformer, GenerativeClassifier, PCAReducer, VAETransformer

PREDICTIONS = ["predict", "predict_proba", "predict_log_proba", "score_samples"]
FAR = np.full((1, 3), 1e6)  # log p(x) near -1e12


@pytest.fixture
def blobs(rng):
    """Three correlated normal classes of 30, 40 and 50 rows that overlap."""
    X = [rng.standard_normal((n, 3)) @ rng.standard_normal((3, 3)) + 2 * k for k, n in enumerate([30, 40, 50])]
    return np.concatenate(X), np.repeat([0, 1, 2], [30, 40, 50])


def quadratic_log_proba(X, y, priors=None, bias=False):
    """Quadratic discriminant analysis by scipy: scikit-learn's divides by n or n - 1 according to its version."""
    priors = np.bincount(y) / len(y) if priors is None else priors
    densities = [multivariate_normal(X[y == c].mean(axis=0), np.cov(X[y == c].T, bias=bias)) for c in range(3)]
    return log_softmax(np.column_stack([density.logpdf(X) for density in densities]) + np.log(priors), axis=1)


@pytest.mark.parametrize("prior", [None, [0.2, 0.5, 0.3]])
def test_full_rank_pca_is_quadratic_discriminant_analysis(blobs, prior):
    X, y = blobs
    model = GenerativeClassifier(PCAReducer(), class_prior=prior).fit(X, y)
    expected = quadratic_log_proba(X, y, prior)
    # Both decompose well-conditioned covariances: 1e-8 leaves room for log p(c|x) of -100.
    np.testing.assert_allclose(model.predict_log_proba(X), expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(model.predict_proba(X), np.exp(expected), rtol=1e-8, atol=1e-12)
    np.testing.assert_array_equal(model.predict(X), expected.argmax(axis=1))


@pytest.mark.parametrize("steps", [[StandardScaler()], [MinMaxScaler(), PCA(whiten=True)]])
def test_scalers_within_the_density_change_nothing(blobs, steps):
    """Each class has a scaler of its own; the densities are those in the units of X."""
    X, y = blobs
    classifier = GenerativeClassifier(make_pipeline(*steps, PCAReducer()), reject_fraction=0.1).fit(X, y)
    plain = GenerativeClassifier(PCAReducer(), reject_fraction=0.1).fit(X, y)
    np.testing.assert_allclose(classifier.predict_log_proba(X), plain.predict_log_proba(X), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(classifier.score_samples(X), plain.score_samples(X), rtol=1e-10)
    assert classifier.reject_threshold_ == pytest.approx(plain.reject_threshold_, rel=1e-10)
    np.testing.assert_allclose(plain.predict_log_proba(X), quadratic_log_proba(X, y), rtol=1e-8, atol=1e-8)


def test_a_step_that_loses_information_in_each_class_is_refused(blobs):
    X, y = blobs
    classifier = GenerativeClassifier(make_pipeline(StandardScaler(), PCA(2), GaussianMixture()))
    with pytest.raises(ValueError, match=r"estimator=Pipeline cannot be compared: PCA loses .* 2 of 3 .*FrozenEst"):
        classifier.fit(X, y)
    assert not hasattr(classifier, "estimators_")


def test_a_step_that_loses_information_alike_in_all_classes(blobs):
    X, y = blobs
    frozen = make_pipeline(StandardScaler(), PCA(2)).fit(X)
    Z = frozen.transform(X)
    density = make_pipeline(FrozenEstimator(frozen), StandardScaler(), PCAReducer())
    inside = GenerativeClassifier(density, reject_fraction=0.1).fit(X, y)
    before = GenerativeClassifier(PCAReducer(), reject_fraction=0.1).fit(Z, y)
    np.testing.assert_allclose(inside.predict_log_proba(X), before.predict_log_proba(Z), rtol=1e-8, atol=1e-8)
    assert inside.reject_threshold_ == pytest.approx(before.reject_threshold_, rel=1e-8)


def test_a_step_without_parameters_loses_information_alike_in_all_classes(blobs):
    X, y = blobs
    inside = GenerativeClassifier(make_pipeline(Normalizer(), KernelDensity(bandwidth=0.2))).fit(X, y)
    before = GenerativeClassifier(KernelDensity(bandwidth=0.2)).fit(Normalizer().fit_transform(X), y)
    np.testing.assert_array_equal(inside.predict_log_proba(X), before.predict_log_proba(Normalizer().transform(X)))


def test_one_gaussian_is_quadratic_discriminant_analysis(blobs):
    X, y = blobs
    model = GenerativeClassifier(GaussianMixture(1, reg_covar=0.0)).fit(X, y)
    expected = quadratic_log_proba(X, y, bias=True)
    np.testing.assert_allclose(model.predict_log_proba(X), expected, rtol=1e-8, atol=1e-10)


def test_score_samples_is_the_density_of_the_mixture_of_classes(blobs):
    X, y = blobs
    model = GenerativeClassifier(PCAReducer()).fit(X, y)
    density = sum(
        np.mean(y == c) * multivariate_normal(X[y == c].mean(axis=0), np.cov(X[y == c].T)).pdf(X) for c in range(3)
    )
    np.testing.assert_allclose(model.score_samples(X), np.log(density), rtol=1e-9)


def test_kernel_densities_by_hand():
    X, y = np.array([[0.0], [1.0], [4.0]]), ["a", "a", "b"]
    x = np.array([[-1.0], [0.5], [3.0], [7.0]])
    a = 2 / 3 * (norm.pdf(x, 0, 0.5) + norm.pdf(x, 1, 0.5)) / 2
    b = 1 / 3 * norm.pdf(x, 4, 0.5)
    model = GenerativeClassifier(KernelDensity(bandwidth=0.5)).fit(X, y)
    np.testing.assert_allclose(model.predict_proba(x), np.hstack([a, b]) / (a + b), rtol=1e-10)
    np.testing.assert_allclose(model.score_samples(x), np.log(a + b)[:, 0], rtol=1e-10)
    assert model.predict(x).tolist() == ["a", "a", "b", "b"]


def test_digits(digits):
    X, y = digits
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    assert cross_val_score(GenerativeClassifier(PCAReducer(8)), X, y, cv=folds).mean() >= 0.98


@pytest.mark.parametrize(
    "estimator",
    [
        PCAReducer(2),
        AutoencoderTransformer(1, hidden_sizes=(8,), max_epochs=5, random_state=0),
        VAETransformer(1, hidden_sizes=(8,), max_epochs=5, random_state=0),
        GaussianMixture(2, random_state=0),
        KernelDensity(bandwidth=0.5),
        make_pipeline(FunctionTransformer(), PCAReducer(2)),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_every_density_classifies(blobs, estimator):
    X, y = blobs
    X = X + 20 * y[:, np.newaxis]
    model = GenerativeClassifier(estimator).fit(X, y)
    assert model.score(X, y) == 1.0
    assert [type(density) for density in model.estimators_] == [type(estimator)] * 3
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1.0, rtol=1e-12)
    np.testing.assert_array_equal(model.predict(X[::-5]), model.predict(X)[::-5])


def test_grid_search_over_the_density(blobs):
    X, y = blobs
    search = GridSearchCV(
        make_pipeline(StandardScaler(), GenerativeClassifier(PCAReducer())),
        {"generativeclassifier__estimator__nz": [1, 3], "generativeclassifier__class_prior": [None, [1 / 3] * 3]},
        cv=3,
    )
    search.fit(X, y)
    # The classes differ in the orientation of their covariance, which one component and a sphere do not hold.
    assert search.best_params_["generativeclassifier__estimator__nz"] == 3


def test_parameters_are_cloned_and_set():
    model = GenerativeClassifier(PCAReducer(2), class_prior=[0.5, 0.5], reject_threshold=-3, n_jobs=1)
    copy = clone(model).set_params(estimator__nz=4)
    assert (model.estimator.nz, copy.estimator.nz) == (2, 4)
    assert copy.get_params(deep=False) == model.get_params(deep=False) | {"estimator": copy.estimator}


def test_the_estimator_itself_is_never_fitted(blobs):
    density = PCAReducer(2)
    GenerativeClassifier(density).fit(*blobs)
    assert vars(density) == vars(PCAReducer(2))


def test_the_prior_matters(blobs):
    X, y = blobs
    model = GenerativeClassifier(PCAReducer()).fit(X, y)
    np.testing.assert_allclose(model.class_prior_, np.array([30, 40, 50]) / 120, rtol=1e-15)
    np.testing.assert_array_equal(model.class_count_, [30, 40, 50])
    certain = GenerativeClassifier(PCAReducer(), class_prior=[0, 1, 0]).fit(X, y)
    np.testing.assert_array_equal(certain.predict_proba(X), np.tile([0.0, 1.0, 0.0], (120, 1)))
    np.testing.assert_allclose(certain.score_samples(X), certain.estimators_[1].score_samples(X), rtol=1e-15)


@pytest.mark.parametrize("estimator", [PCAReducer(2), GaussianMixture()])
def test_rows_far_from_every_class(blobs, estimator):
    model = GenerativeClassifier(estimator).fit(*blobs)
    assert model.score_samples(FAR)[0] < -1e10
    assert model.predict_proba(FAR).sum() == pytest.approx(1.0, rel=1e-15)
    assert model.predict_log_proba(FAR).max() == 0.0


@pytest.mark.parametrize("prior", [None, [0.0, 0.3, 0.7]])
def test_the_prior_remains_where_every_density_is_zero(blobs, prior):
    X, y = blobs
    model = GenerativeClassifier(KernelDensity(kernel="tophat"), class_prior=prior).fit(X, y)
    np.testing.assert_allclose(model.predict_proba(FAR)[0], model.class_prior_, rtol=1e-15)
    assert model.predict(FAR) == [2]
    assert model.score_samples(FAR) == [-np.inf]
    assert model.set_params(reject_threshold=-1e300).predict(FAR) == [-1]


@pytest.mark.parametrize(
    ("labels", "reject_label"),
    [
        (np.array([0, 1, 2]), -1),
        (np.array([-1, 0, 1]), -2),
        (np.array([-128, -1, 1], dtype=np.int8), -129),
        (np.array([0, 1, 255], dtype=np.uint8), -1),
        (np.array([0.0, 1.0, 2.0]), -1),
        (np.array([False, True, True]), -1),
        (np.array(["a", "b", "c"]), "rejected"),
        (np.array(["a", "b", "c"], dtype=object), "rejected"),
        (np.array(["a", "rejected", "rejected_"]), "rejected__"),
    ],
    ids=lambda labels: f"{labels.dtype} {labels[0]}" if isinstance(labels, np.ndarray) else "",
)
def test_rejected_rows(blobs, labels, reject_label):
    X, y = blobs
    X = X + 20 * y[:, np.newaxis]
    model = GenerativeClassifier(PCAReducer(2), reject_threshold=-100.0).fit(X, labels[y])
    assert model.reject_label_ == reject_label
    predicted = model.predict(np.concatenate([FAR, X]))
    assert predicted.tolist() == [reject_label, *labels[y].tolist()]
    assert model.score(X, labels[y]) == 1.0
    kept = model.set_params(reject_threshold=None).predict(FAR)
    assert kept.dtype == labels.dtype
    assert kept[0] in labels


LARGEST = {dtype: int(np.iinfo(dtype).max) for dtype in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")}


@pytest.mark.parametrize(
    ("labels", "dtype", "reject_label"),
    [([True, False], "?", -1), ([-1, 1], "f4", -2)]
    + [([largest - 1, largest], t, -1) for t, largest in LARGEST.items() if t != "u8"]
    + [([-largest, -1, largest], t, -largest - 1) for t, largest in LARGEST.items() if t[0] == "i"]
    + [
        ([2**60 + 1, 2**60 + 2], "u8", -1),
        ([0, 2**63 - 1], "u8", -1),
        ([0, 2**63], "u8", 2**64 - 1),
        ([2**64 - 3, 2**64 - 1], "u8", 2**64 - 2),
        ([-(2**63), -1, 2**63 - 1], "i8", 2**63 - 2),
    ],
)
def test_labels_keep_type_and_values_beside_the_reject_label(blobs, labels, dtype, reject_label):
    X, y = blobs
    X, y = X + 20 * y[:, np.newaxis], np.array(labels, dtype)[y % len(labels)]
    model = GenerativeClassifier(PCAReducer(2), reject_threshold=-100.0).fit(X, y)
    predicted = model.predict(np.concatenate([FAR, X]))
    wider = {"?": "i1", "u1": "i2", "u2": "i4", "u4": "i8", "u8": "u8" if reject_label > 0 else "i8"}
    assert predicted.dtype == wider.get(dtype, dtype)
    assert model.reject_label_ == reject_label
    assert predicted.tolist() == [reject_label, *y.tolist()]


def test_the_threshold_is_on_the_density_of_all_classes(blobs):
    X, y = blobs
    model = GenerativeClassifier(PCAReducer(2)).fit(X, y)
    scores = model.score_samples(X)
    rejected = model.set_params(reject_threshold=float(np.median(scores))).predict(X) == -1
    np.testing.assert_array_equal(rejected, scores < np.median(scores))


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_column_names(blobs, frame):
    X, y = blobs
    names = ["a", "b", "c"]
    table = frame(dict(zip(names, X.T, strict=True)))
    model = GenerativeClassifier(PCAReducer(2)).fit(table, y)
    assert model.feature_names_in_.tolist() == names
    array = GenerativeClassifier(PCAReducer(2)).fit(X, y)
    for method in PREDICTIONS:
        np.testing.assert_array_equal(getattr(model, method)(table), getattr(array, method)(X))
        with pytest.raises(ValueError, match="Feature names must be in the same order"):
            getattr(model, method)(table[["b", "a", "c"]])


@pytest.mark.parametrize(
    "y",
    [pd.Series(["x", "y"] * 60, dtype="category"), pd.Series(["x", "y"] * 60), pl.Series(["x", "y"] * 60)],
    ids=["pandas category", "pandas", "polars"],
)
def test_labels_from_a_table(blobs, y):
    X, _ = blobs
    model = GenerativeClassifier(PCAReducer(2)).fit(X, y)
    assert model.classes_.tolist() == ["x", "y"]
    assert set(model.predict(X)) <= {"x", "y"}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_densities_get_the_precision_of_the_rows(blobs, dtype):
    X, y = blobs
    model = GenerativeClassifier(PCAReducer(2)).fit(X.astype(dtype), y)
    assert model.estimators_[0].components_.dtype == dtype
    assert model.predict_log_proba(X.astype(dtype)).dtype == np.float64


def test_parallel_classes(blobs):
    X, y = blobs
    one, two = (GenerativeClassifier(PCAReducer(2), n_jobs=n_jobs).fit(X, y) for n_jobs in (None, 2))
    for method in PREDICTIONS:  # to rounding: a worker may give the linear algebra another number of threads
        np.testing.assert_allclose(getattr(two, method)(X), getattr(one, method)(X), rtol=1e-9)


def test_a_class_of_one_row(blobs):
    X, y = blobs
    y = np.where(np.arange(len(y)) == 7, 9, y)
    assert GenerativeClassifier(PCAReducer(1)).fit(X, y).predict(X[7:8]) == [9]
    message = r"GaussianMixture could not be fitted on class 9 with n_samples=1: .* minimum of 2"
    with pytest.raises(ValueError, match=message) as error:
        GenerativeClassifier(GaussianMixture()).fit(X, y)
    assert isinstance(error.value.__cause__, ValueError)


def test_one_class(blobs):
    X, _ = blobs
    model = GenerativeClassifier(PCAReducer(2)).fit(X, ["horse"] * len(X))
    np.testing.assert_array_equal(model.predict_proba(X), np.ones((len(X), 1)))
    np.testing.assert_array_equal(model.score_samples(X), PCAReducer(2).fit(X).score_samples(X))


@pytest.mark.parametrize(
    "prior",
    [[0.5, 0.5], [[0.2, 0.3, 0.5]], [0.5, 0.6, 0.1], [-0.2, 0.6, 0.6], [np.nan, 0.5, 0.5], [np.inf, 0, 0], ["x"] * 3],
    ids=str,
)
def test_bad_prior(blobs, prior):
    model = GenerativeClassifier(PCAReducer(2), class_prior=prior)
    message = r"class_prior must be .* shape \(n_classes,\)=\(3,\) .* non-negative .* sum to 1\. Got \[.* instead"
    with pytest.raises(ValueError, match=message):
        model.fit(*blobs)
    assert vars(model) == vars(GenerativeClassifier(model.estimator, class_prior=prior))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"estimator": LogisticRegression()}, r"'fit' and 'score_samples'\. Got LogisticRegression\(\) instead"),
        ({"estimator": make_pipeline(StandardScaler())}, r"'score_samples'\. Got Pipeline"),
        ({"estimator": None}, r"'score_samples'\. Got None instead"),
        ({"class_prior": 0.5}, "'class_prior' parameter of GenerativeClassifier must be an array-like"),
        ({"reject_threshold": np.nan}, "'reject_threshold' parameter of GenerativeClassifier must be a float"),
        ({"reject_threshold": "low"}, r"'reject_threshold' .* Got 'low' instead"),
        ({"n_jobs": 1.5}, "'n_jobs' parameter of GenerativeClassifier must be"),
    ],
    ids=str,
)
def test_bad_parameters(blobs, parameters, message):
    model = GenerativeClassifier(**{"estimator": PCAReducer(2)} | parameters)
    with pytest.raises(ValueError, match=message):
        model.fit(*blobs)
    assert not hasattr(model, "n_features_in_")


def test_a_failed_fit_leaves_the_former_one(blobs):
    X, y = blobs
    model = GenerativeClassifier(PCAReducer(3)).fit(X, y)
    state, proba = dict(vars(model)), model.predict_proba(X)
    with pytest.raises(ValueError, match="PCAReducer could not be fitted on class 'a' with n_samples=60: nz=3 must be"):
        model.fit(X[:, :2], ["a", "b"] * 60)
    assert vars(model) == state
    np.testing.assert_array_equal(model.predict_proba(X), proba)


class ConstantScore(BaseEstimator):
    """A density whose every score is `value`."""

    def __init__(self, value):
        self.value = value

    def fit(self, X):
        self.n_features_in_ = X.shape[1]
        return self

    def score_samples(self, X):
        return np.full(len(X), self.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_no_log_density_are_refused(blobs, value):
    model = GenerativeClassifier(ConstantScore(value)).fit(*blobs)
    message = f"ConstantScore.score_samples must be less than infinity. Got {value} for sample 0 under class 0"
    for method in PREDICTIONS:
        with pytest.raises(ValueError, match=message):
            getattr(model, method)(FAR)


def test_methods_before_fit(blobs):
    X, _ = blobs
    for method in PREDICTIONS:
        with pytest.raises(NotFittedError, match="is not fitted yet"):
            getattr(GenerativeClassifier(PCAReducer(2)), method)(X)


@pytest.mark.parametrize(
    "density",
    [PCAReducer(2), AutoencoderTransformer(2, max_epochs=2), VAETransformer(2, max_epochs=2), GaussianMixture(2)],
    ids=lambda density: type(density).__name__,
)
def test_samples_of_every_density(blobs, density):
    model = GenerativeClassifier(density).fit(*blobs)
    X, y = model.sample(50, random_state=0)
    assert X.shape == (50, 3)
    assert X.dtype == np.float64
    assert len(np.unique(X, axis=0)) == 50
    assert set(y) == {0, 1, 2}
    for found, again in zip(model.sample(50, random_state=0), (X, y), strict=True):
        np.testing.assert_array_equal(found, again)
    assert not np.array_equal(model.sample(50, random_state=1)[0], X)


def test_kernel_densities_give_samples(blobs):
    X, y = GenerativeClassifier(KernelDensity(bandwidth=1e-9)).fit(*blobs).sample(20, random_state=0)
    distance = np.abs(X[:, None] - blobs[0]).sum(axis=2)
    assert distance.min(axis=1).max() < 1e-7  # of the bandwidth
    np.testing.assert_array_equal(blobs[1][distance.argmin(axis=1)], y)


@pytest.mark.parametrize("prior", [None, [0.2, 0.5, 0.3], [0.0, 1.0, 0.0]])
def test_classes_of_samples_are_in_proportion_to_their_priors(blobs, prior):
    model = GenerativeClassifier(PCAReducer(2), class_prior=prior).fit(*blobs)
    _, y = model.sample(20_000, random_state=0)
    # Four standard errors of a share of one half.
    np.testing.assert_allclose(np.bincount(y, minlength=3) / 20_000, model.class_prior_, atol=4 * 0.5 / 20_000**0.5)


def test_samples_have_the_moments_of_their_class(blobs):
    model = GenerativeClassifier(PCAReducer(3)).fit(*blobs)
    y = np.tile([2, 0, 1], 10_000)
    X, labels = model.sample(len(y), y, 0)
    np.testing.assert_array_equal(labels, y)
    for k, density in enumerate(model.estimators_):
        covariance = density.get_covariance()
        errors = np.sqrt(np.diag(covariance) / 10_000)
        np.testing.assert_array_less(np.abs(X[y == k].mean(axis=0) - density.mean_), 4 * errors)
        np.testing.assert_allclose(np.cov(X[y == k].T), covariance, atol=0.06 * np.diag(covariance).max())


@pytest.mark.parametrize("labels", [["a", "b", "c"], [0.0, 1.0, 2.0], [False, True]], ids=str)
def test_one_label_stands_for_all_samples(blobs, labels):
    X, y = blobs
    labels = np.array(labels)
    model = GenerativeClassifier(PCAReducer(2)).fit(X[y < len(labels)], labels[y[y < len(labels)]])
    _, found = model.sample(4, y=labels[1].item())
    np.testing.assert_array_equal(found, labels[[1, 1, 1, 1]])
    assert found.dtype == model.classes_.dtype
    assert model.sample()[0].shape == (1, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0,), ValueError, "n_samples == 0, must be >= 1"),
        ((2.0,), TypeError, "n_samples must be an instance of"),
        ((2, 3), ValueError, r"y must contain only labels in classes_=\[0, 1, 2\]. Got 3 instead"),
        ((2, "a"), ValueError, "Got 'a' instead"),
        ((2, [0, np.nan]), ValueError, "Got nan instead"),
        (
            (2, [0, 1, 2]),
            ValueError,
            r"y must be a label or an array-like of shape \(n_samples,\)=\(2,\). Got .* \(3,\)",
        ),
        ((2, [[0], [1]]), ValueError, r"Got an array of shape \(2, 1\)"),
        ((2, [0, 1], "seed"), ValueError, "'seed' cannot be used to seed"),
    ],
)
def test_bad_arguments_of_sample(blobs, arguments, error, message):
    model = GenerativeClassifier(PCAReducer(2)).fit(*blobs)
    with pytest.raises(error, match=message):
        model.sample(*arguments)


def test_sample_before_fit_and_without_the_method_of_the_density(blobs):
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        GenerativeClassifier(PCAReducer(2)).sample()
    assert not hasattr(GenerativeClassifier(ConstantScore(0.0)).fit(*blobs), "sample")


def test_sampling_leaves_the_densities_alone(blobs):
    model = GenerativeClassifier(GaussianMixture(2)).fit(*blobs)
    model.sample(5, random_state=0)
    assert all(density.random_state is None for density in model.estimators_)


NEVER_YIELDED = [
    "check_dataframe_column_names_consistency",
    "check_inplace_ensure_writeable",
    "check_param_validation",
]


def name_of(item):
    if isinstance(item, GenerativeClassifier):
        return type(item.estimator).__name__
    return getattr(item, "func", item).__name__


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # what a check does with warnings is its own affair
@pytest.mark.parametrize(
    ("estimator", "check"),
    [
        pair
        for density in (
            PCAReducer(1),
            KernelDensity(),
            # The default init_params="kmeans" refuses array API dispatch, which one of the checks switches on.
            GaussianMixture(init_params="random_from_data", random_state=0),
        )
        for pair in estimator_checks_generator(GenerativeClassifier(density), mark=None)
        if not (isinstance(density, GaussianMixture) and "sample_weight" in name_of(pair[1]))  # it takes no weights
    ],
    ids=name_of,
)
def test_check_estimator(estimator, check):
    check(estimator)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("check", NEVER_YIELDED)
def test_check_never_yielded(check):
    getattr(estimator_checks, check)("GenerativeClassifier", GenerativeClassifier(PCAReducer(1)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "estimator", [PCAReducer(2), GaussianMixture(1), make_pipeline(StandardScaler(), PCAReducer(1))]
)
def test_reject_fraction_is_the_quantile_of_scores_without_the_fold(estimator, blobs):
    X, y = blobs
    model = GenerativeClassifier(estimator, reject_fraction=0.1).fit(X, y)
    plain = GenerativeClassifier(estimator).fit(X, y)
    log_prob = np.empty(len(X))
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(X, y):
        prior = model.class_prior_
        log_prob[test] = (
            GenerativeClassifier(estimator, class_prior=prior).fit(X[train], y[train]).score_samples(X[test])
        )
    if not isinstance(estimator, GaussianMixture):  # extrapolated from four fifths of the samples to all
        log_prob = 8 / 9 * log_prob + 1 / 9 * plain.score_samples(X)
    assert model.reject_threshold_ == pytest.approx(np.quantile(log_prob, 0.1), rel=1e-9)
    np.testing.assert_array_equal(model.predict(X) == -1, model.score_samples(X) < model.reject_threshold_)
    np.testing.assert_array_equal(model.score_samples(X), plain.score_samples(X))
    assert not hasattr(plain, "reject_threshold_")


def test_reject_fraction_of_new_samples(rng):
    """A quantile of the training scores would reject three times as many."""
    rejected = []
    for _ in range(10):
        X, y = rng.standard_normal((1200, 20)) + np.repeat([0, 3], 600)[:, None], np.repeat([0, 1], 600)
        train = np.arange(1200) % 10 == 0  # 60 of each class
        model = GenerativeClassifier(PCAReducer(5), reject_fraction=0.1).fit(X[train], y[train])
        rejected.append(np.mean(model.predict(X[~train]) == -1))
    # 0.03: 120 training samples tell a quantile to 0.027, which ten repetitions divide by 3, and the bias of the folds.
    assert np.mean(rejected) == pytest.approx(0.1, abs=0.03)


def test_reject_fraction_in_many_dimensions(rng):
    """The out-of-fold scores of so few samples are far below those of a density of all, and would reject 0.055."""
    rejected = []
    for _ in range(10):
        X, y = rng.standard_normal((4120, 30)), np.arange(4120) % 2
        X[:, 0] += 6 * y
        model = GenerativeClassifier(PCAReducer(10), reject_fraction=0.1).fit(X[:120], y[:120])
        rejected.append(np.mean(model.predict(X[120:]) == -1))
    assert np.mean(rejected) > 0.07


def test_a_threshold_does_not_outlive_its_parameter(blobs):
    model = GenerativeClassifier(PCAReducer(1), reject_fraction=0.1).fit(*blobs)
    assert hasattr(model, "reject_threshold_")
    assert not hasattr(model.set_params(reject_fraction=None).fit(*blobs), "reject_threshold_")
    with pytest.raises(NotFittedError):
        model.set_params(reject_fraction=0.1).predict(blobs[0])


def test_class_prior_is_normalized(blobs):
    model = GenerativeClassifier(PCAReducer(1), class_prior=[0.33333] * 3).fit(*blobs)
    assert model.class_prior_.sum() == pytest.approx(1, abs=1e-15)


def test_a_density_that_is_frozen(blobs):
    X, y = blobs
    frozen = FrozenEstimator(PCAReducer(1).fit(X))
    model = GenerativeClassifier(frozen, reject_fraction=0.1).fit(X, y)
    np.testing.assert_allclose(model.predict_proba(X), np.broadcast_to(model.class_prior_, (len(X), 3)), rtol=1e-9)


def test_reject_fraction_trains_each_model_once_in_a_search(blobs):
    fits = GenerativeClassifier(PCAReducer(1), reject_fraction=0.1).fits_within(*blobs)
    n_classes = len(np.unique(blobs[1]))
    assert len(fits) == 6 * n_classes
    assert sum(len(X) for _, X in fits) == 5 * len(blobs[0])


@pytest.mark.parametrize("value", [0, 1, -0.1, 1.5, np.nan, "auto"], ids=repr)
def test_bad_reject_fraction(value, blobs):
    with pytest.raises(ValueError, match="The 'reject_fraction' parameter of GenerativeClassifier must be a float in"):
        GenerativeClassifier(PCAReducer(2), reject_fraction=value).fit(*blobs)


def test_reject_fraction_beside_reject_threshold(blobs):
    model = GenerativeClassifier(PCAReducer(2), reject_fraction=0.1, reject_threshold=-20)
    with pytest.raises(ValueError, match=r"reject_fraction=0.1 cannot be combined with reject_threshold=-20. Set one"):
        model.fit(*blobs)
    assert not hasattr(model, "classes_")


def test_reject_fraction_with_a_class_too_small_to_split(blobs):
    X, y = blobs
    y = np.where(np.arange(len(y)) < 4, 9, y)
    model = GenerativeClassifier(PCAReducer(1), reject_fraction=0.1)
    with pytest.raises(
        ValueError, match=r"reject_fraction needs at least 5 samples of each class.*n_samples=4 of class 9"
    ):
        model.fit(X, y)
    assert not hasattr(model, "classes_")


def test_reject_fraction_of_densities_that_are_zero_without_a_fold(blobs):
    model = GenerativeClassifier(KernelDensity(kernel="tophat", bandwidth=0.01), reject_fraction=0.1)
    with pytest.raises(ValueError, match=r"reject_fraction=0.1 gives no finite threshold: the density of \d+ of 120"):
        model.fit(*blobs)


@pytest.mark.parametrize("steps", [[], [StandardScaler()]])
def test_missing_values_leave_bayes_rule_for_the_observed_ones(blobs, steps):
    X, y = blobs
    classifier = GenerativeClassifier(make_pipeline(*steps, PCAReducer())).fit(X, y)
    X_new = X.copy()
    X_new[::2, 0] = X_new[::3, 2] = np.nan
    densities = [(X[y == c].mean(axis=0), np.cov(X[y == c].T)) for c in range(3)]
    seen = [np.flatnonzero(~np.isnan(x)) for x in X_new]
    log_prob = [
        [multivariate_normal(m[k], C[np.ix_(k, k)]).logpdf(x[k]) for m, C in densities]
        for x, k in zip(X_new, seen, strict=True)
    ]
    joint = np.array(log_prob) + np.log(np.bincount(y) / len(y))
    np.testing.assert_allclose(classifier.predict_log_proba(X_new), log_softmax(joint, axis=1), atol=1e-8)
    np.testing.assert_allclose(classifier.score_samples(X_new), logsumexp(joint, axis=1), atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [PCAReducer(2), make_pipeline(StandardScaler(), VAETransformer(1, max_epochs=2))])
def test_densities_are_fitted_to_the_observed_values(blobs, rng, estimator):
    X, y = blobs
    X = np.where(rng.random(X.shape) < 0.2, np.nan, X)
    estimator = clone(estimator)
    estimator.set_params(**{name: 0 for name in estimator.get_params() if name.endswith("random_state")})
    classifier = GenerativeClassifier(estimator, reject_fraction=0.1).fit(X, y)
    of_one_class = clone(estimator).fit(X[y == 1])
    # Networks of all classes and folds are trained together, which rounds differently.
    expected = of_one_class.score_samples(X)
    np.testing.assert_allclose(classifier.estimators_[1].score_samples(X), expected, rtol=1e-5)
    np.testing.assert_array_equal(
        np.isnan(GenerativeClassifier(PCAReducer(2)).fit(X, y).score_features(X)), np.isnan(X)
    )
    assert np.mean(classifier.predict(X) == classifier.reject_label_) < 0.3


@pytest.mark.parametrize("estimator", [GaussianMixture(), make_pipeline(StandardScaler(), GaussianMixture())])
def test_densities_that_take_no_missing_values_refuse_them(blobs, estimator):
    X, y = blobs
    X[3, 1] = np.nan
    with pytest.raises(ValueError, match="contains NaN"):
        GenerativeClassifier(estimator).fit(X, y)
    assert not get_tags(GenerativeClassifier(GaussianMixture())).input_tags.allow_nan
    assert get_tags(GenerativeClassifier(PCAReducer())).input_tags.allow_nan
