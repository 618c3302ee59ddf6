import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.linalg import subspace_angles
from scipy.stats import special_ortho_group
from sklearn.datasets import load_iris, load_wine
from sklearn.decomposition import PCA

from sklatent._ppca import centered, solvers
from sklatent._ppca.centered import mean_and_variance
from sklatent._ppca.dimension import minka_dimension
from sklatent._ppca.solvers import decompose, spectrum_of_moments


def matrix(n_samples, variances, rng, offset=0.0):
    """Rows whose sample covariance has exactly these variances, in a random basis."""
    d = len(variances)
    Q, _ = np.linalg.qr(rng.standard_normal((n_samples, d)) @ np.eye(d))
    Q, _ = np.linalg.qr(Q - Q.mean(axis=0))
    basis = special_ortho_group.rvs(d, random_state=0) if d > 1 else np.eye(1)
    return Q * np.sqrt(np.asarray(variances) * (n_samples - 1)) @ basis + offset, basis


@pytest.mark.parametrize("namespace", [np.asarray, torch.asarray], ids=["numpy", "torch"])
@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_decompose_finds_known_spectrum(solver, namespace, rng):
    variances = [9.0, 4.0, 1.0, 0.25]
    X, basis = matrix(50, variances, rng, offset=3.0)
    spectrum = decompose(namespace(X), solver)
    assert type(spectrum.components) is type(namespace(X))
    np.testing.assert_allclose(np.asarray(spectrum.variances), variances, rtol=1e-12)
    np.testing.assert_allclose(np.abs(np.asarray(spectrum.components) @ basis.T), np.eye(4), atol=1e-10)
    np.testing.assert_allclose(np.asarray(spectrum.mean), X.mean(axis=0), rtol=1e-12)


@pytest.mark.parametrize("solver", solvers.SOLVERS)
@pytest.mark.parametrize("offset", [100.0, 1000.0])
def test_decompose_keeps_float32_digits_far_from_the_origin(solver, offset, rng):
    X = (rng.standard_normal((500, 5)) * [5, 4, 3, 2, 1] + offset).astype(np.float32)
    expected = np.linalg.eigvalsh(np.cov(X.astype(np.float64), rowvar=False))[::-1]
    np.testing.assert_allclose(decompose(X, solver).variances, expected, rtol=1e-5)  # float32 products


def test_auto_goes_on_to_full_for_components_below_the_rounding(rng):
    variances = 10.0 ** -np.arange(0, 22, 2)  # the last has 1e-20 of the first: nothing of it is in the scatter
    X, basis = matrix(200, variances, rng)
    worst = lambda spectrum: np.abs(np.diag(spectrum.components @ basis.T)).min()  # noqa: E731
    assert worst(decompose(X, "covariance")) < 0.9
    assert worst(decompose(X, "auto")) > 1 - 1e-9
    np.testing.assert_allclose(decompose(X, "auto").variances, decompose(X, "full").variances)


def test_auto_stays_with_covariance_where_the_asked_components_are_clear(rng, monkeypatch):
    X, _ = matrix(200, [4.0, 1.0, 1e-20], rng)
    monkeypatch.setitem(solvers.SOLVERS, "full", None)
    assert decompose(X, "auto", nz=2).variances[1] == pytest.approx(1.0)


def test_covariance_is_never_negative(rng):
    X = rng.standard_normal((100, 2)) @ rng.standard_normal((2, 20))
    assert decompose(X, "covariance").variances.min() >= 0


@pytest.mark.parametrize("chunk_size", [1, 10, 2**22])
def test_chunks_do_not_change_the_result(chunk_size, rng, monkeypatch):
    X = rng.standard_normal((30, 3)) + 5
    monkeypatch.setattr(centered, "CHUNK_SIZE", chunk_size)
    np.testing.assert_allclose(decompose(X, "covariance").variances, PCA().fit(X).explained_variance_, rtol=1e-12)
    mean, variance = mean_and_variance(X)
    np.testing.assert_allclose(mean, X.mean(axis=0))
    np.testing.assert_allclose(variance, X.var(axis=0))


@pytest.mark.parametrize(
    "X",
    [
        load_iris().data,
        load_wine().data,
        np.random.default_rng(0).standard_normal((100, 10)) * [9, 8, 7, 1, 1, 1, 1, 1, 1, 1],
        np.random.default_rng(0).standard_normal((30, 2)),
    ],
    ids=["iris", "wine", "three of ten", "two columns"],
)
def test_minka_dimension_equals_scikit_learn(X):
    reference = PCA("mle", svd_solver="full").fit(X)
    variances = PCA(svd_solver="full").fit(X).explained_variance_
    assert minka_dimension(variances, len(X)) == reference.n_components_


def test_minka_dimension_of_rank_deficient_data(rng):
    X = rng.standard_normal((100, 3)) @ rng.standard_normal((3, 6))
    assert minka_dimension(decompose(X, "full").variances, 100) == 3


SPECTRA = {
    "float32, mean of 1000": (np.linspace(10, 1, 12), 1e3, np.float32),
    "float32, falling to 1e-11": (10.0 ** -np.arange(12), 0.0, np.float32),
    "float64, falling to 1e-11": (10.0 ** -np.arange(12), 0.0, np.float64),
    "float64, mean of 1e6": (np.linspace(10, 1, 12), 1e6, np.float64),
}


@pytest.mark.parametrize("case", SPECTRA)
@pytest.mark.parametrize("shape", ["tall", "wide"])
def test_auto_finds_each_component_within_a_tenth_of_a_degree(case, shape, rng):
    """Of the float64 singular vectors of the very rows that are passed, centred about a mean of extended precision."""
    deviations, mean, dtype = SPECTRA[case]
    n, d = (1000, 30) if shape == "tall" else (60, 300)
    left, right = (np.linalg.qr(rng.standard_normal((size, 13)))[0] for size in (n, d))
    # Something below the twelfth, or it would be the last of all.
    X = ((left * np.append(deviations, deviations[-1] / 3)) @ right.T * np.sqrt(n) + mean).astype(dtype)
    exact = X.astype(np.longdouble)
    reference = np.linalg.svd((exact - exact.mean(axis=0)).astype(np.float64))[2][:12]
    found = decompose(X, nz=12).components[:12]
    angles = np.degrees([subspace_angles(a[:, None], b[:, None])[0] for a, b in zip(found, reference, strict=True)])
    assert angles.max() < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1500, 400), (400, 1500)])
@pytest.mark.parametrize("offset", [0.0, 50.0])  # implicit centring, and explicit
@pytest.mark.parametrize("weighted", [False, True])
def test_krylov_finds_the_leading_components(shape, offset, dtype, weighted, rng):
    X = rng.standard_normal(shape) * 0.9 ** np.arange(shape[1]) + offset
    weights = rng.integers(1, 4, len(X)).astype(float) if weighted else None
    X = X.astype(dtype)
    found = decompose(X, "randomized", 5, weights=weights)
    repeated = X if weights is None else X.repeat(weights.astype(int), axis=0)
    reference = decompose(repeated.astype(np.float64), "full")
    # Float32 products, at an offset of 50 deviations.
    np.testing.assert_allclose(found.variances[:5], reference.variances[:5], rtol=1e-9 if dtype == np.float64 else 1e-5)
    np.testing.assert_allclose(found.components, reference.components[:5], atol=1e-7 if dtype == np.float64 else 1e-4)
    np.testing.assert_allclose(
        found.noise_variance(5), reference.noise_variance(5), rtol=1e-9 if dtype == np.float64 else 1e-5
    )


def test_krylov_is_as_close_as_its_oversampling_and_iterations_make_it(rng):
    X = rng.standard_normal((1200, 600)) * np.arange(1, 601) ** -0.3
    exact = decompose(X, "full").variances[:10].sum()
    missing = [
        exact - decompose(X, "randomized", 10, n_oversamples=p, n_iter=q).variances.sum()
        for p, q in [(1, 2), (40, 2), (40, 6)]
    ]
    assert missing[0] > 1.5 * missing[1] > 1.5 * missing[2] > 0


def test_krylov_is_the_same_for_the_same_seed(rng):
    X = rng.standard_normal((700, 600))
    first, again, other = (decompose(X, "randomized", 3, seed=lambda seed=seed: seed).components for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-6


@pytest.mark.parametrize("shape", [(400, 300), (300, 400)])
@pytest.mark.parametrize(("rank", "nz"), [(1, 1), (3, 3), (10, 10), (10, 4), (4, 12)])
def test_krylov_finds_the_components_of_data_whose_rank_it_exhausts(shape, rank, nz, rng):
    X = rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1]))
    expected = np.linalg.svd(X - X.mean(axis=0), compute_uv=False) ** 2 / (len(X) - 1)
    found = decompose(X, "randomized", nz)
    np.testing.assert_allclose(found.variances[:nz], expected[:nz], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.components @ found.components.T, np.eye(nz), atol=1e-12)
    assert found.noise_variance(nz) == pytest.approx(expected[nz:].mean(), rel=1e-10, abs=1e-12)


@pytest.mark.slow
def test_krylov_takes_any_number_of_components_blocks_and_oversamples(rng):
    for _ in range(60):
        n, d = rng.integers(20, 300, 2)
        nz, p, q = int(rng.integers(1, min(n, d) + 1)), int(rng.integers(1, 40)), int(rng.integers(1, 4))
        X = rng.standard_normal((n, d)) * 0.7 ** np.arange(d)
        found, exact = decompose(X, "randomized", nz, n_oversamples=p, n_iter=q), decompose(X, "full", nz)
        np.testing.assert_allclose(found.components @ found.components.T, np.eye(nz), atol=1e-10)
        assert found.variances[:nz].shape == (nz,)
        # Ritz values lie below the eigenvalues: by little where variances fall fast and a second block has seen them.
        assert (found.variances[:nz] <= exact.variances[:nz] + 1e-12).all()
        assert found.variances[:nz].sum() > (0.9 if q > 1 else 0.1) * exact.variances[:nz].sum()


@pytest.mark.parametrize("nz", [None, 30, 100])
def test_a_lone_krylov_block_holds_all_components(nz, rng):
    X = rng.standard_normal((120, 100))
    found = decompose(X, "randomized", nz, n_iter=1)
    assert found.components.shape == (nz or 100, 100)


@pytest.mark.slow
@pytest.mark.parametrize("n", [15, 2000])
@pytest.mark.parametrize("d", [20, 300])
@pytest.mark.parametrize("noise", [3e-7, 1e-6, 1e-4])
def test_auto_takes_little_noise_in_float64_for_what_it_is(n, d, noise, rng):
    """Products lose digits in float64 too; nothing at all is left only where sums say so to their last digits."""
    X = rng.standard_normal((n, 10)) @ rng.standard_normal((10, d)) + noise * rng.standard_normal((n, d))
    expected = (np.linalg.svd(X - X.mean(axis=0), compute_uv=False)[10:] ** 2).sum() / (n - 1) / (min(n, d) - 10)
    assert decompose(X, "auto", 10).noise_variance(10) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_weights_that_count_rows_beyond_their_number_pad_the_variances(solver, rng):
    X, weights = rng.standard_normal((3, 10)), np.array([5.0, 2.0, 4.0])
    found = decompose(X, solver, 6, weights=weights)
    expected = np.linalg.eigvalsh(np.cov(X.repeat(weights.astype(int), axis=0), rowvar=False))[::-1]
    assert found.components.shape == (6, 10)
    np.testing.assert_allclose(found.variances[:6], expected[:6], atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["auto", "covariance", "randomized"])
@pytest.mark.parametrize("shape", [(1500, 300), (300, 1500)])
@pytest.mark.parametrize("container", [sparse.csr_array, sparse.csc_array])
@pytest.mark.parametrize("weighted", [False, True])
def test_sparse_equals_dense(solver, shape, container, weighted, rng):
    X = sparse.random(*shape, density=0.05, random_state=0).multiply(0.8 ** np.arange(shape[1]))
    weights = rng.uniform(0.5, 2, shape[0]) if weighted else None
    dense = decompose(X.toarray(), "full", 4, weights=weights)
    found = decompose(container(X), solver, 4, weights=weights)
    k = 2
    np.testing.assert_allclose(found.variances[:k], dense.variances[:k], rtol=1e-9)
    np.testing.assert_allclose(found.total, dense.total, rtol=1e-12)
    np.testing.assert_allclose(found.mean, dense.mean, rtol=1e-12, atol=1e-15)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["auto", "covariance", "randomized"])
@pytest.mark.parametrize("shape", [(300, 200), (200, 300)])
@pytest.mark.parametrize("container", [sparse.csr_matrix, sparse.csr_array, sparse.csc_array])
@pytest.mark.parametrize("weighted", [False, True])
def test_entries_of_sparse_rows_given_twice_count_as_their_sum(solver, shape, container, weighted, rng):
    major = shape[1] if container is sparse.csc_array else shape[0]
    indptr = np.arange(0, 20 * major + 1, 20)
    X = container(
        (rng.standard_normal(indptr[-1]), rng.integers(0, sum(shape) - major, indptr[-1]), indptr), shape=shape
    )
    given = [array.copy() for array in (X.data, X.indices, X.indptr)]
    weights = rng.uniform(0.5, 2, shape[0]) if weighted else None
    found, dense = decompose(X, solver, 2, weights=weights), decompose(X.toarray(), solver, 2, weights=weights)
    assert len(X.data) > np.count_nonzero(X.toarray())
    np.testing.assert_allclose(found.total, dense.total, rtol=1e-12)
    np.testing.assert_allclose(found.variances[:2], dense.variances[:2], rtol=1e-6)
    np.testing.assert_allclose(found.noise_variance(2), dense.noise_variance(2), rtol=1e-6)
    for now, before in zip((X.data, X.indices, X.indptr), given, strict=True):
        np.testing.assert_array_equal(now, before)


@pytest.mark.slow
def test_sparse_is_never_made_dense(monkeypatch):
    X = sparse.csr_array(sparse.random(3000, 2000, density=0.01, random_state=0))
    monkeypatch.setattr(sparse.csr_array, "toarray", None)
    monkeypatch.setattr(sparse.csc_array, "toarray", None)
    assert decompose(X, "auto", 5).components.shape == (5, 2000)


@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_components_of_no_variance_do_not_depend_on_rounding(solver, rng):
    X = rng.standard_normal((40, 3)) @ rng.standard_normal((3, 8)) + 4
    twice = np.vstack([X, X])[rng.permutation(80)]
    np.testing.assert_allclose(decompose(X, solver).components, decompose(twice, solver).components, atol=1e-9)


@pytest.mark.parametrize("nz", [None, 3])
def test_auto_takes_little_noise_in_float32_for_what_it_is(nz, rng):
    """Noise of 1e-3 deviations drowns in the rounding of float32 products: it is found by float64 ones."""
    X = (rng.standard_normal((500, 3)) @ rng.standard_normal((3, 10))).astype(np.float32)
    X += (1e-3 * rng.standard_normal(X.shape)).astype(np.float32)
    expected = np.linalg.eigvalsh(np.cov(X.astype(np.float64), rowvar=False))[:7].mean()
    assert decompose(X, "auto", nz).noise_variance(3) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", [(3000, 20), (20, 3000)])
def test_memory_map_is_read_in_chunks(shape, tmp_path, rng, monkeypatch):
    X = rng.standard_normal(shape)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    monkeypatch.setattr(centered, "CHUNK_SIZE", 1000)
    np.testing.assert_allclose(decompose(mapped, nz=3).components, decompose(X, nz=3).components, atol=1e-10)


def test_factored_moments_give_the_spectrum_of_all_rows(rng):
    X = rng.standard_normal((40, 100)) + 3
    parts = [centered.CenteredRows(rows).factored_moments() for rows in np.split(X, [1, 5, 30])]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part).truncate(None)
    found, expected = spectrum_of_moments(merged), decompose(X, "full")
    np.testing.assert_allclose(found.variances, expected.variances, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.components[:39], expected.components[:39], atol=1e-10)
    assert spectrum_of_moments(merged.truncate(5), 5).total == pytest.approx(expected.total)
