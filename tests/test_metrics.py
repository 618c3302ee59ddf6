import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import mean_squared_error
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from sklatent import PCAReducer
from sklatent.metrics import reconstruction_error, reconstruction_scorer


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.0, 1.0, 0.5]])
def test_error_is_the_mean_squared_error_times_the_features(rng, weights):
    X, Y = rng.standard_normal((2, 5, 3))
    expected = 3 * mean_squared_error(X, Y, sample_weight=weights)
    assert reconstruction_error(X, Y, sample_weight=weights) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("estimator", [PCA(2), PCAReducer(2)])
def test_pca_leaves_the_dropped_variance(rng, estimator):
    """Section 14.4: the loss is the sum of the dropped squared singular values."""
    X = rng.standard_normal((50, 6))
    dropped = np.linalg.svd(X - X.mean(axis=0), compute_uv=False)[2:] ** 2
    assert reconstruction_scorer(estimator.fit(X), X) == pytest.approx(-dropped.sum() / 50, rel=1e-12)


def test_scorer_takes_pipelines_and_grid_searches(digits):
    X, _ = digits
    search = GridSearchCV(make_pipeline(StandardScaler(), PCAReducer()), {"pcareducer__nz": [2, 10]}, cv=3)
    search.set_params(scoring=reconstruction_scorer).fit(X)
    assert search.best_params_ == {"pcareducer__nz": 10}
    Xr = search.best_estimator_.inverse_transform(search.best_estimator_.transform(X))
    assert reconstruction_scorer(search.best_estimator_, X) == pytest.approx(-((X - Xr) ** 2).sum(1).mean())


def test_what_has_no_inverse_is_refused(rng):
    X = rng.standard_normal((10, 3))
    model = make_pipeline(StandardScaler(), LinearSVC()).fit(X, np.arange(10) % 2)
    with pytest.raises(TypeError, match="needs an estimator with transform and inverse_transform, got Pipeline"):
        reconstruction_scorer(model, X)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"must have the same shape, got \(2, 3\) and \(2, 2\)"):
        reconstruction_error(np.ones((2, 3)), np.ones((2, 2)))


def test_missing_values_are_left_out_of_the_error(rng):
    X = rng.standard_normal((40, 3))
    X[rng.random(X.shape) < 0.3] = np.nan
    pca = PCAReducer(2).fit(X)
    reconstructed = pca.inverse_transform(pca.transform(X))
    squares = np.ma.masked_invalid(X - reconstructed) ** 2
    assert reconstruction_error(X, reconstructed) == pytest.approx(squares.sum() / 40, rel=1e-12)
    assert reconstruction_scorer(pca, X) == -reconstruction_error(X, reconstructed)
    with pytest.raises(ValueError, match="Input contains NaN"):
        reconstruction_error(reconstructed, X)
