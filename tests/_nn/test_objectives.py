"""Bounds against the one model whose evidence and posterior are known: a linear decoder with Gaussian noise."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import distributions, nn

from sklatent._nn.likelihoods import Bernoulli, Gaussian, Standardizer
from sklatent._nn.objectives import (
    ImportanceTerms,
    elbo_terms,
    gauss_newton,
    gauss_newton_codes,
    importance_bound,
    importance_terms,
    reconstruction_terms,
)
from sklatent._nn.posteriors import DiagonalNormal, FullNormal
from sklatent._nn.priors import GaussianMixturePrior, StandardNormal

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


# The importance-weighted objective


def importance_terms_of(model, x, eps):
    return importance_terms(model.log_likelihood(x), model.posterior(x), model.prior, eps)


def test_importance_terms_equal_torch_distributions(x):
    """With a full covariance of q and a prior that is a mixture, beside PyTorch's own densities."""
    n_draws, nz = 3, 2
    eps, code = normal(n_draws, len(x), nz, seed=6), normal(len(x), 5, seed=7)
    q = FullNormal.from_code(code)
    prior = GaussianMixturePrior(normal(4, nz, seed=8)).density(None)
    decoder = nn.Linear(nz, N_FEATURES).double()
    likelihood = Gaussian(Standardizer(normal(N_FEATURES, seed=2), 2.0, torch.full((N_FEATURES,), 4.0))).double()
    terms = importance_terms(lambda z: likelihood.log_prob(likelihood.standardizer(x), decoder(z)), q, prior, eps)

    theirs_q = distributions.MultivariateNormal(q.mu, scale_tril=q.factor)
    z = q.mu + (q.factor @ eps[..., None])[..., 0]
    components = distributions.Independent(distributions.Normal(prior.components.mu, torch.ones(())), 1)
    theirs_p = distributions.MixtureSameFamily(distributions.Categorical(logits=torch.zeros(4)), components)
    scale = 2.0 * likelihood.log_variance.exp().sqrt()
    theirs_x = distributions.Normal(likelihood.standardizer.inverse(decoder(z)), scale)
    log_weights = theirs_x.log_prob(x).sum(-1) + theirs_p.log_prob(z) - theirs_q.log_prob(z)
    expected = log_weights.exp().mean(0).log()
    torch.testing.assert_close(terms.bound(), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(terms.weighted(1.0), -expected, rtol=1e-9, atol=1e-9)

    # The gradient of the objective is the mean of those of ln w with the normalized weights (Burda et al., eq. 13).
    parameters = list(decoder.parameters())
    found = torch.autograd.grad(terms.weighted(1.0).sum(), parameters, retain_graph=True)
    shares = (log_weights - log_weights.logsumexp(0)).exp().detach()
    by_hand = torch.autograd.grad(-(shares * log_weights).sum(), parameters)
    for ours, theirs in zip(found, by_hand, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_importance_objective_is_the_evidence_without_variance_where_q_is_the_posterior(x):
    """Every weight is p(x), so the terms are those of the exact posterior for any random numbers."""
    model = LinearGaussian()
    with torch.no_grad():
        losses = torch.stack(
            [importance_terms_of(model, x, normal(5, len(x), 1, seed=k)).weighted(1.0) for k in (1, 2)]
        )
        torch.testing.assert_close(losses, -model.log_evidence(x).expand_as(losses), rtol=1e-10, atol=1e-10)
        rate = importance_terms_of(model, x, normal(200_000, len(x), 1)).averages().kl
        posterior = distributions.Normal(*_moments(model.exact_posterior(x)))
        expected = distributions.kl_divergence(posterior, distributions.Normal(0.0, 1.0))[:, 0]
        torch.testing.assert_close(rate, expected.double(), rtol=0.02, atol=0.02)  # Monte Carlo error of some 0.005


def test_averages_of_importance_terms_are_those_of_the_posterior_for_any_q(x):
    """The normalized weights turn samples from q into samples from p(z | x)."""
    model = LinearGaussian(shift=0.2, stretch=0.4)
    nodes, weights = (torch.as_tensor(a) for a in np.polynomial.hermite_e.hermegauss(5))
    mu, deviation = _moments(model.exact_posterior(x))
    with torch.no_grad():
        at_nodes = torch.stack([model.log_likelihood(x)(mu + deviation * node) for node in nodes])
        distortion = (weights[:, None] * at_nodes).sum(0) / math.sqrt(2 * math.pi)
        found = importance_terms_of(model, x, normal(200_000, len(x), 1)).averages()
    torch.testing.assert_close(found.log_prob, distortion, rtol=0.02, atol=0.02)
    torch.testing.assert_close(found.log_prob - found.kl, model.log_evidence(x), rtol=1e-3, atol=5e-3)


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0])
def test_warm_up_of_one_importance_sample_is_that_of_the_elbo(x, factor):
    """In expectation, by quadrature: the weights hold (p / q) to the power of the factor."""
    model = LinearGaussian(shift=0.3, stretch=0.5)
    nodes, weights = (torch.as_tensor(a) for a in np.polynomial.hermite_e.hermegauss(5))
    q = model.posterior(x)
    with torch.no_grad():
        ours = [importance_terms_of(model, x, node.expand(1, len(x), 1)).weighted(factor) for node in nodes]
        theirs = [elbo_terms(model.log_likelihood(x), q, model.prior, node.expand(len(x), 1)) for node in nodes]
        losses = (torch.stack(values) for values in (ours, [terms.weighted(factor) for terms in theirs]))
        found, expected = ((weights[:, None] * values).sum(0) / math.sqrt(2 * math.pi) for values in losses)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_importance_weights_that_overflow_count_as_zero():
    terms = ImportanceTerms(*torch.tensor([[[0.0], [math.inf]], [[0.0], [0.0]], [[0.0], [0.0]]]))
    assert terms.bound().item() == pytest.approx(-math.log(2))
    assert terms.averages().log_prob.item() == 0


class Curved(nn.Module):
    """A decoder with a hidden layer, for samples in {0, 1}, whose encoder returns given latent codes."""

    def __init__(self, z, n_features):
        super().__init__()
        standardizer = Standardizer(torch.zeros(n_features), 1.0, torch.ones(n_features))
        self.likelihood = Bernoulli(standardizer).double()
        torch.manual_seed(0)
        self.decoder = nn.Sequential(nn.Linear(z.shape[1], 7), nn.SiLU(), nn.Linear(7, n_features)).double()
        self.decode, self.encode, self.target = self.decoder, lambda x: z, lambda x: x


@pytest.mark.parametrize("nz", [1, 3])
def test_gauss_newton_is_the_gradient_and_the_fisher_information(nz, monkeypatch):
    monkeypatch.setattr("sklatent._nn.objectives.EXPANSION_ROWS", 4)  # several parts
    z = normal(11, nz)
    model, x = Curved(z, 6), (normal(11, 6, seed=1) > 0).double()
    found = gauss_newton(model, x, z)
    for k in range(len(x)):
        jacobian = torch.func.jacrev(model.decode)(z[k])
        p = model.decode(z[k]).sigmoid()
        torch.testing.assert_close(found.gradient[k], jacobian.T @ (x[k] - p))
        torch.testing.assert_close(found.information[k], jacobian.T @ torch.diag(p * (1 - p)) @ jacobian)


def test_latent_codes_have_the_inverse_information_with_floored_eigenvalues_as_covariance():
    """One feature tells one of two directions at most; two features tell both, however differently."""
    z = normal(5, 2)
    for weights in ([[1.0, 2.0]], [[1.0, 0.0], [0.0, 1e-6]], [[1.0, 0.0], [0.5, 0.1]]):
        model, x = Curved(z, len(weights)), torch.zeros(5, len(weights), dtype=torch.float64)
        model.decoder = model.decode = nn.Linear(2, len(weights), bias=False).double()
        model.decoder.weight.data = torch.tensor(weights, dtype=torch.float64)
        _, covariance = gauss_newton_codes(model, x)
        p = (z @ model.decoder.weight.T).sigmoid()
        information = np.einsum("ij,jk,jl->ikl", (p * (1 - p)).detach(), weights, weights)
        values, vectors = np.linalg.eigh(information)
        expected = (vectors / np.maximum(values, 1e-9 * values[:, -1:])[:, None]) @ vectors.swapaxes(1, 2)
        np.testing.assert_allclose(covariance.detach(), expected, rtol=1e-9, atol=1e-9 * expected.max())
