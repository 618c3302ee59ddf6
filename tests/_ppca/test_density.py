import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV

from sklatent import PCAReducer
from sklatent._ppca.density import NestedScores
from sklatent.model_selection import FusedGridSearchCV


@pytest.mark.parametrize("n_features", [1, 5, 30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_score_is_that_of_each_fit(n_features, dtype, rng):
    X = (rng.standard_normal((20, n_features)) * np.arange(1, n_features + 1) + 3).astype(dtype)
    rows = X[:7] + dtype(0.5)
    rank = min(X.shape)
    scores = NestedScores(PCAReducer(rank).fit(X)._learn(X).spectrum, rows)
    for nz in range(1, rank):
        # The rounding of float32 shows where the last variances are small beside the first.
        rtol = 1e-10 if dtype == np.float64 else 1e-5
        assert scores.score(nz) == pytest.approx(PCAReducer(nz).fit(X).score(rows), rel=rtol)


def test_constant_columns_have_the_floor_of_a_fit(digits):
    """Some pixels are blank: the last variances are zero."""
    X = digits[0][:400]
    scores = NestedScores(PCAReducer().fit(X)._learn(X).spectrum, X)
    for nz in (50, 60, 64):
        assert scores.score(nz) == pytest.approx(PCAReducer(nz).fit(X).score(X), rel=1e-6)


@pytest.mark.parametrize("params", [{}, {"scoring": lambda model, X, y=None: model.score(X)}, {"verbose": 2}])
def test_search_gives_the_same_with_and_without_nested_scores(params, digits):
    X = digits[0][:300]
    grid = {"nz": [1, 2, 7, 20], "whiten": [False, True]}
    ours = FusedGridSearchCV(PCAReducer(), grid, cv=3, return_train_score=True, **params).fit(X)
    theirs = GridSearchCV(PCAReducer(), grid, cv=3, return_train_score=True, **params).fit(X)
    assert set(ours.cv_results_["route"]) == {"shared_svd"}
    assert ours.best_params_ == theirs.best_params_
    for key in ("mean_test_score", "mean_train_score", "std_test_score"):
        np.testing.assert_allclose(ours.cv_results_[key], theirs.cv_results_[key], rtol=1e-8)


def test_missing_values_are_fitted_one_by_one(digits):
    X = digits[0][:60, 2:6].copy()
    X[0, 0] = np.nan
    ours = FusedGridSearchCV(PCAReducer(), {"nz": [1, 2]}, cv=3).fit(X)
    theirs = GridSearchCV(PCAReducer(), {"nz": [1, 2]}, cv=3).fit(X)
    np.testing.assert_allclose(ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"], rtol=1e-8)
    assert set(ours.cv_results_["route"]) == {"individual+shared_svd"}  # the value is missing in two of three folds


def score_once_changed(model, X, y=None):
    """Of a model that a scorer changes in place, after it was scored as it was."""
    before = model.score(X)
    model.mean_ += 1.0
    return before - model.score(X)


def score_in_place(model, X, y=None):
    """Changes the samples that it has scored."""
    before = model.score(X)
    X *= 2
    return before - model.score(X)


@pytest.mark.parametrize("scoring", [score_once_changed, score_in_place])
def test_shared_scores_are_those_of_the_model_and_the_samples_at_hand(scoring, digits):
    X = digits[0][:200]
    ours, theirs = (
        kind(PCAReducer(), {"nz": [1, 2, 7]}, cv=3, scoring=scoring, refit=False).fit(X).cv_results_["mean_test_score"]
        for kind in (FusedGridSearchCV, GridSearchCV)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-8)


def test_a_refit_has_its_own_scores(digits):
    def scoring(model, X, y=None):
        return model.score(X) - model.fit(X[::2]).score(X)

    X = digits[0][:200]
    ours, theirs = (
        kind(PCAReducer(), {"nz": [1, 2, 7]}, cv=3, scoring=scoring, refit=False).fit(X).cv_results_["mean_test_score"]
        for kind in (FusedGridSearchCV, GridSearchCV)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-8)
