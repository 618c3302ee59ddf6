import pytest
import torch
from scipy.stats import multivariate_normal
from torch import distributions

from sklatent._nn.posteriors import DiagonalNormal, FullNormal
from sklatent._nn.priors import GaussianMixturePrior, Normal, StandardNormal, VampPrior


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_log_prob_is_that_of_torch_distributions():
    z = normal(4, 5, 3)
    expected = distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(StandardNormal(3).log_prob(z), expected, rtol=1e-12, atol=1e-12)


def test_kl_needs_no_draws():
    q = DiagonalNormal(normal(7, 3), normal(7, 3, seed=1))
    torch.testing.assert_close(StandardNormal(3).kl(q, normal(7, 3)), q.kl_standard_normal())


def test_kl_per_dimension_is_that_of_the_marginals():
    mu, log_var = normal(7, 3), normal(7, 3, seed=1)
    q = distributions.Normal(mu, (log_var / 2).exp())
    expected = distributions.kl_divergence(q, distributions.Normal(0.0, 1.0))
    found = StandardNormal(3).kl_per_dimension(DiagonalNormal(mu, log_var), normal(7, 3))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_normal_near_is_the_standard_normal_itself():
    z = normal(4, 3)
    torch.testing.assert_close(StandardNormal(3).normal_near(z).log_prob(z), StandardNormal(3).log_prob(z))


class TestMixture:
    def test_normal_near_has_the_gradient_of_the_mixture(self):
        z = (3 * normal(6, 3, seed=3)).requires_grad_()
        density = self.prior().density(None)
        (expected,) = torch.autograd.grad(density.log_prob(z).sum(), z)
        near = density.normal_near(z.detach())
        (found,) = torch.autograd.grad(near.log_prob(z).sum(), z)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)

    def test_normal_near_a_single_component_is_that_component(self):
        prior = GaussianMixturePrior(normal(1, 3)).double()
        z = normal(6, 3, seed=3)
        density = prior.density(None)
        torch.testing.assert_close(density.normal_near(z).log_prob(z), density.log_prob(z), rtol=1e-10, atol=1e-10)

    def prior(self):
        prior = GaussianMixturePrior(2 * normal(4, 3)).double()
        with torch.no_grad():
            prior.logits.copy_(normal(4, seed=1))
            prior.log_var.copy_(normal(4, 3, seed=2))
        return prior

    def reference(self, prior):
        components = distributions.Independent(distributions.Normal(prior.means, (prior.log_var / 2).exp()), 1)
        return distributions.MixtureSameFamily(distributions.Categorical(logits=prior.logits), components)

    def test_log_prob_is_that_of_torch_distributions(self):
        prior, z = self.prior(), normal(5, 7, 3)
        torch.testing.assert_close(
            prior.density(None).log_prob(z), self.reference(prior).log_prob(z), rtol=1e-12, atol=1e-12
        )

    def test_kl_averages_to_the_divergence(self):
        """Against the mean of the difference of the densities of torch.distributions, by its own draws."""
        prior, n = self.prior(), 200_000
        mu, log_var = normal(1, 3).expand(n, 3), normal(1, 3, seed=5).expand(n, 3)
        q = distributions.Independent(distributions.Normal(mu[0], (log_var[0] / 2).exp()), 1)
        with torch.no_grad():
            found = prior.density(None).kl(DiagonalNormal(mu, log_var), normal(n, 3, seed=8))
            z = mu[0] + (log_var[0] / 2).exp() * normal(n, 3, seed=9)
            expected = q.log_prob(z) - self.reference(prior).log_prob(z)
        error = ((found.var() + expected.var()) / n).sqrt()
        assert (found.mean() - expected.mean()).abs() < 5 * error

    def test_kl_per_dimension_of_one_dimension_is_the_kl(self):
        prior = GaussianMixturePrior(2 * normal(4, 1)).double()
        q, eps = DiagonalNormal(normal(7, 1), normal(7, 1, seed=1)), normal(7, 1, seed=2)
        density = prior.density(None)
        torch.testing.assert_close(density.kl_per_dimension(q, eps)[:, 0], density.kl(q, eps))

    def test_sample_has_its_moments(self):
        prior, n = self.prior(), 100_000
        with torch.no_grad():
            z = prior.density(None).sample(n, torch.Generator().manual_seed(0))
        reference = self.reference(prior)
        assert ((z.mean(0) - reference.mean).abs() < 5 * (reference.variance / n).sqrt()).all()
        # Five standard errors of a variance, where the kurtosis is at most 5.
        torch.testing.assert_close(z.var(0), reference.variance.detach(), rtol=5 * (4 / n) ** 0.5, atol=0)


@pytest.mark.parametrize("nz", [1, 3])
def test_vamp_is_the_mean_of_the_posteriors_of_its_inputs(nz):
    """Tomczak & Welling (2018), eq. 9, with full posteriors."""
    prior = VampPrior(normal(4, 6))
    weights = normal(6, sum(FullNormal.blocks(nz)), seed=1) / 3
    posterior = lambda h: FullNormal.from_code(h @ weights)  # noqa: E731
    q, z = posterior(prior.pseudo_inputs), normal(7, nz)
    each = [distributions.MultivariateNormal(mu, scale_tril=factor).log_prob(z) for mu, factor in zip(*q, strict=True)]
    expected = torch.logsumexp(torch.stack(each), dim=0) - torch.log(torch.tensor(4.0))
    torch.testing.assert_close(prior.density(posterior).log_prob(z), expected)


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

    def test_sample_has_its_moments(self):
        n = 100_000
        z = Normal(self.mean, self.covariance).sample(n, torch.Generator().manual_seed(0))
        variances = self.covariance.diagonal()
        assert ((z.mean(0) - self.mean).abs() < 5 * (variances / n).sqrt()).all()
        error = ((torch.outer(variances, variances) + self.covariance**2) / n).sqrt()
        assert ((z.T.cov() - self.covariance).abs() < 5 * error).all()
