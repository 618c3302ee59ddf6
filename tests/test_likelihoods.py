import math

import pytest
import torch
from torch import distributions

from sklatent.likelihoods import MIN_VARIANCE, Bernoulli, Gaussian, Standardizer


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def standardizer():
    return Standardizer(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64), 2.5)


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_standardizer_inverts(standardizer):
    x = normal(5, 3)
    torch.testing.assert_close(standardizer.inverse(standardizer(x, torch.float64)), x, rtol=1e-14, atol=1e-14)


def test_standardizer_keeps_the_digits_of_float64_rows_far_from_the_origin():
    loc = torch.full((3,), 1e9, dtype=torch.float64)
    x = normal(5, 3)
    torch.testing.assert_close(Standardizer(loc, 1.0)(x + loc, torch.float32), x.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("link", ["identity", "sigmoid"])
@pytest.mark.parametrize("log_variance", [-1.5, 0.0, 2.0])
def test_gaussian_is_that_of_torch_distributions(standardizer, link, log_variance):
    likelihood = Gaussian(standardizer, link).double()
    torch.nn.init.constant_(likelihood.log_variance, log_variance)
    x, eta = normal(5, 3), normal(4, 5, 3)
    expected = distributions.Normal(likelihood.mean(eta), math.sqrt(likelihood.noise_variance))
    torch.testing.assert_close(likelihood.log_prob(x, eta), expected.log_prob(x).sum(-1), rtol=1e-12, atol=1e-12)


def test_gaussian_mean_is_in_the_units_of_the_data(standardizer):
    torch.testing.assert_close(Gaussian(standardizer).mean(torch.zeros(1, 3)), standardizer.loc[None].float())
    assert 0 < Gaussian(standardizer, "sigmoid").mean(normal(1, 3)).min() < 1


def test_gaussian_takes_a_variance_in_the_units_of_the_data(standardizer):
    likelihood = Gaussian(standardizer).double()
    likelihood.set_noise_variance(3.0)
    assert likelihood.noise_variance == pytest.approx(3.0, rel=1e-12)


def test_gaussian_variance_has_a_floor(standardizer):
    likelihood = Gaussian(standardizer)
    likelihood.set_noise_variance(0.0)
    assert likelihood.noise_variance == pytest.approx(MIN_VARIANCE * 2.5**2)
    torch.nn.init.constant_(likelihood.log_variance, -1e6)
    assert likelihood.noise_variance == pytest.approx(MIN_VARIANCE * 2.5**2)


@pytest.mark.parametrize("likelihood", [Gaussian, lambda s: Gaussian(s, "sigmoid"), Bernoulli], ids=str)
def test_gradient_and_information_are_those_of_log_prob(standardizer, likelihood, generator):
    """The derivative by autograd; and its square by many draws of x."""
    model = likelihood(standardizer)
    eta = normal(1, 3).requires_grad_()
    x = model.sample(eta.detach().expand(100_000, 3), generator)
    (expected,) = torch.autograd.grad(model.log_prob(x[:1], eta), eta)
    torch.testing.assert_close(model.gradient(x[:1], eta.detach()), expected)
    squares = model.gradient(x, eta.detach()).square()
    error = 5 * squares.std(0) / math.sqrt(len(x))
    assert ((squares.mean(0) - model.information(eta.detach())).abs() < error + 1e-12).all()


@pytest.mark.parametrize("levels", [1, 255])
def test_bernoulli_is_that_of_torch_distributions(standardizer, levels, generator):
    x = torch.randint(levels + 1, (5, 3), generator=generator) / levels
    x = x.double()
    eta = 3 * normal(4, 5, 3)
    expected = distributions.Bernoulli(logits=eta, validate_args=False).log_prob(x).sum(-1)
    torch.testing.assert_close(Bernoulli(standardizer).log_prob(x, eta), expected, rtol=1e-12, atol=1e-12)


def test_bernoulli_sums_to_one_over_all_rows(standardizer):
    rows = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 8)
    log_prob = Bernoulli(standardizer).log_prob(rows, normal(1, 8).expand(256, 8))
    assert torch.logsumexp(log_prob, 0).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("likelihood", [Gaussian, Bernoulli])
def test_samples_have_the_moments_of_the_likelihood(standardizer, likelihood, generator):
    n = 100_000
    model = likelihood(standardizer)
    eta = normal(1, 3)
    mean = model.mean(eta)[0]
    rows = model.sample(eta.expand(n, 3), generator)
    if likelihood is Bernoulli:
        variance, fourth = mean * (1 - mean), mean * (1 - mean) * (1 - 3 * mean * (1 - mean))
    else:
        variance = torch.full((3,), model.noise_variance)
        fourth = 3 * variance**2
    assert ((rows.mean(0) - mean).abs() < 5 * (variance / n).sqrt()).all()
    assert ((rows.var(0) - variance).abs() < 5 * ((fourth - variance**2) / n).sqrt()).all()
