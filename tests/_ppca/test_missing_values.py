import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.exceptions import ConvergenceWarning

from sklatent import PCAReducer
from sklatent._ppca import missing_values
from sklatent._ppca.missing_values import FactorModel, fit_factors


@pytest.fixture
def complete(rng):
    """Five factors and noise, off the origin."""
    loadings = rng.standard_normal((20, 5))
    return rng.standard_normal((800, 5)) @ loadings.T + 0.3 * rng.standard_normal((800, 20)) + 3


@pytest.fixture
def X(complete, rng):
    """A fifth of the entries missing, all of one row."""
    X = np.where(rng.random(complete.shape) < 0.2, np.nan, complete)
    X[7] = np.nan
    return X


def test_em_of_complete_rows_is_the_closed_form(complete):
    """Tipping & Bishop (1999), eq. 7 and 8."""
    model, has_converged = fit_factors(complete, 5)
    variances = np.linalg.eigvalsh(np.cov(complete, rowvar=False, bias=True))[::-1]
    assert has_converged
    np.testing.assert_allclose(model.mean, complete.mean(axis=0), rtol=1e-10)
    # EM stops at 1e-6 nats a row.
    assert model.noise == pytest.approx(variances[5:].mean(), rel=2e-4)
    np.testing.assert_allclose(
        np.linalg.eigvalsh(model.loadings @ model.loadings.T)[::-1][:5] + model.noise, variances[:5], rtol=2e-5
    )


def test_em_raises_the_likelihood_at_each_step(X):
    model, least = missing_values._start(X, 5, np.ones(len(X)))
    densities = []
    for _ in range(10):
        model, log_density, _ = missing_values._em_step(model, X, np.ones(len(X)), least)
        densities.append(log_density)
    assert (np.diff(densities) > 0).all()


def test_fitted_density_is_stationary(X):
    """The gradient of the likelihood by the noise and the mean, by differences of the exact marginal density."""
    model, _ = fit_factors(X, 5)

    def at(shift, factor):
        return FactorModel(model.mean + shift, model.loadings, model.noise * factor).log_density(X).sum()

    n = len(X)
    assert abs(at(0, 1.001) - at(0, 0.999)) / 0.002 < 1e-2 * n
    assert abs(at(1e-3, 1) - at(-1e-3, 1)) / 2e-3 < 1e-2 * n


def test_log_density_and_fill_are_those_of_the_normal_marginal(X, rng):
    model = FactorModel(rng.standard_normal(20), rng.standard_normal((20, 3)), 0.5)
    covariance = model.loadings @ model.loadings.T + 0.5 * np.eye(20)
    scores, filled = model.log_density(X[:9]), model.fill(X[:9])
    for row, score, full in zip(X[:9], scores, filled, strict=True):
        seen = ~np.isnan(row)
        if not seen.any():
            assert score == 0.0
            np.testing.assert_allclose(full, model.mean)
            continue
        marginal = multivariate_normal(model.mean[seen], covariance[np.ix_(seen, seen)])
        assert score == pytest.approx(marginal.logpdf(row[seen]), rel=1e-10)
        gain = covariance[:, seen] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
        expected = model.mean + gain @ (row - model.mean)[seen]
        np.testing.assert_allclose(full, np.where(seen, row, expected), rtol=1e-10)


def test_chunks_do_not_change_the_result(X, monkeypatch):
    before, _ = fit_factors(X, 3)
    monkeypatch.setattr(missing_values, "CHUNK_SIZE", 500)
    after, _ = fit_factors(X, 3)
    np.testing.assert_allclose(after.loadings, before.loadings, rtol=1e-7)
    np.testing.assert_allclose(after.fill(X), before.fill(X), rtol=1e-7)


def test_integer_weights_equal_repeated_rows(X, rng):
    weights = rng.integers(0, 3, len(X))
    weighted = PCAReducer(5).fit(X, sample_weight=weights)
    repeated = PCAReducer(5).fit(X.repeat(weights, axis=0))
    # Both start from other rows, and stop at 1e-6 nats a row.
    assert weighted.score(X) == pytest.approx(repeated.score(X), rel=1e-6)
    assert weighted.noise_variance_ == pytest.approx(repeated.noise_variance_, rel=1e-4)
    assert weighted.n_samples_ == weights.sum()


def test_filled_entries_are_close_to_the_truth(X, complete):
    pca = PCAReducer(5).fit(X)
    gaps = np.isnan(X)
    error = np.sqrt(np.mean((pca.inverse_transform(pca.transform(X)) - complete)[gaps] ** 2))
    by_mean = np.sqrt(np.mean((np.nanmean(X, axis=0) - complete)[gaps] ** 2))
    assert error < by_mean / 5


def test_a_complete_row_is_treated_as_ever(X, complete):
    pca = PCAReducer(5).fit(X)
    mixed = np.vstack([complete[:3], X[:3]])
    np.testing.assert_allclose(pca.transform(mixed)[:3], (complete[:3] - pca.mean_) @ pca.components_.T, rtol=1e-10)
    np.testing.assert_allclose(pca.score_samples(mixed)[:3], pca.score_samples(complete[:3]), rtol=1e-12)
    # One entry less changes a code by little, and the density is one of 19 entries.
    one = complete[:1].copy()
    one[0, 4] = np.nan
    assert np.abs(pca.transform(one) - pca.transform(complete[:1])).max() < 1


@pytest.mark.slow
@pytest.mark.parametrize("nz", [None, 0.9, "mle", 1, 19, 20])
def test_every_nz(X, nz):
    X = X[:200]
    pca = PCAReducer(nz).fit(X)
    assert np.isfinite(pca.transform(X)).all()
    assert np.isfinite(pca.score_samples(X)).all()
    np.testing.assert_allclose(pca.components_ @ pca.components_.T, np.eye(pca.n_components_), atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_is_kept(X, dtype):
    pca = PCAReducer(2).fit(X.astype(dtype))
    assert pca.transform(X.astype(dtype)).dtype == pca.components_.dtype == dtype


def test_torch_gives_what_numpy_gives(X):
    model, _ = fit_factors(X, 3)
    tensors, _ = fit_factors(torch.asarray(X), 3)
    np.testing.assert_allclose(tensors.log_density(torch.asarray(X)), model.log_density(X), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "X",
    [
        np.array([[1.0], [np.nan], [3.0]]),
        np.array([[1.0, np.nan], [np.nan, 2.0]]),
        np.array([[5.0, 5.0], [5.0, np.nan], [5.0, 5.0]]),
    ],
    ids=["one column", "nothing in common", "constant"],
)
def test_degenerate_data_have_a_finite_score(X):
    pca = PCAReducer().fit(X)
    assert np.isfinite(pca.score_samples(X)).all()
    assert np.isfinite(pca.transform(X)).all()


def test_no_convergence_warns(X, monkeypatch):
    monkeypatch.setattr(missing_values, "MAX_ITER", 2)
    with pytest.warns(ConvergenceWarning, match="PCAReducer: the EM algorithm for missing values did not converge"):
        PCAReducer(5).fit(X)


@pytest.mark.parametrize("nz", [0.5, 0.7, "mle"])
def test_a_number_of_components_by_the_data_has_its_own_maximum(nz, rng):
    """The first axes of a model with more are not those of largest likelihood."""
    X = rng.standard_normal((200, 6)) @ rng.standard_normal((6, 6)) + 0.1 * rng.standard_normal((200, 6))
    X[rng.random(X.shape) < 0.3] = np.nan
    chosen = PCAReducer(nz).fit(X)
    given = PCAReducer(chosen.n_components_).fit(X)
    assert chosen.score(X) == pytest.approx(given.score(X), rel=1e-12)
    assert chosen.noise_variance_ == pytest.approx(given.noise_variance_, rel=1e-12)
