"""The start of training at a linear model, and the noise variance of samples left out."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.datasets import load_breast_cancer, load_wine

from sklatent import AutoencoderTransformer, PCAReducer, VAETransformer
from sklatent._nn.left_out import LeftOut
from sklatent._ppca.density import bound_noise_variance
from sklatent._ppca.factors import factor_analysis
from sklatent._ppca.solvers import decompose


@pytest.fixture
def X(rng):
    """Features of very different spread."""
    return (rng.standard_normal((300, 4)) @ rng.standard_normal((4, 8)) + 0.1 * rng.standard_normal((300, 8))) * [
        *(1, 100, 0.1, 1, 3, 10, 1, 0.5)
    ]


def start(model, X):
    """The module before training, in float64, and the samples that it is trained on."""
    training = model._prepare(X)
    return training.module.double().eval(), training.train.X.double()


def log_ratio(module, x, seed=0):
    """Ln p(x, z) - ln q(z | x) at a sample of z; it is ln p(x) for every z if q is the posterior of the model."""
    q = module.posterior(x)
    eps = torch.randn(q.mu.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    z = q.sample(eps)
    with torch.no_grad():
        return (module.log_likelihood(x)(z) + module.prior_density().log_prob(z) - q.log_prob_of(eps)).numpy()


@pytest.mark.parametrize("activation", ["silu", "gelu", "relu"])
@pytest.mark.parametrize("posterior", ["diagonal", "full"])
@pytest.mark.parametrize("hidden_sizes", [None, (), (16,), (20, 9, 8)])
def test_vae_starts_at_the_posterior_of_probabilistic_pca(X, activation, posterior, hidden_sizes):
    model = VAETransformer(3, activation=activation, posterior=posterior, hidden_sizes=hidden_sizes, random_state=0)
    module, x = start(model, X)
    covariance = PCAReducer(3).fit(x.numpy()).get_covariance()
    expected = multivariate_normal(module.standardizer.loc.numpy(), covariance).logpdf(X)
    for seed in range(2):
        # The weights are float32, and the largest component is 1e4 times the noise.
        np.testing.assert_allclose(log_ratio(module, torch.from_numpy(X), seed), expected, rtol=1e-3, atol=1e-2)


def test_tanh_starts_near_it(X):
    module, x = start(VAETransformer(3, activation="tanh", random_state=0), X)
    z = module.encode(x).detach().numpy()
    expected = PCAReducer(3).fit(x.numpy()).transform(x.numpy())
    for k in range(3):
        assert abs(np.corrcoef(z[:, k], expected[:, k])[0, 1]) > 0.99


def test_autoencoder_starts_with_the_scores_of_pca(X):
    model = AutoencoderTransformer(3, max_epochs=1, lr=1e-30, init="pca", random_state=0).fit(X)
    assert model.score(X) == pytest.approx(
        PCAReducer(3).fit(X).score(X), abs=0.2
    )  # its noise is that of samples left out
    random = AutoencoderTransformer(3, max_epochs=1, lr=1e-30, init="random", random_state=0).fit(X)
    assert random.score(X) < model.score(X) - 5


def test_with_a_variance_for_each_feature_it_is_factor_analysis(X):
    module, x = start(VAETransformer(3, likelihood="gaussian_diagonal", random_state=0), X)
    standardizer = module.standardizer
    loadings, noise = factor_analysis(standardizer(x).numpy(), 3)
    scale = standardizer.scale.numpy()
    covariance = (loadings @ loadings.T + np.diag(noise)) * np.outer(scale, scale)
    expected = multivariate_normal(standardizer.loc.numpy(), covariance).logpdf(X)
    np.testing.assert_allclose(
        log_ratio(module, torch.from_numpy(X)), expected, rtol=1e-4, atol=1e-3
    )  # float32 weights


@pytest.mark.parametrize("params", [{"output_activation": "sigmoid"}, {"init": "random"}])
def test_the_ratios_of_the_variances_are_those_of_factor_analysis_from_any_start(network, X, params):
    X = (X - X.min(axis=0)) / np.ptp(X, axis=0).max()
    module, x = start(network(3, likelihood="gaussian_diagonal", random_state=0, **params), X)
    standardizer = module.standardizer
    noise = factor_analysis(standardizer(x).numpy(), 3).noise * standardizer.scale.numpy() ** 2
    found = module.likelihood.noise_variance
    np.testing.assert_allclose(found / found.mean(), noise / noise.mean(), rtol=1e-4)  # kept as float32 logarithms
    assert found.mean() == pytest.approx(X.var(axis=0).mean(), rel=1e-4)


@pytest.mark.parametrize("beta", [0.5, 1.0, 4.0, 50.0])
def test_the_noise_of_the_bound_is_where_it_is_largest(X, beta):
    """For given noise the best weights keep the components above beta s2, and the rest is squared error."""
    spectrum = decompose(X / X.std(axis=0))

    def loss(log_noise):
        """Minus the bound of a linear VAE, but for constants (Lucas et al. 2019, eq. 12, with beta)."""
        noise = np.exp(log_noise)
        used = spectrum.variances[:3][spectrum.variances[:3] > beta * noise]
        squares = spectrum.total - used.sum() + beta * noise * len(used)
        return 0.5 * (8 * log_noise + squares / noise + beta * np.log(used / (beta * noise)).sum())

    found = np.log(bound_noise_variance(spectrum, 3, beta))
    grid = found + np.linspace(-0.5, 0.5, 21)
    losses = [loss(log_noise) for log_noise in grid]
    assert np.argmin(losses) == 10
    assert abs(loss(found + 1e-4) - loss(found - 1e-4)) < 1e-5


def test_the_error_of_a_sample_with_extreme_values_is_corrected():
    left_out = LeftOut(np.zeros((20, 3)), correction=0.5, prior_ratio=1.2)
    assert left_out.factor(3.0) == pytest.approx(1.2**0.2 * 1.5**0.8, rel=1e-12)


@pytest.mark.slow
def test_noise_variance_is_that_of_new_samples(network, digits):
    X, _ = digits
    model = network(16, random_state=0).fit(X[::2])
    level = lambda rows: ((rows - model.inverse_transform(model.transform(rows))) ** 2).mean()  # noqa: E731
    assert level(X[1::2]) > 1.2 * level(X[::2])  # the network overfits
    score, likelihood = model.score(X[1::2]), model.module_.likelihood
    for factor in (0.7, 2.0):
        likelihood.rescale(factor)
        assert model.score(X[1::2]) < score


@pytest.mark.slow
@pytest.mark.parametrize("X", [load_wine().data, load_breast_cancer().data], ids=["wine", "cancer"])
@pytest.mark.parametrize("nz", [2, 4])
def test_raw_tables_are_fitted_at_least_as_well_as_by_pca(network, X, nz):
    model = network(nz, random_state=0).fit(X[::2])
    assert model.score(X[1::2]) > PCAReducer(nz).fit(X[::2]).score(X[1::2]) - 0.5


@pytest.mark.slow
@pytest.mark.parametrize("nz", [1, 3])
def test_a_linear_network_scores_as_pca(network, X, nz):
    model = network(nz, hidden_sizes=(), random_state=0).fit(X)
    assert model.score(X) == pytest.approx(PCAReducer(nz).fit(X).score(X), abs=0.1)


@pytest.mark.parametrize("hidden_sizes", [None, (), (3,), (1,)])
@pytest.mark.parametrize("table", ["wide", "constant", "rank one", "few features"])
def test_any_table_has_a_start(network, rng, hidden_sizes, table):
    X = rng.standard_normal((40, 6))
    X = {"wide": X[:3], "constant": np.ones((9, 6)), "rank one": X[:, :1] * X[0], "few features": X[:, :2]}[table]
    model = network(3, hidden_sizes=hidden_sizes, max_epochs=2, random_state=0).fit(X)
    assert np.isfinite(model.score_samples(X)).all()
