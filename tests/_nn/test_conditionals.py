"""Conditional log-densities of the networks, against exact posteriors and quadrature over the latent space."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from sklatent._nn.conditionals import importance_conditionals, laplace_conditionals, residual_conditionals
from sklatent._nn.likelihoods import LIKELIHOODS, Gaussian, Standardizer
from sklatent._nn.objectives import log_weights
from sklatent._nn.posteriors import FullNormal
from sklatent._nn.priors import Normal, StandardNormal

N_FEATURES, NZ = 5, 2


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Model(nn.Module):
    """A decoder with a likelihood and the prior N(0, I), and the posterior of its linear part with Gaussian noise."""

    def __init__(self, likelihood="gaussian", bend=0.0, noise=0.3):
        super().__init__()
        zeros, ones = torch.zeros(N_FEATURES).double(), torch.ones(N_FEATURES).double()
        self.likelihood = LIKELIHOODS[likelihood](Standardizer(zeros, 1.0, ones)).double()
        self.noise, self.bend = noise, bend
        if isinstance(self.likelihood, Gaussian):
            self.likelihood.set_noise_variance(torch.full((N_FEATURES,), noise, dtype=torch.float64))
        self.decoder = nn.Linear(NZ, N_FEATURES, bias=False).double()
        nn.init.zeros_(self.decoder.weight).data.copy_(normal(N_FEATURES, NZ, seed=3))
        self.prior = Normal(torch.zeros(NZ).double(), torch.eye(NZ).double())

    def decode(self, z):
        eta = self.decoder(z)
        return eta + self.bend * torch.sin(eta)

    def target(self, x):
        return x

    def prior_density(self):
        return StandardNormal(NZ)

    def posterior(self, x):
        W = self.decoder.weight
        covariance = torch.linalg.inv(torch.eye(NZ).double() + W.T @ W / self.noise)
        mu = x @ W @ covariance / self.noise
        return FullNormal(mu, torch.linalg.cholesky(covariance).expand(len(x), NZ, NZ))

    def encode(self, x):
        return self.posterior(x).mu

    def draw(self, n_samples):
        return self.likelihood.sample(self.decode(normal(n_samples, NZ, seed=5)), torch.Generator().manual_seed(6))


def by_quadrature(model, x):
    """ln p(x_j | x_-j) by sums over a grid of latent codes."""
    grid = torch.linspace(-7, 7, 201, dtype=torch.float64)
    z = torch.cartesian_prod(grid, grid)[:, None]  # (n_nodes, 1, nz)
    log_probs = model.likelihood.feature_log_probs(x, model.decode(z))  # (n_nodes, n, n_features)
    log_joint = log_probs.sum(-1, keepdim=True) - 0.5 * z.square().sum(-1, keepdim=True)
    return log_joint.logsumexp(0) - (log_joint - log_probs).logsumexp(0)


def of_the_formula(model, x, eps):
    """The mean of w f alone."""
    q = model.posterior(x)
    z = q.sample(eps)
    log_probs = model.likelihood.feature_log_probs(x, model.decode(z))
    weights = log_weights(log_probs.sum(-1), q, model.prior_density(), z, eps)[..., None]
    return weights.logsumexp(0) - (weights - log_probs).logsumexp(0)


@pytest.fixture
def x():
    return 2 * normal(20, N_FEATURES, seed=4)


@pytest.mark.parametrize("n_draws", [1, 2, 32])
@torch.no_grad
def test_importance_samples_are_exact_where_q_is_the_posterior(x, n_draws):
    """Quadrature of a smooth integrand on an equidistant grid is exact to rounding."""
    model = Model()
    scores = importance_conditionals(model, x, normal(n_draws, len(x), NZ, seed=1))
    torch.testing.assert_close(scores, by_quadrature(model, x), rtol=1e-8, atol=1e-8)


@torch.no_grad
def test_laplace_is_exact_for_a_linear_decoder(x):
    model = Model()
    torch.testing.assert_close(laplace_conditionals(model, x), by_quadrature(model, x), rtol=1e-8, atol=1e-8)


@torch.no_grad
def test_residuals_are_the_likelihood_at_the_latent_code(x):
    model = Model()
    scores = residual_conditionals(model, x)
    expected = torch.distributions.Normal(model.decode(model.encode(x)), math.sqrt(model.noise)).log_prob(x)
    torch.testing.assert_close(scores, expected, rtol=1e-7, atol=1e-7)  # the variance is kept as a float32 logarithm


# q is made from the noise that has the Fisher information of the likelihood at eta = 0. For counts that would be 1, but
# large counts would lead to a q far from the posterior.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("likelihood", "noise"), [("gaussian", 0.3), ("bernoulli", 4.0), ("continuous_bernoulli", 12.0), ("poisson", 10.0)]
)
@torch.no_grad
def test_importance_samples_converge_for_a_curved_decoder(likelihood, noise):
    model = Model(likelihood, bend=0.2, noise=noise)
    x = model.draw(20)
    expected = by_quadrature(model, x)
    few, many = (importance_conditionals(model, x, normal(n, len(x), NZ, seed=1)) - expected for n in (10, 20_000))
    assert many.abs().mean() < 0.01  # Monte Carlo error
    assert many.abs().mean() < few.abs().mean() / 4


@torch.no_grad
def test_few_importance_samples_are_worth_many_of_the_formula(x):
    model = Model(bend=0.1)
    expected = by_quadrature(model, x)
    ours = importance_conditionals(model, x, normal(32, len(x), NZ, seed=1))
    formula = of_the_formula(model, x, normal(1000, len(x), NZ, seed=1))
    assert (ours - expected).abs().mean() < (formula - expected).abs().mean()


@pytest.mark.slow
@pytest.mark.parametrize("bend", [0.5, 2.0])
@pytest.mark.parametrize("likelihood", ["gaussian", "poisson"])
@torch.no_grad
def test_the_correction_is_dropped_where_the_decoder_is_not_linear(x, likelihood, bend):
    """It must not be worse than the formula for outliers, whose correction is extrapolated far."""
    model = Model(likelihood, bend=bend)
    x = 3 * x if likelihood == "gaussian" else (5 * x).abs().round()
    expected, eps = by_quadrature(model, x), normal(32, len(x), NZ, seed=1)
    error = (importance_conditionals(model, x, eps) - expected).abs().mean()
    assert error < 1.05 * (of_the_formula(model, x, eps) - expected).abs().mean()


@torch.no_grad
def test_laplace_is_close_for_a_curved_decoder():
    model = Model(bend=0.1)
    x = model.draw(20)
    error = (laplace_conditionals(model, x) - by_quadrature(model, x)).abs()
    assert error.mean() < 0.05  # the error of Laplace's approximation itself


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 4.0), (0.0, 0.2), (3.0, 1.0)])
@torch.no_grad
def test_a_linear_decoder_needs_no_good_posterior(x, shift, scale):
    model = Model()
    exact = model.posterior
    model.posterior = lambda x: FullNormal(exact(x).mu + shift, scale * exact(x).factor)
    scores = importance_conditionals(model, x, normal(32, len(x), NZ, seed=1))
    torch.testing.assert_close(scores, by_quadrature(model, x), rtol=1e-8, atol=1e-8)


@torch.no_grad
def test_a_feature_that_the_decoder_ignores(x):
    model = Model()
    model.decoder.weight[0] = 0
    expected = torch.distributions.Normal(0.0, math.sqrt(model.noise)).log_prob(x[:, 0])
    for scores in (
        importance_conditionals(model, x, normal(8, len(x), NZ, seed=1)),
        laplace_conditionals(model, x),
    ):
        torch.testing.assert_close(scores[:, 0], expected, rtol=1e-7, atol=1e-7)  # a variance as a float32 logarithm


@torch.no_grad
def test_an_importance_sample_that_overflows_leaves_the_others(x):
    model, eps = Model("poisson"), normal(32, len(x), NZ, seed=1)
    eps[3] = 1e6  # whose rates are beyond float64
    assert np.isfinite(importance_conditionals(model, x.abs().round(), eps).numpy()).all()
