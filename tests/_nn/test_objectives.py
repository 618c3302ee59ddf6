"""Bounds against the one model whose evidence and posterior are known: a linear decoder with Gaussian noise."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import distributions, nn

from sklatent._nn.likelihoods import Bernoulli, Gaussian, Standardizer
from sklatent._nn.objectives import elbo_terms, importance_bound, reconstruction_terms
from sklatent._nn.posteriors import DiagonalNormal
from sklatent._nn.priors import StandardNormal

N_FEATURES = 5


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class LinearGaussian(nn.Module):
    """x = loc + scale (w z + s eps) with one z: the posterior is normal, so a diagonal q can be exact.

    `shift` and `stretch` put q off the posterior.
    """

    def __init__(self, shift=0.0, stretch=0.0):
        super().__init__()
        self.likelihood = Gaussian(
            Standardizer(normal(N_FEATURES, seed=2), 2.0, torch.full((N_FEATURES,), 4.0))
        ).double()
        nn.init.constant_(self.likelihood.log_variance, -0.7)
        self.prior = StandardNormal(1)
        self.decoder = self.decode = nn.Linear(1, N_FEATURES, bias=False).double()
        with torch.no_grad():
            self.decoder.weight.copy_(normal(N_FEATURES, 1, seed=3))
        self.shift, self.stretch = shift, stretch

    def exact_posterior(self, x):
        w, s2 = self.decoder.weight[:, 0], self.likelihood.log_variance.exp()
        variance = 1 / (1 + w.square().sum() / s2)
        mu = variance * (self.likelihood.standardizer(x) @ w) / s2
        return mu[:, None], variance.log().expand(len(x), 1)

    def log_likelihood(self, x):
        return lambda z: self.likelihood.log_prob(self.likelihood.standardizer(x), self.decode(z))

    def posterior(self, x):
        mu, log_var = self.exact_posterior(x)
        return DiagonalNormal(mu + self.shift, log_var + self.stretch)

    def log_evidence(self, x):
        w, s2 = self.decoder.weight.detach(), self.likelihood.log_variance.exp().item()
        covariance = 4.0 * (w @ w.T + s2 * torch.eye(N_FEATURES, dtype=torch.float64))
        return torch.as_tensor(multivariate_normal(self.likelihood.standardizer.loc, covariance).logpdf(x))


@pytest.fixture
def x():
    return 2 * normal(6, N_FEATURES, seed=4)


def elbo(model, x):
    """ELBO, its expectation over z by Gauss-Hermite quadrature: exact, since ln p(x | z) is quadratic in z."""
    nodes, weights = (torch.as_tensor(a) for a in np.polynomial.hermite_e.hermegauss(5))
    terms = [
        elbo_terms(model.log_likelihood(x), model.posterior(x), model.prior, node.expand(len(x), 1)) for node in nodes
    ]
    values = torch.stack([part.log_prob - part.kl for part in terms])
    return (weights[:, None] * values).sum(0) / math.sqrt(2 * math.pi)


def bound(model, x, eps):
    return importance_bound(model.log_likelihood(x), model.posterior(x), model.prior, eps)


def test_elbo_is_the_evidence_where_q_is_the_posterior(x):
    model = LinearGaussian()
    with torch.no_grad():
        torch.testing.assert_close(elbo(model, x), model.log_evidence(x), rtol=1e-10, atol=1e-10)


def test_gap_of_the_elbo_is_the_divergence_from_the_posterior(x):
    model = LinearGaussian(shift=0.3, stretch=0.5)
    q = distributions.Normal(*_moments(model.posterior(x)))
    posterior = distributions.Normal(*_moments(model.exact_posterior(x)))
    with torch.no_grad():
        gap = model.log_evidence(x) - elbo(model, x)
        torch.testing.assert_close(gap, distributions.kl_divergence(q, posterior)[:, 0], rtol=1e-10, atol=1e-10)


def _moments(posterior):
    mu, log_var = posterior
    return mu.detach(), (log_var / 2).exp().detach()


@pytest.mark.parametrize("n_draws", [1, 7])
def test_importance_bound_is_the_evidence_for_any_draw_where_q_is_the_posterior(x, n_draws):
    model = LinearGaussian()
    with torch.no_grad():
        found = bound(model, x, normal(n_draws, len(x), 1, seed=5))
        torch.testing.assert_close(found, model.log_evidence(x), rtol=1e-10, atol=1e-10)


def test_importance_weights_average_to_the_evidence(x):
    model = LinearGaussian(shift=0.1, stretch=0.3)
    x, n = x[:1], 200_000
    with torch.no_grad():
        weights = (bound(model, x.expand(n, -1), normal(1, n, 1)) - model.log_evidence(x)).exp()
    assert abs(weights.mean().item() - 1) < 5 * weights.std().item() / math.sqrt(n)


def test_more_draws_never_lower_the_mean_bound(x):
    model = LinearGaussian(shift=0.5, stretch=0.5)
    n = 20_000
    with torch.no_grad():
        bounds = [bound(model, x[:1].expand(n // k, -1), normal(k, n // k, 1, seed=k)) for k in (1, 10, 100)]
    for fewer, more in pairwise(bounds):
        error = math.sqrt(fewer.var().item() / len(fewer) + more.var().item() / len(more))
        assert more.mean() > fewer.mean() - 5 * error
    assert bounds[2].mean() > bounds[0].mean()
    assert bounds[2].mean() <= model.log_evidence(x)[0] + 5 * bounds[2].std() / math.sqrt(len(bounds[2]))


def test_a_bernoulli_decoder_sums_to_one_over_all_rows():
    """By Gauss-Hermite quadrature over one z, p(x) sums to 1 over all 256 rows."""
    nodes, weights = (torch.as_tensor(a) for a in np.polynomial.hermite_e.hermegauss(60))
    rows = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 8)
    likelihood = Bernoulli(Standardizer(torch.zeros(8), 1.0, torch.ones(8)))
    eta = torch.tanh(nodes[:, None] * normal(1, 8)) * 2 + normal(1, 8, seed=1)
    log_prob = likelihood.log_prob(rows, eta[:, None].expand(-1, 256, -1))  # (nodes, rows)
    total = (log_prob.exp().sum(1) * weights).sum() / math.sqrt(2 * math.pi)
    assert total.item() == pytest.approx(1, abs=1e-10)


def test_reparameterized_elbo_has_the_gradient_of_finite_differences(x):
    model = LinearGaussian()
    eps = normal(len(x), 1)

    def loss(mu, log_var):
        q = DiagonalNormal(mu, log_var)
        return model.prior.kl(q, eps) - model.log_likelihood(x)(q.sample(eps))

    assert torch.autograd.gradcheck(loss, [part.detach().clone().requires_grad_() for part in model.posterior(x)])


def test_reconstruction_terms_are_the_likelihood_at_the_code(x):
    model = LinearGaussian()
    z = model.posterior(x).mu
    terms = reconstruction_terms(model.log_likelihood(x), z)
    expected = model.likelihood.log_prob(model.likelihood.standardizer(x), model.decode(z))
    torch.testing.assert_close(terms.log_prob, expected)
    assert not terms.kl.any()
