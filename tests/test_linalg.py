import numpy as np
import pytest
import torch
from scipy.stats import special_ortho_group
from sklearn.datasets import load_iris, load_wine
from sklearn.decomposition import PCA

from sklatent import linalg, spectrum
from sklatent.linalg import Moments, mean_and_variance
from sklatent.spectrum import decompose, minka_dimension


def matrix(n_samples, variances, rng, offset=0.0):
    """Rows whose sample covariance has exactly these variances, in a random basis."""
    d = len(variances)
    Q, _ = np.linalg.qr(rng.standard_normal((n_samples, d)) @ np.eye(d))
    Q, _ = np.linalg.qr(Q - Q.mean(axis=0))
    basis = special_ortho_group.rvs(d, random_state=0) if d > 1 else np.eye(1)
    return Q * np.sqrt(np.asarray(variances) * (n_samples - 1)) @ basis + offset, basis


@pytest.mark.parametrize("namespace", [np.asarray, torch.asarray], ids=["numpy", "torch"])
@pytest.mark.parametrize("solver", spectrum.SOLVERS)
def test_decompose_finds_known_spectrum(solver, namespace, rng):
    variances = [9.0, 4.0, 1.0, 0.25]
    X, basis = matrix(50, variances, rng, offset=3.0)
    spectrum = decompose(namespace(X), solver)
    assert type(spectrum.components) is type(namespace(X))
    np.testing.assert_allclose(np.asarray(spectrum.variances), variances, rtol=1e-12)
    np.testing.assert_allclose(np.abs(np.asarray(spectrum.components) @ basis.T), np.eye(4), atol=1e-10)
    np.testing.assert_allclose(np.asarray(spectrum.mean), X.mean(axis=0), rtol=1e-12)


@pytest.mark.parametrize("solver", spectrum.SOLVERS)
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
    monkeypatch.setitem(spectrum.SOLVERS, "full", None)
    assert decompose(X, "auto", nz=2).variances[1] == pytest.approx(1.0)


def test_covariance_is_never_negative(rng):
    X = rng.standard_normal((100, 2)) @ rng.standard_normal((2, 20))
    assert decompose(X, "covariance").variances.min() >= 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_moments_merge_to_those_of_all_rows(dtype, rng):
    X = (rng.standard_normal((100, 4)) + 10).astype(dtype)
    parts = [Moments.from_chunk(rows) for rows in np.split(X, [1, 7, 60])]
    merged = parts[0].merge(parts[1]).merge(parts[2]).merge(parts[3])
    rows = X.astype(np.float64)
    assert merged.n_samples == 100
    # What a rough mean leaves is summed in the precision of X: an error of eps deviations.
    np.testing.assert_allclose(merged.mean, rows.mean(axis=0), atol=np.finfo(dtype).eps)
    np.testing.assert_allclose(
        merged.scatter, np.cov(rows, rowvar=False, bias=True) * 100, rtol=1e-5 if dtype == np.float32 else 1e-12
    )


def test_moments_of_float32_take_values_whose_squares_overflow(rng):
    X = (rng.standard_normal((20, 3)) * 1e30).astype(np.float32)
    np.testing.assert_allclose(
        Moments.from_chunk(X).scatter, np.cov(X.astype(np.float64), rowvar=False, bias=True) * 20, rtol=1e-5
    )


@pytest.mark.parametrize("chunk_size", [1, 10, 2**22])
def test_chunks_do_not_change_the_result(chunk_size, rng, monkeypatch):
    X = rng.standard_normal((30, 3)) + 5
    monkeypatch.setattr(linalg, "CHUNK_SIZE", chunk_size)
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
