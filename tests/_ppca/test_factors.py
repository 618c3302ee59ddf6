import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import invgamma, multivariate_normal, norm
from sklearn.decomposition import FactorAnalysis

from sklatent._ppca.factors import factor_analysis, shrink


@pytest.mark.parametrize("n_samples", [1, 4, 300])
def test_shrunk_variances_are_the_most_probable_under_an_inverse_gamma_prior(rng, n_samples):
    residuals = rng.standard_normal((n_samples, 3)) * [0.1, 1, 3]
    errors = np.square(residuals).mean(axis=0)
    for residual, found in zip(residuals.T, shrink(errors, n_samples), strict=True):

        def minus_log_posterior(log_variance, residual=residual):
            variance = np.exp(log_variance)
            log_prior = invgamma.logpdf(variance, 0.5, scale=errors.mean() / 2) + log_variance  # of the logarithm
            return -norm.logpdf(residual, scale=np.sqrt(variance)).sum() - log_prior

        mode = minimize_scalar(minus_log_posterior, bracket=(-5, 5), tol=1e-10)
        assert np.log(found) == pytest.approx(mode.x, abs=1e-6)  # the minimum is flat to the root of the rounding


def test_shrunk_variances_keep_their_mean_and_leave_none_at_zero():
    found = shrink(np.array([0.0, 1.5, 1.5]), 99)
    np.testing.assert_allclose(found, [0.01, 1.495, 1.495], rtol=1e-14)


def mean_log_density(X, variances, n_factors):
    """Under the loadings that are best for the variances, which are known in closed form."""
    covariance, deviations = np.cov(X, rowvar=False, ddof=0), np.sqrt(variances)
    values, vectors = np.linalg.eigh(covariance / np.outer(deviations, deviations))
    loadings = deviations[:, None] * vectors[:, -n_factors:] * np.sqrt(values[-n_factors:] - 1)
    model = multivariate_normal(X.mean(axis=0), loadings @ loadings.T + np.diag(variances))
    return model.logpdf(X).mean()


@pytest.mark.parametrize("is_homoscedastic", [True, False])
@pytest.mark.parametrize(("n_features", "n_factors"), [(8, 1), (12, 3), (25, 5)])
def test_unique_variances_are_those_of_factor_analysis(is_homoscedastic, n_features, n_factors, rng):
    n_samples = 2000
    noise = np.ones(n_features) if is_homoscedastic else rng.uniform(0.5, 1.5, n_features)
    loadings = rng.standard_normal((n_factors, n_features))
    X = rng.standard_normal((n_samples, n_factors)) @ loadings + noise * rng.standard_normal((n_samples, n_features))
    reference = FactorAnalysis(n_factors, tol=1e-8, max_iter=10_000, svd_method="lapack").fit(X)
    found = factor_analysis(X + 100, n_factors).noise
    best, score = (mean_log_density(X, variances, n_factors) for variances in (reference.noise_variance_, found))
    assert best == pytest.approx(reference.score(X), abs=1e-4)
    # What 50 steps of EM leave, and the prior.
    assert best - 0.01 < score < best + 1e-4


def tables(rng):
    X = rng.standard_normal((40, 6))
    return {
        "constant column": np.hstack([X, np.full((40, 1), 3.0)]),
        "constant": np.ones((40, 6)),
        "duplicated columns": np.hstack([X, X[:, :2]]),
        "low rank": X[:, :2] @ X[:2],
        "fewer samples than features": X[:4],
        "two samples": X[:2],
        "one sample": X[:1],
        "one feature": X[:, :1],
        "heavy tails": X**9,
    }


@pytest.mark.parametrize("n_factors", [1, 3, 20])
@pytest.mark.parametrize("name", tables(np.random.default_rng(0)))
def test_unique_variances_of_any_table_are_bounded(name, n_factors, rng):
    X = tables(rng)[name]
    for scale in (1e-100, 1, 1e100):
        found = factor_analysis(scale * X, n_factors).noise / scale**2
        assert (found > 0).all()
        # The prior bounds their ratios, where there is anything to explain.
        assert found.min() >= found.mean() / (len(X) + 1) * (1 - 1e-9)
        rounding = 1e-30  # of the mean of a constant
        assert found.mean() <= max(X.var(axis=0).mean(), 1e-6 / scale**2) * (1 + 1e-9) + rounding
