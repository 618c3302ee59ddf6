import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from sklatent import PCAReducer

ATTRIBUTES = [
    "components_",
    "explained_variance_",
    "explained_variance_ratio_",
    "singular_values_",
    "mean_",
    "n_components_",
    "noise_variance_",
    "n_samples_",
    "n_features_in_",
]


@pytest.fixture
def X(rng):
    """Well-conditioned rows, off the origin."""
    return rng.standard_normal((200, 6)) @ (rng.standard_normal((6, 6)) + 3 * np.diag(np.arange(1, 7))) + 5


@pytest.mark.parametrize("nz", [None, 1, 3, 6, 0.5, 0.99, "mle"])
@pytest.mark.parametrize("solver", ["auto", "covariance", "full"])
@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-10), (np.float32, 2e-5)])
def test_agrees_with_scikit_learn(X, nz, solver, whiten, dtype, rtol):
    X = X.astype(dtype)
    ours = PCAReducer(nz, solver=solver, whiten=whiten).fit(X)
    # Against float64, since scikit-learn's own float32 result carries the rounding.
    reference = PCA(nz, svd_solver="full", whiten=whiten).fit(X.astype(np.float64))
    for name in ATTRIBUTES:
        np.testing.assert_allclose(getattr(ours, name), getattr(reference, name), rtol=rtol, atol=rtol, err_msg=name)
    # The density does not depend on how codes are scaled; scikit-learn's does, and is not that of X, with whiten=True.
    density = PCA(nz, svd_solver="full").fit(X.astype(np.float64))
    np.testing.assert_allclose(ours.get_covariance(), density.get_covariance(), rtol=rtol, atol=10 * rtol)
    np.testing.assert_allclose(ours.get_precision(), density.get_precision(), rtol=10 * rtol, atol=10 * rtol)
    np.testing.assert_allclose(ours.score_samples(X), density.score_samples(X), rtol=10 * rtol)
    Z = ours.transform(X)
    np.testing.assert_allclose(Z, reference.transform(X), rtol=rtol, atol=20 * rtol)
    np.testing.assert_allclose(ours.inverse_transform(Z), reference.inverse_transform(Z), rtol=rtol, atol=10 * rtol)
    assert ours.components_.dtype == Z.dtype == ours.inverse_transform(Z).dtype == dtype


@pytest.mark.parametrize("solver", ["covariance", "full"])
def test_agrees_with_scikit_learn_on_more_columns_than_rows(rng, solver):
    X = rng.standard_normal((10, 30))
    ours, reference = PCAReducer(4, solver=solver).fit(X), PCA(4, svd_solver="full").fit(X)
    for name in ATTRIBUTES:
        np.testing.assert_allclose(getattr(ours, name), getattr(reference, name), rtol=1e-9, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(ours.score_samples(X), reference.score_samples(X), rtol=1e-9)


@pytest.mark.parametrize("nz", [1, 3, 6])
def test_score_is_the_density_of_the_model(X, nz):
    pca = PCAReducer(nz).fit(X)
    density = multivariate_normal(pca.mean_, pca.get_covariance())
    np.testing.assert_allclose(pca.score_samples(X), density.logpdf(X), rtol=1e-10)


@pytest.mark.parametrize("nz", [1, 3])
def test_score_on_training_rows_is_the_closed_form(X, nz):
    """Tipping & Bishop (1999), eq. 5 and 8, with the covariance's divisor n - 1."""
    n, d = X.shape
    variances = np.linalg.eigvalsh(np.cov(X, rowvar=False))[::-1]
    noise = variances[nz:].mean()
    log_det = np.log(variances[:nz]).sum() + (d - nz) * np.log(noise)
    expected = -0.5 * (d * np.log(2 * np.pi) + log_det + d * (n - 1) / n)
    assert PCAReducer(nz).fit(X).score(X) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("a", [1e-150, 1e-3, 1e5, 1e150])
def test_score_moves_with_units_by_the_jacobian(X, a):
    before = PCAReducer(2).fit(X).score_samples(X)
    after = PCAReducer(2).fit(X * a).score_samples(X * a)
    np.testing.assert_allclose(after, before - X.shape[1] * np.log(a), rtol=1e-10)


@pytest.mark.parametrize(
    ("rows", "nz"),
    [
        (np.zeros((5, 3)), 2),
        (np.full((5, 3), 7.0), 2),
        (np.array([[1.0, 2.0, 3.0]]), 1),
        (np.arange(12.0).reshape(4, 3), None),  # rank 1
        (np.column_stack([np.arange(9.0), np.zeros(9)]), 1),
    ],
    ids=["zero", "constant", "one row", "rank deficient", "zero noise"],
)
@pytest.mark.parametrize("solver", ["auto", "covariance", "full"])
@pytest.mark.parametrize("whiten", [False, True])
def test_degenerate_data_have_a_finite_score(rows, nz, solver, whiten):
    pca = PCAReducer(nz, solver=solver, whiten=whiten).fit(rows)
    assert np.isfinite(pca.score_samples(rows)).all()
    assert np.isfinite(pca.score_samples(rows + 1)).all()
    assert np.isfinite(pca.get_precision()).all()
    assert pca.noise_variance_ >= 0
    np.testing.assert_allclose(pca.inverse_transform(pca.transform(rows)), rows, atol=1e-6)


def test_a_row_off_the_manifold_scores_below_one_on_it(X):
    pca = PCAReducer(2).fit(X)
    on, off = pca.mean_ + pca.components_[0], pca.mean_ + PCAReducer(6).fit(X).components_[5]
    assert pca.score_samples([on]) > pca.score_samples([off])


@pytest.mark.parametrize("mean", [False, True])
def test_sample_has_the_moments_of_the_model(X, mean):
    pca = PCAReducer(2).fit(X)
    n = 100_000
    rows = pca.sample(n, mean=mean, random_state=0)
    covariance = pca.get_covariance() - mean * pca.noise_variance_ * np.eye(6)
    deviation = np.sqrt(np.diag(covariance))
    np.testing.assert_array_less(np.abs(rows.mean(axis=0) - pca.mean_), 5 * deviation / np.sqrt(n))
    # Standard error of a covariance of normal variables, Anderson (2003), theorem 3.4.4.
    error = np.sqrt((np.outer(deviation**2, deviation**2) + covariance**2) / n)
    np.testing.assert_array_less(np.abs(np.cov(rows, rowvar=False) - covariance), 5 * error)


def test_whitened_codes_have_unit_variance(X):
    np.testing.assert_allclose(PCAReducer(3, whiten=True).fit_transform(X).std(axis=0, ddof=1), 1, rtol=1e-10)


def test_score_samples_is_cut_into_chunks_without_a_trace(X, monkeypatch):
    pca = PCAReducer(2).fit(X)
    whole = pca.score_samples(X)
    monkeypatch.setattr(PCAReducer, "_CHUNK_SIZE", 1)
    np.testing.assert_allclose(pca.score_samples(X), whole, rtol=1e-12)


@pytest.mark.parametrize("method", ["get_covariance", "get_precision", "sample"])
def test_unfitted(method):
    with pytest.raises(Exception, match="This PCAReducer instance is not fitted yet"):
        getattr(PCAReducer(), method)()


def test_grid_search_scores_it_as_scikit_learns(digits):
    """The main job's search: `PCA(8)` and `PCAReducer(8)` before a classifier, the same score to the last fold."""
    X, y = digits
    pipeline = Pipeline([("reduce", None), ("classify", LogisticRegression(max_iter=5000))])
    search = GridSearchCV(pipeline, {"reduce": [PCA(8), PCAReducer(8)]}, cv=3).fit(X, y)
    for fold in range(3):
        scikit_learn, ours = search.cv_results_[f"split{fold}_test_score"]
        assert scikit_learn == ours
