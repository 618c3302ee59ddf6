"""Imputation in scikit-learn's conventions."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.frozen import FrozenEstimator
from sklearn.impute import IterativeImputer, SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import estimator_checks_generator

from sklatent import LatentImputer, PCAReducer, VAETransformer

NEVER_YIELDED = [
    "check_dataframe_column_names_consistency",
    "check_global_output_transform_pandas",
    "check_param_validation",
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_set_output_transform_polars",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
]


@pytest.fixture
def complete():
    return load_iris().data


@pytest.fixture
def X(complete, rng):
    return np.where(rng.random(complete.shape) < 0.3, np.nan, complete)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # what a check does with warnings is its own affair
@pytest.mark.parametrize(
    "check",
    [check for _, check in estimator_checks_generator(LatentImputer(), mark=None)],
    ids=lambda c: c.func.__name__,
)
def test_check_estimator(check):
    check(LatentImputer())


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("check", NEVER_YIELDED)
def test_check_never_yielded(check):
    getattr(estimator_checks, check)("LatentImputer", LatentImputer())


def test_imputations_are_those_of_the_model_in_the_units_of_x(X):
    imputer = LatentImputer(make_pipeline(StandardScaler(), PCAReducer(2))).fit(X)
    scaler = StandardScaler().fit(X)
    pca = PCAReducer(2).fit(scaler.transform(X))
    expected = scaler.inverse_transform(pca.impute(scaler.transform(X)))
    np.testing.assert_allclose(imputer.transform(X), expected, rtol=1e-12)
    seen = ~np.isnan(X)
    np.testing.assert_array_equal(imputer.transform(X)[seen], X[seen])


def test_a_model_without_a_pipeline(X):
    filled = PCAReducer(2).fit(X).impute(X)
    np.testing.assert_allclose(LatentImputer(PCAReducer(2)).fit_transform(X), filled, rtol=1e-12)


def test_the_default_is_better_than_means_in_any_units(X, complete):
    units = np.array([1.0, 1e-3, 1e4, 1.0])
    filled = LatentImputer().fit_transform(X * units) / units
    np.testing.assert_allclose(filled, LatentImputer().fit_transform(X), rtol=1e-6)
    missing = np.isnan(X)
    means = SimpleImputer().fit_transform(X)
    assert ((filled - complete)[missing] ** 2).mean() < 0.4 * ((means - complete)[missing] ** 2).mean()


def test_the_default_finds_the_number_of_factors(rng):
    loadings = rng.standard_normal((12, 4))
    loadings /= np.linalg.norm(loadings, axis=1, keepdims=True)  # so that the noise stays the same for all features
    X = rng.standard_normal((300, 4)) @ loadings.T + 0.3 * rng.standard_normal((300, 12))
    X[rng.random(X.shape) < 0.2] = np.nan
    assert LatentImputer().fit(X).estimator_[-1].n_components_ == 4


@pytest.mark.filterwarnings("ignore:Skipping features")  # of scikit-learn's imputer
@pytest.mark.parametrize("keep", [True, False])
def test_a_feature_without_any_observed_value(X, keep):
    X = np.insert(X, 1, np.nan, axis=1)
    frame = pd.DataFrame(X, columns=list("abcde"))
    imputer = LatentImputer(keep_empty_features=keep).set_output(transform="pandas").fit(frame)
    filled = imputer.transform(frame)
    assert list(filled.columns) == (list("abcde") if keep else list("acde"))
    assert not filled.isna().any(axis=None)
    reference = SimpleImputer(keep_empty_features=keep).fit(frame)
    np.testing.assert_array_equal(filled.columns, reference.get_feature_names_out())
    if keep:
        assert (filled["b"] == 0).all()


@pytest.mark.filterwarnings("ignore:Skipping features")  # of scikit-learn's imputer
@pytest.mark.parametrize("keep", [True, False])
def test_indicator_is_that_of_scikit_learn(X, keep):
    X[:, 2] = np.nan
    X[:, 3] = 1.0
    frame = pd.DataFrame(X, columns=list("abcd"))
    ours, theirs = (
        imputer(add_indicator=True, keep_empty_features=keep).fit(frame) for imputer in (LatentImputer, SimpleImputer)
    )
    np.testing.assert_array_equal(ours.get_feature_names_out(), theirs.get_feature_names_out())
    n_indicators = len(ours.indicator_.features_)
    np.testing.assert_array_equal(ours.transform(frame)[:, -n_indicators:], theirs.transform(frame)[:, -n_indicators:])


def test_multiple_imputations_differ_and_are_reproducible(X):
    one, same, other = (
        LatentImputer(PCAReducer(2), sample_posterior=True, random_state=seed).fit_transform(X) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other)[np.isnan(X)].all()


@pytest.mark.slow
def test_within_a_pipeline_and_a_cross_validation(X):
    y = load_iris().target
    scores = cross_val_score(make_pipeline(LatentImputer(), LogisticRegression(max_iter=1000)), X, y)
    means = cross_val_score(make_pipeline(SimpleImputer(), LogisticRegression(max_iter=1000)), X, y)
    assert scores.mean() > means.mean()


def test_a_network_imputes(X):
    model = make_pipeline(StandardScaler(), VAETransformer(1, max_epochs=3, random_state=0))
    assert np.isfinite(LatentImputer(model).fit_transform(X.astype(np.float32))).all()
    assert LatentImputer(model).fit_transform(X.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("estimator", [LogisticRegression(), make_pipeline(StandardScaler(), LogisticRegression())])
def test_an_estimator_that_cannot_impute(X, estimator):
    imputer = LatentImputer(estimator)
    with pytest.raises(ValueError, match=r"'estimator' parameter of LatentImputer must have the method 'impute'"):
        imputer.fit(X)
    assert vars(imputer) == vars(clone(imputer)) | {"estimator": estimator}


def test_nothing_observed_at_all():
    with pytest.raises(ValueError, match="Input X contains no observed value in any column"):
        LatentImputer().fit(np.full((3, 2), np.nan))


def test_infinity_is_refused(X):
    X[0, 0] = np.inf
    with pytest.raises(ValueError, match="Input X contains infinity"):
        LatentImputer().fit(X)


def test_steps_without_an_inverse_are_refused_in_fit(rng):
    X = rng.standard_normal((20, 3))
    scaled = ColumnTransformer([("scaled", StandardScaler(), [0, 1, 2])])
    imputer = LatentImputer(make_pipeline(scaled, PCAReducer(1)))
    with pytest.raises(ValueError, match=r"whose other steps have 'inverse_transform'\. Got Pipeline"):
        imputer.fit(X)
    assert not hasattr(imputer, "estimator_")


def test_a_feature_never_observed_keeps_the_values_of_other_samples():
    X = np.c_[np.arange(9.0), np.full(9, np.nan), np.arange(9.0) ** 2]
    new = [[1, 7, 2], [np.nan, np.nan, 4]]
    ours, theirs = (
        imputer(keep_empty_features=True).fit(X).transform(new) for imputer in (LatentImputer, IterativeImputer)
    )
    np.testing.assert_array_equal(ours[:, 1], theirs[:, 1])
    np.testing.assert_array_equal(ours[0], new[0])


def test_a_model_that_is_frozen(rng):
    X = rng.standard_normal((60, 4))
    X[rng.random(X.shape) < 0.2] = np.nan
    pca = PCAReducer(2).fit(X)
    np.testing.assert_array_equal(LatentImputer(FrozenEstimator(pca)).fit_transform(X), pca.impute(X))
