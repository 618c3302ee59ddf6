import numpy as np
import pandas as pd
import pytest
import scipy
import torch
from scipy import sparse
from scipy.stats import multivariate_normal
from sklearn import config_context
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils.fixes import parse_version

from sklatent import PCAReducer
from sklatent.model_selection import FusedGridSearchCV

needs_dispatch = pytest.mark.skipif(
    parse_version(scipy.__version__) < parse_version("1.14"), reason="array_api_dispatch asks for SciPy 1.14"
)

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
@pytest.mark.parametrize("solver", ["auto", "covariance", "full", "randomized"])
@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-10), (np.float32, 5e-6)])
def test_agrees_with_scikit_learn(X, nz, solver, whiten, dtype, rtol):
    X = X.astype(dtype)
    ours = PCAReducer(nz, solver=solver, whiten=whiten).fit(X)
    # Against float64, since scikit-learn's own float32 result carries the rounding. In float32 the samples and their
    # products are rounded by 6e-8; a covariance or a code adds up several, of up to 30.
    reference = PCA(nz, svd_solver="full", whiten=whiten).fit(X.astype(np.float64))
    for name in ATTRIBUTES:
        np.testing.assert_allclose(getattr(ours, name), getattr(reference, name), rtol=rtol, atol=rtol, err_msg=name)
    # The density does not depend on how codes are scaled; scikit-learn's does, and is not that of X, with whiten=True.
    density = PCA(nz, svd_solver="full").fit(X.astype(np.float64))
    np.testing.assert_allclose(ours.get_covariance(), density.get_covariance(), rtol=rtol, atol=10 * rtol)
    np.testing.assert_allclose(ours.get_precision(), density.get_precision(), rtol=10 * rtol, atol=10 * rtol)
    np.testing.assert_allclose(ours.score_samples(X), density.score_samples(X), rtol=rtol)
    Z = ours.transform(X)
    np.testing.assert_allclose(Z, reference.transform(X), rtol=rtol, atol=20 * rtol)
    np.testing.assert_allclose(ours.inverse_transform(Z), reference.inverse_transform(Z), rtol=rtol, atol=10 * rtol)
    assert ours.components_.dtype == Z.dtype == ours.inverse_transform(Z).dtype == dtype


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 5e-6)])
@pytest.mark.parametrize(
    "rows", [load_iris().data, load_digits().data[:, 10:30] / 16, load_breast_cancer().data[:, :2]]
)
def test_agrees_with_scikit_learn_on_real_tables(rows, dtype, tolerance):
    """Relative to the largest entry of each; float32 rounds the samples and their products by 6e-8."""
    X = rows.astype(dtype)
    ours, reference = PCAReducer(2).fit(X), PCA(2, svd_solver="full").fit(X.astype(np.float64))
    pairs = [(getattr(ours, name), getattr(reference, name)) for name in ATTRIBUTES]
    pairs += [(ours.score_samples(X), reference.score_samples(X.astype(np.float64)))]
    for value, expected in pairs:
        np.testing.assert_allclose(value, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("solver", ["covariance", "full", "randomized"])
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


def low_noise_rows(rng):
    """Float32 rows, tall or wide, large enough to be multiplied in float32; and how many components they have."""
    d = rng.integers(3, 40)
    n, nz = int(2**14 / d * rng.uniform(1, 1.2)) + 1, rng.integers(1, d - 1)
    axes = np.linalg.qr(rng.standard_normal((d, d)))[0][:nz]
    X = (rng.standard_normal((n, nz)) * 10 ** rng.uniform(-0.5, 0.5, nz)) @ axes
    X += 10 ** rng.uniform(-6, -1) * rng.standard_normal(X.shape)
    X = X.T if rng.random() < 0.4 else X
    return (X + rng.choice([0, 1, 100]) * rng.standard_normal(X.shape[1])).astype(np.float32), int(nz)


@pytest.mark.slow
def test_noise_of_float32_rows_is_that_of_their_singular_values(rng):
    """Whatever sign the rounding of float32 products has."""
    for _ in range(200):
        X, nz = low_noise_rows(rng)
        (n, d), rows = X.shape, X.astype(np.float64)
        variances = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False) ** 2 / (n - 1)
        noise = variances[nz:].sum() / (min(n, d) - nz)
        # Tipping & Bishop (1999), eq. 5; over the training samples the squared distances add up to the rank.
        log_det = np.log(variances[:nz]).sum() + (d - nz) * np.log(noise)
        score = -0.5 * (d * np.log(2 * np.pi) + log_det + min(n, d) * (n - 1) / n)
        single, double = PCAReducer(nz).fit(X), PCAReducer(nz).fit(rows)
        # Right to half of the digits of float32, and of float64.
        np.testing.assert_allclose(single.noise_variance_, noise, rtol=5e-4)
        np.testing.assert_allclose(double.noise_variance_, noise, rtol=1e-7)
        # Nats per feature. The components are rounded to 3e-8, a tenth of the least deviation of the noise here.
        assert single.score(X) / d == pytest.approx(score / d, rel=0, abs=1e-2)


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
@pytest.mark.parametrize("solver", ["auto", "covariance", "full", "randomized"])
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


@pytest.mark.parametrize("nz", [None, 3, 0.9])
@pytest.mark.parametrize("whiten", [False, True])
def test_integer_weights_equal_repeated_rows(X, nz, whiten, rng):
    weights = rng.integers(0, 4, len(X))
    weighted = PCAReducer(nz, whiten=whiten).fit(X, sample_weight=weights)
    repeated = PCAReducer(nz, whiten=whiten).fit(X.repeat(weights, axis=0))
    for name in ATTRIBUTES:
        np.testing.assert_allclose(getattr(weighted, name), getattr(repeated, name), rtol=1e-10, atol=1e-12)
    assert weighted.score(X, sample_weight=weights) == pytest.approx(repeated.score(X.repeat(weights, axis=0)))


@pytest.mark.parametrize("container", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("nz", [None, 3])
def test_partial_fit_equals_fit(X, nz, container, rng):
    pca = PCAReducer(nz)
    starts = np.flatnonzero(rng.random(len(X)) < 0.1)
    for part in np.split(np.arange(len(X)), starts[starts >= 3]):
        pca.partial_fit(container(X[part]))
    reference = PCAReducer(nz, solver="full").fit(X)
    for name in ATTRIBUTES:
        np.testing.assert_allclose(getattr(pca, name), getattr(reference, name), rtol=1e-10, atol=1e-10, err_msg=name)


def test_partial_fit_of_single_rows(X):
    pca = PCAReducer()
    for row in X[:20]:
        pca.partial_fit([row])
    np.testing.assert_allclose(pca.components_, PCAReducer().fit(X[:20]).components_, rtol=1e-9, atol=1e-10)


def test_partial_fit_with_weights(X, rng):
    weights = rng.uniform(0.5, 2, len(X))
    pca = PCAReducer(2).partial_fit(X[:50], sample_weight=weights[:50]).partial_fit(X[50:], sample_weight=weights[50:])
    reference = PCAReducer(2).fit(X, sample_weight=weights)
    np.testing.assert_allclose(pca.explained_variance_, reference.explained_variance_, rtol=1e-12)
    assert pca.noise_variance_ == pytest.approx(reference.noise_variance_)


def test_partial_fit_keeps_float32_and_its_digits(X):
    rows = (X + 1000).astype(np.float32)
    pca = PCAReducer(3).partial_fit(rows[:77]).partial_fit(rows[77:])
    reference = PCAReducer(3).fit(rows.astype(np.float64))
    assert pca.components_.dtype == np.float32
    np.testing.assert_allclose(pca.explained_variance_, reference.explained_variance_, rtol=1e-12)


def test_partial_fit_of_many_columns(rng, monkeypatch):
    monkeypatch.setattr("sklatent._pca.LARGE_SCATTER", 50)
    monkeypatch.setattr("sklatent._pca.N_FACTORED_ROWS", 7)
    X = rng.standard_normal((60, 80)) * 0.6 ** np.arange(80) + 1
    reference = PCAReducer(3, solver="full").fit(X)
    for container in (np.asarray, sparse.csr_array):
        pca = PCAReducer(3)
        for rows in np.split(X, [5, 30]):
            pca.partial_fit(container(rows))
        # 13 of 59 directions are kept: those left out have 0.6^26 = 2e-6 of the largest variance, and the three leading
        # ones feel it to the second order. What is left out counts as noise.
        np.testing.assert_allclose(pca.explained_variance_, reference.explained_variance_, rtol=1e-9)
        np.testing.assert_allclose(pca.components_, reference.components_, atol=1e-6)
        assert pca.noise_variance_ == pytest.approx(reference.noise_variance_, rel=1e-9)


def test_fit_makes_partial_fit_start_anew(X):
    pca = PCAReducer(2).partial_fit(X).fit(X[:50])
    assert not hasattr(pca, "moments_")
    assert pca.partial_fit(X[50:]).n_samples_ == len(X) - 50


@pytest.mark.parametrize("method", ["transform", "score_samples"])
def test_sparse_rows_give_what_dense_rows_give(method, rng):
    X = sparse.csr_array(sparse.random(100, 20, density=0.2, random_state=0))
    pca = PCAReducer(3).fit(X)
    dense = PCAReducer(3).fit(X.toarray())
    np.testing.assert_allclose(getattr(pca, method)(X), getattr(dense, method)(X.toarray()), rtol=1e-9, atol=1e-12)


def test_entries_of_sparse_rows_given_twice_count_as_their_sum(rng):
    indptr = np.arange(0, 1001, 10)
    X = sparse.csr_matrix((rng.standard_normal(1000), rng.integers(0, 20, 1000), indptr), shape=(100, 20))
    weights, data = rng.uniform(0.5, 2, 100), X.data.copy()
    fits = [
        lambda X: PCAReducer(3).fit(X, sample_weight=weights),
        lambda X: PCAReducer(3).partial_fit(X, None, weights),
    ]
    for fit in fits:
        pca, dense = fit(X), fit(X.toarray())
        for method in ("transform", "score_samples"):
            found, expected = getattr(pca, method)(X), getattr(dense, method)(X.toarray())
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(X.data, data)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_codes_and_scores_keep_their_digits(X, dtype, offset):
    rows = (X - X.mean(axis=0) + offset).astype(dtype)
    pca, exact = PCAReducer(3).fit(rows), PCAReducer(3).fit(rows.astype(np.float64))
    # Codes are up to 50, and float32 keeps 6e-8 of that in each of the sums.
    atol, rtol = (5e-5, 1e-6) if dtype == np.float32 else (1e-11, 1e-11)
    np.testing.assert_allclose(pca.transform(rows), exact.transform(rows.astype(np.float64)), atol=atol)
    np.testing.assert_allclose(pca.score_samples(rows), exact.score_samples(rows.astype(np.float64)), rtol=rtol)


def test_score_of_float32_with_little_noise_is_taken_in_float64(rng):
    X = (rng.standard_normal((300, 2)) @ rng.standard_normal((2, 8))).astype(np.float32)
    X += (1e-4 * rng.standard_normal(X.shape)).astype(np.float32)
    pca = PCAReducer(2).fit(X)
    density = multivariate_normal(pca.mean_, pca.get_covariance())
    # The components are float32, and X spreads over 1e4 standard deviations of the noise.
    np.testing.assert_allclose(pca.score_samples(X), density.logpdf(X.astype(np.float64)), rtol=1e-5)


def test_score_of_a_float32_row_whose_square_overflows(X):
    pca = PCAReducer(2).fit(X.astype(np.float32))
    assert np.isfinite(pca.score_samples(np.full((1, 6), 1e30, dtype=np.float32))).all()


@needs_dispatch
@pytest.mark.parametrize("solver", ["auto", "covariance", "full", "randomized"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_give_tensors(X, solver, dtype):
    rows = torch.asarray(X, dtype=dtype)
    with config_context(array_api_dispatch=True):
        pca = PCAReducer(3, solver=solver).fit(rows, sample_weight=torch.ones(len(X)))
        Z = pca.transform(rows)
        outputs = [Z, pca.inverse_transform(Z), pca.score_samples(rows), pca.components_, pca.explained_variance_]
        assert type(pca.score(rows)) is float
    assert all(isinstance(values, torch.Tensor) for values in outputs)
    assert Z.dtype == pca.components_.dtype == dtype
    reference = PCAReducer(3, solver="full").fit(X)
    rtol = 1e-5 if dtype == torch.float32 else 1e-10  # X is rounded to float32, and so are its products
    np.testing.assert_allclose(pca.explained_variance_, reference.explained_variance_, rtol=rtol)
    np.testing.assert_allclose(outputs[2], reference.score_samples(X), rtol=rtol)
    assert pca.sample(2, random_state=0).shape == (2, 6)


@needs_dispatch
def test_tensors_in_batches_and_with_missing_values(X):
    rows = torch.asarray(X)
    gaps = rows.clone()
    gaps[::3, 1] = torch.nan
    with config_context(array_api_dispatch=True):
        pca = PCAReducer(2).partial_fit(rows[:50]).partial_fit(rows[50:])
        Z, scores = PCAReducer(2).fit(gaps).transform(gaps), PCAReducer(2).fit(gaps).score_samples(gaps)
    np.testing.assert_allclose(pca.components_, PCAReducer(2).fit(X).components_, rtol=1e-9)
    np.testing.assert_allclose(Z, PCAReducer(2).fit(gaps.numpy()).transform(gaps.numpy()), rtol=1e-9)
    assert torch.isfinite(scores).all()


def test_rows_moved_to_a_device_in_chunks(X, monkeypatch):
    """A second PyTorch device stands for CUDA: chunks go there, what is fitted comes back as NumPy's."""
    monkeypatch.setattr(PCAReducer, "_loader", lambda self, rows: torch.as_tensor)
    pca = PCAReducer(3).fit(X, sample_weight=np.ones(len(X)))
    assert isinstance(pca.components_, np.ndarray)
    np.testing.assert_allclose(pca.components_, PCAReducer(3, device="cpu").fit(X).components_, rtol=1e-9)
    partial = PCAReducer(3).partial_fit(X[:50]).partial_fit(X[50:])
    np.testing.assert_allclose(partial.components_, pca.components_, rtol=1e-9)


def test_weights_are_routed(X):
    with config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(PCAReducer(2).set_fit_request(sample_weight=True), LogisticRegression())
        pipeline[-1].set_fit_request(sample_weight=False)
        weights = np.arange(len(X)) % 3
        pipeline.fit(X, np.arange(len(X)) % 2, sample_weight=weights)
    np.testing.assert_array_equal(pipeline[0].components_, PCAReducer(2).fit(X, sample_weight=weights).components_)


def test_parallel_analysis_chooses_the_first_components(digits):
    X = digits[0][:300]
    model = PCAReducer("parallel", random_state=0).fit(X)
    expected = PCAReducer(model.n_components_).fit(X)
    assert 5 < model.n_components_ < 40
    np.testing.assert_allclose(model.components_, expected.components_, atol=1e-10)
    assert model.score(X) == pytest.approx(expected.score(X), rel=1e-10)


@pytest.mark.parametrize("container", [np.asarray, lambda X: X.astype(np.float32), pd.DataFrame])
@pytest.mark.parametrize("solver", ["auto", "covariance", "full", "randomized"])
def test_parallel_analysis_with_every_solver_and_container(container, solver):
    model = PCAReducer("parallel", solver=solver, random_state=0).fit(container(plane_and_noise()))
    assert model.n_components_ == 2


@needs_dispatch
def test_parallel_analysis_of_a_tensor():
    with config_context(array_api_dispatch=True):
        assert PCAReducer("parallel", random_state=0).fit(torch.as_tensor(plane_and_noise())).n_components_ == 2


def plane_and_noise():
    rng = np.random.default_rng(0)
    return rng.standard_normal((100, 2)) @ rng.standard_normal((2, 12)) + 0.3 * rng.standard_normal((100, 12)) + 5


@pytest.mark.parametrize(
    ("fit", "error", "message"),
    [
        (
            lambda model, X: model.fit(X, sample_weight=np.ones(len(X))),
            ValueError,
            "sample_weight is not supported wit",
        ),
        (lambda model, X: model.partial_fit(X), ValueError, "partial_fit is not supported with nz='parallel', which"),
        (
            lambda model, X: model.fit(sparse.csr_array(X)),
            TypeError,
            "does not support sparse inputs with nz='parallel'",
        ),
        (lambda model, X: model.fit(np.where(X > 2, np.nan, X)), ValueError, "missing values with nz='parallel'"),
    ],
)
def test_parallel_analysis_refuses_what_it_cannot_compare_with_noise(rng, fit, error, message):
    X = rng.standard_normal((60, 5))
    model = PCAReducer("parallel")
    with pytest.raises(error, match=message):
        fit(model, X)
    assert not hasattr(model, "n_components_")
    before = dict(vars(model.fit(X)))
    with pytest.raises(error, match=message):
        fit(model, X)
    assert vars(model) == before


@pytest.mark.slow
@pytest.mark.parametrize("random_state", [0, None, np.random.RandomState(0)], ids=["seed", "none", "instance"])
def test_parallel_analysis_in_a_fused_search(digits, random_state):
    X = digits[0][:200]
    grid = {"nz": ["parallel", 2], "whiten": [False, True]}
    search = FusedGridSearchCV(PCAReducer(random_state=random_state), grid, cv=3).fit(X)
    expected = GridSearchCV(PCAReducer(random_state=0), grid, cv=3).fit(X)
    assert search.best_params_["nz"] == "parallel"
    if random_state == 0:
        np.testing.assert_allclose(search.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"])


def test_parallel_analysis_scores_weighted_samples(rng):
    X = rng.standard_normal((60, 5))
    assert np.isfinite(PCAReducer("parallel").fit(X).score(X, sample_weight=np.ones(60)))
