"""Log-Jacobians against numerical differences, known densities and the total mass of one."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.integrate import trapezoid
from scipy.stats import multivariate_normal
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)

from sklatent import AutoencoderTransformer, PCAReducer, VAETransformer
from sklatent._jacobians import log_jacobian
from sklatent.metrics import log_likelihood_samples, log_likelihood_scorer, register_log_jacobian
from sklatent.model_selection import FusedGridSearchCV


def positive(n_features=3, n_samples=200, seed=0):
    """Correlated samples with a skewed distribution of positive values."""
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal((n_samples, n_features)) @ rng.standard_normal((n_features, n_features))
    return np.exp(0.5 * normal) * np.arange(1, n_features + 1)


def signed(n_features=3, n_samples=200, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_t(5, size=(n_samples, n_features)) @ rng.standard_normal((n_features, n_features)) + 1


def numerical(transformer, X, step=1e-6):
    """Log-determinant of central differences, for each sample."""
    n, d = X.shape
    steps = step * np.abs(X).max(axis=0) * np.eye(d)
    ends = [transformer.transform(np.concatenate([X + side * row for row in steps])) for side in (1, -1)]
    difference = (np.asarray(ends[0]) - np.asarray(ends[1])).reshape(d, n, -1) / (2 * np.diag(steps))[:, None, None]
    return np.linalg.slogdet(difference.transpose(1, 0, 2))[1]


TRANSFORMERS = {
    "standard": (StandardScaler(), signed),
    "standard without mean": (StandardScaler(with_mean=False), signed),
    "standard without std": (StandardScaler(with_std=False), signed),
    "minmax": (MinMaxScaler((-2, 3)), signed),
    "minmax clip": (MinMaxScaler(clip=True), signed),
    "maxabs": (MaxAbsScaler(), signed),
    "robust": (RobustScaler(), signed),
    "robust without scaling": (RobustScaler(with_scaling=False), signed),
    "yeo-johnson": (PowerTransformer(), signed),
    "yeo-johnson of positive": (PowerTransformer(standardize=False), positive),
    "box-cox": (PowerTransformer("box-cox"), positive),
    "box-cox raw": (PowerTransformer("box-cox", standardize=False), positive),
    "uniform": (QuantileTransformer(n_quantiles=10), signed),
    "normal": (QuantileTransformer(n_quantiles=10, output_distribution="normal"), signed),
    "log": (FunctionTransformer(np.log), positive),
    "log1p": (FunctionTransformer(np.log1p), positive),
    "sqrt": (FunctionTransformer(np.sqrt), positive),
    "exp": (FunctionTransformer(np.exp), signed),
    "expm1": (FunctionTransformer(np.expm1), signed),
    "square": (FunctionTransformer(np.square), positive),
    "identity": (FunctionTransformer(), signed),
    "pca": (PCA(), signed),
    "pca whitened": (PCA(whiten=True), signed),
    "PCAReducer": (PCAReducer(), signed),
    "PCAReducer whitened": (PCAReducer(whiten=True), signed),
    "pipeline": (
        make_pipeline(MinMaxScaler(), "passthrough", make_pipeline(FunctionTransformer(np.exp), PCA())),
        signed,
    ),
    "columns": (
        ColumnTransformer(
            [
                ("a", make_pipeline(FunctionTransformer(np.log), StandardScaler()), [2]),
                ("b", "passthrough", slice(0, 1)),
            ],
            remainder=PowerTransformer(),
            transformer_weights={"a": -3.0},
        ),
        positive,
    ),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_log_jacobian_is_that_of_numerical_differences(name):
    transformer, samples = TRANSFORMERS[name]
    transformer = clone(transformer).fit(samples())
    X = np.sort(samples(), axis=0)[20:-20:7]  # within the range, and off the quantiles
    X = X + 1e-4 * np.abs(X)
    assert log_jacobian(transformer, X) == pytest.approx(numerical(transformer, X), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("lam", [-2.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.5])
@pytest.mark.parametrize("method", ["yeo-johnson", "box-cox"])
def test_every_branch_of_a_power_transform(method, lam):
    X = positive()[:50] + 0.5 if method == "box-cox" else np.array([[-3.0, -1.0, -0.01], [0.01, 0.5, 4.0]])
    transformer = PowerTransformer(method, standardize=False).fit(X)
    transformer.lambdas_ = np.full(3, lam)
    assert log_jacobian(transformer, X) == pytest.approx(numerical(transformer, X), abs=1e-6)
    at_zero = PowerTransformer(standardize=False).fit(X)
    at_zero.lambdas_ = np.full(3, lam)
    assert log_jacobian(at_zero, np.zeros((1, 3))) == pytest.approx([0.0], abs=1e-15)


AFFINE = [StandardScaler(), MinMaxScaler((1, 7)), MaxAbsScaler(), RobustScaler(), PCA(), PCA(whiten=True), PCAReducer()]


@pytest.mark.parametrize("seed", range(20))
def test_any_chain_of_affine_steps_leaves_the_normal_density(seed):
    """A normal density fitted in whatever units is the one fitted in those of X."""
    rng = np.random.default_rng(seed)
    chosen = [clone(AFFINE[k]) for k in rng.integers(len(AFFINE), size=rng.integers(1, 6))]
    columns = ColumnTransformer([("all", MinMaxScaler(), [1, 3])], remainder="passthrough")
    chain = make_pipeline(*chosen, make_pipeline(columns, "passthrough"), PCAReducer(whiten=True))
    mixing = np.eye(4) + 0.3 * rng.standard_normal((4, 4))
    X = rng.standard_normal((100, 4)) @ mixing * 10.0 ** rng.integers(-1, 2, size=4) + 5
    expected = multivariate_normal(X.mean(axis=0), np.cov(X, rowvar=False)).logpdf(X)
    assert log_likelihood_samples(chain.fit(X), X) == pytest.approx(expected, rel=1e-10, abs=1e-10)


MODELS = [PCAReducer(1), GaussianMixture(2, random_state=0), KernelDensity(bandwidth=0.3)]
# The tails of a density that the steps cut off, or that lies outside of what they reach, are what is missing from one.
SMOOTH = [
    StandardScaler(),
    PowerTransformer(),
    make_pipeline(FunctionTransformer(np.log), RobustScaler()),
    make_pipeline(FunctionTransformer(np.log), PCA(whiten=True)),
]


def mass(model, *grids):
    points = np.stack(np.meshgrid(*grids, indexing="ij"), axis=-1).reshape(-1, len(grids))
    values = np.exp(log_likelihood_samples(model, points)).reshape([len(grid) for grid in grids])
    for grid in reversed(grids):
        values = trapezoid(values, grid)
    return values


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
@pytest.mark.parametrize("step", SMOOTH, ids=str)
def test_total_mass_is_one_in_one_dimension(step, model):
    X = 2 + np.random.default_rng(0).standard_normal((300, 1)) * 0.4
    pipeline = make_pipeline(clone(step), clone(model)).fit(X)
    # The error of the trapezoidal rule, and what the density of log(x) puts beyond the grid.
    assert mass(pipeline, np.linspace(1e-3, 20, 40_001)) == pytest.approx(1, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("model", [PCAReducer(1), GaussianMixture(2, random_state=0)], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("step", SMOOTH, ids=str)
def test_total_mass_is_one_in_two_dimensions(step, model):
    rng = np.random.default_rng(0)
    X = 2 + 0.3 * rng.standard_normal((300, 2)) @ [[1.0, 0.6], [0.0, 0.5]]
    pipeline = make_pipeline(clone(step), clone(model)).fit(X)
    grid = np.linspace(0.05, 8, 1201)
    assert mass(pipeline, grid, grid) == pytest.approx(1, abs=1e-4)  # as above


@pytest.mark.parametrize("output", ["uniform", "normal"])
def test_mass_behind_quantiles_is_what_the_model_has_in_their_range(output):
    X = signed(1, 300)
    quantiles = QuantileTransformer(n_quantiles=50, output_distribution=output)
    pipeline = make_pipeline(quantiles, GaussianMixture(1)).fit(X)
    model = pipeline[-1]
    ends = quantiles.fit(X).transform([[X.min()], [X.max()]])
    low, high = multivariate_normal(model.means_[0], model.covariances_[0]).cdf(ends)
    nodes = np.sort(quantiles.quantiles_[:, 0])
    grid = np.unique(np.concatenate([np.linspace(a + 1e-7, b - 1e-7, 400) for a, b in pairwise(nodes)]))
    # The density jumps at each quantile, and is infinitely steep near the ends of a normal output.
    assert mass(pipeline, grid) == pytest.approx(high - low, abs=1e-4)


def test_quantiles_outside_the_training_samples_have_no_density():
    X = signed()
    pipeline = make_pipeline(QuantileTransformer(n_quantiles=50), KernelDensity()).fit(X)
    new = np.stack([X.min(axis=0) - 1, X.mean(axis=0), X.max(axis=0), X.max(axis=0) + 1])
    found = log_likelihood_samples(pipeline, new)
    assert np.isneginf(found).tolist() == [True, False, False, True]
    assert found[1:3] == pytest.approx(log_likelihood_samples(pipeline, new[1:3]), rel=1e-12)
    assert log_likelihood_scorer(pipeline, new) == -np.inf


def test_a_single_quantile_maps_everything_to_one_value():
    pipeline = make_pipeline(QuantileTransformer(n_quantiles=1), PCAReducer(1)).fit(signed())
    assert np.isneginf(log_likelihood_samples(pipeline, signed())).all()


def test_quantiles_have_no_density_where_training_samples_agree():
    X = np.concatenate([np.zeros((50, 1)), signed(1, 100)])
    pipeline = make_pipeline(QuantileTransformer(n_quantiles=50), KernelDensity()).fit(X)
    assert np.isfinite(log_likelihood_samples(pipeline, [[0.01]])).all()
    message = (
        r"QuantileTransformer has no log-Jacobian at 1 of 2 samples, the first of which has index 1: it is not one"
    )
    with pytest.raises(ValueError, match=message):
        log_likelihood_samples(pipeline, [[0.01], [0.0]])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "inside", "outside"),
    [
        (FunctionTransformer(np.log), 0.1, [0.0, -1.0]),
        (FunctionTransformer(np.log1p), 0.0, [-1.0, -2.0]),
        (FunctionTransformer(np.sqrt), 0.1, [-0.1, -5.0]),
        (PowerTransformer("box-cox"), 0.1, [0.0, -1.0]),
        (MinMaxScaler(clip=True), 1.0, [-1.0, 99.0]),
        (FunctionTransformer(np.square), 0.1, [0.0]),
    ],
    ids=str,
)
@pytest.mark.parametrize("container", [np.asarray, pd.DataFrame, list])
def test_samples_outside_the_support_have_no_density_and_leave_the_others_alone(step, inside, outside, container):
    X = positive(2)
    X = container(X / X.max(axis=0) * 3)
    pipeline = make_pipeline(clone(step), StandardScaler(), GaussianMixture(1)).fit(X)
    new = np.array([[inside, 1.0]] + [[value, 1.0] for value in outside])
    found = log_likelihood_samples(pipeline, container(new))
    assert np.isneginf(found[1:]).all()
    assert found[0] == pytest.approx(log_likelihood_samples(pipeline, container(new[:1]))[0], rel=1e-12)
    assert np.isneginf(log_likelihood_samples(pipeline, container(new[1:]))).all()


@pytest.mark.parametrize(("function", "value"), [(np.sqrt, 0.0), (np.square, -1.0)])
def test_samples_without_a_finite_derivative_are_refused(function, value):
    pipeline = make_pipeline(FunctionTransformer(function), GaussianMixture(1)).fit(positive(2))
    with pytest.raises(ValueError, match="FunctionTransformer has no log-Jacobian at 1 of 2 samples"):
        log_likelihood_samples(pipeline, [[1.0, 1.0], [1.0, value]])


def test_missing_values_have_no_part_in_the_density():
    X = signed(4)
    pipeline = make_pipeline(StandardScaler(), PowerTransformer(), PCAReducer()).fit(X)
    pipeline[1].lambdas_[:] = 1.0  # affine, so that the marginal density is known
    pipeline[1]._scaler.scale_[:] = 3.0
    pipeline[1]._scaler.mean_[:] = 0.0
    pipeline[2].fit(pipeline[:2].transform(X))
    new = X[:1].copy()
    new[0, 2] = np.nan
    rest = [0, 1, 3]
    expected = multivariate_normal(X[:, rest].mean(axis=0), np.cov(X[:, rest], rowvar=False)).logpdf(X[0, rest])
    # The noise variance of samples with missing values has a floor of 1e-12 of the largest variance.
    assert log_likelihood_samples(pipeline, new)[0] == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize(
    "scaler", [MaxAbsScaler(), StandardScaler(with_mean=False), RobustScaler(with_centering=False)]
)
def test_sparse_samples_have_the_density_of_dense_ones(scaler):
    X = signed(4) * (signed(4, seed=1) > 0)
    pipeline = make_pipeline(scaler, PCAReducer(2)).fit(sparse.csr_array(X))
    expected = log_likelihood_samples(make_pipeline(clone(scaler), PCAReducer(2)).fit(X), X)
    assert log_likelihood_samples(pipeline, sparse.csr_array(X)) == pytest.approx(expected, rel=1e-9)


def test_columns_of_a_data_frame_are_taken_by_name():
    X = pd.DataFrame(positive(3), columns=["a", "b", "c"])
    parts = [("log", FunctionTransformer(np.log), ["c", "a"]), ("rest", StandardScaler(), ["b"])]
    pipeline = make_pipeline(ColumnTransformer(parts), GaussianMixture(1)).set_output(transform="pandas").fit(X)
    expected = log_likelihood_samples(pipeline, X)
    assert log_likelihood_samples(pipeline, X[["b", "c", "a"]]) == pytest.approx(expected, rel=1e-12)
    columns = ColumnTransformer([("log", FunctionTransformer(np.log), [0, 2])], remainder=StandardScaler())
    by_number = make_pipeline(columns, GaussianMixture(1)).fit(X.to_numpy())
    assert log_likelihood_samples(by_number, X.to_numpy()) == pytest.approx(expected, rel=1e-9)


def test_a_step_that_works_in_place_is_scored_once():
    X = signed()
    inner = make_pipeline(StandardScaler(copy=False), RobustScaler(copy=False))
    pipeline = make_pipeline(inner, MinMaxScaler(copy=False), GaussianMixture(1)).fit(X.copy())
    expected = multivariate_normal(X.mean(axis=0), np.cov(X, rowvar=False, bias=True)).logpdf(X)
    # GaussianMixture adds 1e-6 to the variances of features in [0, 1].
    assert log_likelihood_samples(pipeline, X.copy()) == pytest.approx(expected, abs=1e-2)


LOSING = [
    (PCA(2), "PCA loses information about the samples: it keeps 2 of 3 dimensions"),
    (PCAReducer(1), "PCAReducer loses information about the samples: it keeps 1 of 3 dimensions"),
    (SelectKBest(f_classif, k=2), "SelectKBest loses information about the samples, or is unknown"),
    (OneHotEncoder(handle_unknown="ignore"), "OneHotEncoder loses information about the samples, or is unknown"),
    (Normalizer(), "Normalizer loses information"),
    (FeatureUnion([("a", StandardScaler())]), "FeatureUnion loses information about the samples, or is unknown"),
    (ColumnTransformer([("a", StandardScaler(), [0, 1])]), r"its parts keep the columns \[0, 1\] of 3"),
    (ColumnTransformer([("a", "drop", [0])], remainder="passthrough"), r"keep the columns \[1, 2\] of 3"),
    (ColumnTransformer([("a", StandardScaler(), [0, 1]), ("b", "passthrough", [1, 2])]), r"columns \[0, 1, 1, 2\]"),
    (
        ColumnTransformer([("a", "passthrough", [0])], remainder="passthrough", transformer_weights={"a": 0}),
        r"columns \[1, 2\] of 3",
    ),
    (make_pipeline(StandardScaler(), PCA(2)), "PCA loses information"),
    (ColumnTransformer([("a", PCA(1), [0, 1])], remainder="passthrough"), "PCA loses information"),
    (FunctionTransformer(np.tanh), r"FunctionTransformer\(func=<ufunc 'tanh'>, kw_args=None\) is unknown"),
    (FunctionTransformer(lambda X: X), r"FunctionTransformer\(func=<function .* is unknown"),
    (FunctionTransformer(np.log, kw_args={"where": True}), r"kw_args={'where': True}\) is unknown"),
    (AutoencoderTransformer(2, max_epochs=1), "AutoencoderTransformer loses information about the samples, or is unkn"),
]


@pytest.mark.parametrize(("step", "message"), LOSING, ids=lambda value: type(value).__name__)
def test_a_step_that_loses_information_is_named(step, message):
    X = positive(n_samples=40)
    pipeline = Pipeline([("step", clone(step)), ("model", KernelDensity())])
    if isinstance(step, OneHotEncoder):
        pipeline.steps[1] = ("model", PCAReducer(2))
    pipeline.fit(X, np.arange(len(X)) % 2)
    with pytest.raises(ValueError, match=message) as caught:
        log_likelihood_samples(pipeline, X)
    assert "log-likelihoods in the units of X are not defined" in str(caught.value) or "register" in str(caught.value)


def test_missing_values_that_a_step_imputes_are_refused():
    X = signed()
    pipeline = make_pipeline(PCAReducer(), PCAReducer()).fit(X)
    X[0, 0] = np.nan
    with pytest.raises(ValueError, match="PCAReducer loses information about the samples: it imputes missing values"):
        log_likelihood_samples(pipeline, X)


@pytest.mark.parametrize("model", [LogisticRegression(), KMeans(2), "passthrough", StandardScaler()], ids=str)
def test_a_pipeline_has_to_end_with_a_density(model):
    X = signed()
    pipeline = make_pipeline(StandardScaler(), model).fit(X, np.arange(len(X)) % 2)
    with pytest.raises(TypeError, match=r"needs an estimator with score_samples, got \w+\. A Pipeline has to end"):
        log_likelihood_samples(pipeline, X)


@pytest.mark.parametrize(
    "model", [PCAReducer(2), VAETransformer(1, max_epochs=1), KernelDensity(), IsolationForest(n_estimators=5)]
)
def test_an_estimator_by_itself_scores_as_it_does(model):
    X = signed()
    model.fit(X)
    assert np.array_equal(log_likelihood_samples(model, X), model.score_samples(X))
    assert log_likelihood_scorer(model, X) == pytest.approx(model.score_samples(X).mean(), rel=1e-12)


def test_a_frozen_step_is_the_step():
    X = positive()
    scaler, model = StandardScaler().fit(X), make_pipeline(StandardScaler(), PCAReducer()).fit(X)
    frozen = make_pipeline(FrozenEstimator(scaler), FrozenEstimator(model[-1])).fit(X)
    np.testing.assert_array_equal(log_likelihood_samples(frozen, X), log_likelihood_samples(model, X))


def test_a_pipeline_at_the_end_of_a_pipeline_and_a_search_at_its_end():
    X = signed()
    inner = GridSearchCV(
        make_pipeline(StandardScaler(), KernelDensity()), {"kerneldensity__bandwidth": [0.3, 1.0]}, cv=2
    )
    pipeline = make_pipeline(MinMaxScaler(), "passthrough", make_pipeline(RobustScaler(), inner)).fit(X)
    flat = make_pipeline(MinMaxScaler(), RobustScaler(), clone(inner.estimator)).fit(X)
    expected = make_pipeline(*flat[:-1], *pipeline[-1][-1].best_estimator_)
    assert log_likelihood_samples(pipeline, X) == pytest.approx(log_likelihood_samples(expected, X), rel=1e-12)


@pytest.mark.parametrize(
    ("search", "n_jobs"),
    [(GridSearchCV, None), (FusedGridSearchCV, None), pytest.param(FusedGridSearchCV, 2, marks=pytest.mark.slow)],
)
def test_scorer_compares_pipelines_in_a_search(search, n_jobs):
    X = positive(3, 120)
    pipeline = Pipeline([("scale", "passthrough"), ("pca", PCAReducer(random_state=0))])
    scalers = ["passthrough", StandardScaler(), PowerTransformer()]
    grid = {"scale": scalers, "pca__nz": [1, 3]}
    found = search(pipeline, grid, scoring=log_likelihood_scorer, cv=3, n_jobs=n_jobs).fit(X)
    scores = found.cv_results_["mean_test_score"].reshape(2, 3)  # (nz, scalers)
    assert scores[1, 0] == pytest.approx(scores[1, 1], abs=1e-9)  # a full normal density is the same in any units
    assert scores[1, 2] > scores[1, 1] + 0.1
    assert found.best_params_["scale"].__class__ is PowerTransformer


def test_search_reports_a_candidate_that_loses_information():
    X = signed()
    pipeline = Pipeline([("reduce", PCA()), ("model", GaussianMixture(1))])
    search = GridSearchCV(pipeline, {"reduce__n_components": [2, 3]}, scoring=log_likelihood_scorer, cv=2)
    with pytest.warns(UserWarning, match="PCA loses information"), pytest.warns(UserWarning, match="non-finite"):
        search.fit(X)
    assert np.isnan(search.cv_results_["mean_test_score"]).tolist() == [True, False]


class Halving(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X):
        return X / 2


def test_register_log_jacobian_adds_a_transformer():
    X = signed()
    pipeline = make_pipeline(Halving(), GaussianMixture(1)).fit(X)
    with pytest.raises(ValueError, match="Halving loses information about the samples, or is unknown"):
        log_likelihood_samples(pipeline, X)
    try:
        register_log_jacobian(Halving, lambda transformer, X: -X.shape[1] * np.log(2))
        assert log_likelihood_samples(pipeline, X) == pytest.approx(pipeline.score_samples(X) - 3 * np.log(2))
        register_log_jacobian(Halving, lambda transformer, X: np.full(len(X), -X.shape[1] * np.log(2)))
        assert log_likelihood_samples(pipeline, X) == pytest.approx(pipeline.score_samples(X) - 3 * np.log(2))
        register_log_jacobian(Halving, lambda transformer, X: np.zeros(X.shape))
        with pytest.raises(ValueError, match=r"of Halving must be a number or of shape \(200,\), got shape \(200, 3\)"):
            log_likelihood_samples(pipeline, X)
    finally:
        from sklatent._jacobians import _LOG_JACOBIANS

        del _LOG_JACOBIANS[Halving]


class Renamed(StandardScaler):
    """Scales as its base class does."""


class Shifted(StandardScaler):
    def transform(self, X, copy=None):
        return super().transform(X, copy) ** 3


def test_a_subclass_with_a_transform_of_its_own_is_unknown():
    X = signed()
    assert np.array_equal(log_jacobian(Renamed().fit(X), X), log_jacobian(StandardScaler().fit(X), X))
    with pytest.raises(ValueError, match="Shifted loses information about the samples, or is unknown"):
        log_jacobian(Shifted().fit(X), X)


@pytest.mark.parametrize(
    ("transformer_type", "function", "message"),
    [
        (StandardScaler(), np.log, r"transformer_type must be a class with transform, got StandardScaler\(\)"),
        (dict, np.log, "transformer_type must be a class with transform, got <class 'dict'>"),
        ("StandardScaler", np.log, "must be a class with transform, got 'StandardScaler'"),
        (StandardScaler, 1.0, "function must be callable, got 1.0"),
    ],
)
def test_register_refuses_what_is_no_transformer(transformer_type, function, message):
    with pytest.raises(TypeError, match=message):
        register_log_jacobian(transformer_type, function)


@pytest.mark.parametrize("step", [StandardScaler(), PCA(), PowerTransformer(), FunctionTransformer(np.log)], ids=str)
def test_bad_samples_are_refused_in_scikit_learns_words(step):
    X = positive()
    pipeline = make_pipeline(clone(step), GaussianMixture(1))
    with pytest.raises(NotFittedError):
        log_likelihood_samples(pipeline, X)
    pipeline.fit(X)
    with pytest.raises(ValueError, match=r"X has 2 features, but .* is expecting 3 features"):
        log_likelihood_samples(pipeline, X[:, :2])
    with pytest.raises(ValueError, match="contains infinity"):
        log_likelihood_samples(pipeline, np.where(np.arange(3) == 1, np.inf, X))
    with pytest.raises(ValueError, match="Expected 2D array, got 1D array"):
        log_likelihood_samples(pipeline, X[0])
    with pytest.raises(ValueError, match="0 sample"):
        log_likelihood_samples(pipeline, X[:0])
    with pytest.raises(ValueError, match=r"could not convert string to float|contains NaN"):
        log_likelihood_samples(pipeline, [["a", "b", "c"]])


def test_single_precision_adds_no_error_of_its_own():
    X = signed(4).astype(np.float32)
    pipeline = make_pipeline(StandardScaler(), PCAReducer()).fit(X)
    expected = multivariate_normal(X.mean(axis=0), np.cov(X, rowvar=False)).logpdf(X)
    assert log_likelihood_samples(pipeline, X) == pytest.approx(expected, abs=1e-4)  # scaled in float32
