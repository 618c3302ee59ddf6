import torch
from scipy.stats import multivariate_normal
from torch import distributions

from sklatent.priors import Normal, StandardNormal


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_log_prob_is_that_of_torch_distributions():
    z = normal(4, 5, 3)
    expected = distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(StandardNormal(3).log_prob(z), expected, rtol=1e-12, atol=1e-12)


def test_kl_is_that_of_torch_distributions():
    mu, log_var = normal(7, 3), normal(7, 3, seed=1)
    q = distributions.Normal(mu, (log_var / 2).exp())
    expected = distributions.kl_divergence(q, distributions.Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(StandardNormal(3).kl(mu, log_var), expected, rtol=1e-12, atol=1e-12)


def test_kl_is_the_general_gaussian_one():
    """Eq. 14.1 with full matrices, the prior's being the identity."""
    mu, log_var = normal(3), normal(3, seed=1)
    q = distributions.MultivariateNormal(mu, torch.diag(log_var.exp()))
    p = distributions.MultivariateNormal(torch.zeros_like(mu), torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(StandardNormal(3).kl(mu, log_var), distributions.kl_divergence(q, p))


def test_kl_is_zero_at_the_prior_and_least_there():
    zero = torch.zeros(1, 3, dtype=torch.float64)
    assert StandardNormal(3).kl(zero, zero).item() == 0
    assert (StandardNormal(3).kl(normal(100, 3), normal(100, 3, seed=1)) > 0).all()


def test_sample_is_repeatable_and_leaves_the_global_generator():
    state = torch.get_rng_state()
    first, second = (StandardNormal(3).sample(1000, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert (first.mean(0).abs() < 5 / 1000**0.5).all()


class TestNormal:
    mean = torch.tensor([1.0, -2.0], dtype=torch.float64)
    covariance = torch.tensor([[2.0, 0.6], [0.6, 0.5]], dtype=torch.float64)

    def test_log_prob_is_that_of_scipy(self):
        z = normal(7, 2)
        expected = multivariate_normal(self.mean, self.covariance).logpdf(z)
        torch.testing.assert_close(
            Normal(self.mean, self.covariance).log_prob(z), torch.as_tensor(expected), rtol=1e-12, atol=1e-12
        )

    def test_gradient_is_that_of_log_prob(self):
        prior, z = Normal(self.mean, self.covariance), normal(7, 2).requires_grad_()
        (expected,) = torch.autograd.grad(prior.log_prob(z).sum(), z)
        torch.testing.assert_close(prior.gradient(z), expected)

    def test_sample_has_its_moments(self):
        n = 100_000
        z = Normal(self.mean, self.covariance).sample(n, torch.Generator().manual_seed(0))
        variances = self.covariance.diagonal()
        assert ((z.mean(0) - self.mean).abs() < 5 * (variances / n).sqrt()).all()
        error = ((torch.outer(variances, variances) + self.covariance**2) / n).sqrt()
        assert ((z.T.cov() - self.covariance).abs() < 5 * error).all()
