import math

import pytest
import torch
from torch import distributions

from sklatent._nn.posteriors import POSTERIORS, DiagonalNormal, FullNormal


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reference(q):
    """The same density by torch.distributions."""
    if isinstance(q, DiagonalNormal):
        return distributions.MultivariateNormal(q.mu, torch.diag_embed(q.log_var.exp()))
    return distributions.MultivariateNormal(q.mu, scale_tril=q.factor)


@pytest.fixture(params=POSTERIORS)
def posterior(request):
    return POSTERIORS[request.param]


@pytest.fixture(params=[1, 2, 5])
def q(posterior, request):
    return posterior.from_code(normal(7, sum(posterior.blocks(request.param))))


def test_log_prob_is_that_of_torch_distributions(q):
    z = 2 * normal(4, *q.mu.shape, seed=1)
    torch.testing.assert_close(q.log_prob(z), reference(q).log_prob(z), rtol=1e-12, atol=1e-12)


def test_pull_back_is_the_chain_rule(q):
    eps = normal(*q.mu.shape, seed=1).requires_grad_()
    gradients = normal(*q.mu.shape, 3, seed=2)
    pulled = [torch.autograd.grad(q.sample(eps), eps, g)[0] for g in gradients.unbind(-1)]
    torch.testing.assert_close(q.pull_back(gradients), torch.stack(pulled, dim=-1), rtol=1e-12, atol=1e-12)


def test_kl_is_the_general_gaussian_one(q):
    """Eq. 14.1 with full matrices, the prior's being the identity."""
    nz = q.mu.shape[-1]
    p = distributions.MultivariateNormal(torch.zeros(nz).double(), torch.eye(nz, dtype=torch.float64))
    expected = distributions.kl_divergence(reference(q), p)
    torch.testing.assert_close(q.kl_standard_normal(), expected, rtol=1e-12, atol=1e-12)


def test_moments_are_those_of_torch_distributions(q):
    torch.testing.assert_close(q.variances, reference(q).variance, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        q.log_pivots.sum(-1), torch.logdet(reference(q).covariance_matrix), rtol=1e-10, atol=1e-10
    )


def test_draws_and_their_densities_agree(q):
    eps = normal(4, *q.mu.shape, seed=1)
    z = q.sample(eps)
    torch.testing.assert_close(q.whiten(z), eps, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(q.log_prob_of(eps), reference(q).log_prob(z), rtol=1e-10, atol=1e-10)


def test_draws_have_the_covariance(posterior):
    q, n = posterior.from_code(normal(1, sum(posterior.blocks(3)))), 200_000
    z = q.sample(normal(n, 3, seed=3))
    covariance = reference(q).covariance_matrix[0]
    variances = covariance.diagonal()
    assert ((z.mean(0) - q.mu[0]).abs() < 5 * (variances / n).sqrt()).all()
    error = ((torch.outer(variances, variances) + covariance**2) / n).sqrt()
    assert ((z.T.cov() - covariance).abs() < 5 * error).all()


def test_draws_are_differentiable_in_every_number_of_the_code(posterior):
    code, eps = normal(2, sum(posterior.blocks(3))).requires_grad_(), normal(2, 3, seed=1)
    assert torch.autograd.gradcheck(lambda code: posterior.from_code(code).sample(eps), code)


def test_kl_is_zero_at_the_prior_and_positive_elsewhere(posterior, q):
    zero = torch.zeros(1, sum(posterior.blocks(3)), dtype=torch.float64)
    assert posterior.from_code(zero).kl_standard_normal().item() == 0
    assert (q.kl_standard_normal() > 0).all()


def test_full_with_nothing_below_the_diagonal_is_diagonal():
    code = normal(7, sum(FullNormal.blocks(3)))
    code[:, 6:] = 0
    full, diagonal = FullNormal.from_code(code), DiagonalNormal.from_code(code[:, :6])
    torch.testing.assert_close(full.factor, torch.diag_embed((diagonal.log_var / 2).exp()))
    torch.testing.assert_close(full.kl_standard_normal(), diagonal.kl_standard_normal())


@pytest.mark.parametrize("nz", range(1, 20))
def test_full_reads_its_width_from_the_code(nz):
    q = FullNormal.from_code(normal(2, sum(FullNormal.blocks(nz))))
    assert q.mu.shape == (2, nz)
    assert sum(FullNormal.blocks(nz)) == nz + nz * (nz + 1) // 2
    assert math.isfinite(q.log_pivots.sum(-1).sum())


def test_marginals_are_those_of_the_moments(q):
    marginals = q.marginals()
    torch.testing.assert_close(marginals.mu, q.mu)
    torch.testing.assert_close(marginals.variances, reference(q).variance, rtol=1e-12, atol=1e-12)


def test_divergence_of_small_deviations_keeps_its_digits():
    """Close to N(0, 1) it is (mu^2 + log_var^2 / 2) / 2, which the difference of a variance and 1 would lose."""
    q = DiagonalNormal(torch.tensor([0.0, 1e-4]), torch.tensor([1e-3, 0.0]))
    torch.testing.assert_close(q.kl_terms(), torch.tensor([0.25e-6, 0.5e-8]), rtol=1e-3, atol=0)
