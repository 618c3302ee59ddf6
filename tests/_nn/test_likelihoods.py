import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import distributions

from sklatent._nn.likelihoods import (
    LIKELIHOODS,
    MIN_VARIANCE,
    SUPPORTS,
    Bernoulli,
    ContinuousBernoulli,
    Gaussian,
    Poisson,
    Standardizer,
    diagonal_gaussian,
)


def sigmoid_gaussian(standardizer):
    return Gaussian(standardizer, "sigmoid")


ALL = [*LIKELIHOODS.values(), sigmoid_gaussian]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def standardizer():
    loc, variances = torch.tensor([[1.0, -2.0, 3.0], [6.25, 6.25, 6.25]], dtype=torch.float64)
    return Standardizer(loc, 2.5, variances)


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_standardizer_inverts(standardizer):
    x = normal(5, 3)
    torch.testing.assert_close(standardizer.inverse(standardizer.double()(x)), x, rtol=1e-14, atol=1e-14)


def test_standardizer_keeps_the_digits_of_float64_rows_far_from_the_origin():
    loc = torch.full((3,), 1e9, dtype=torch.float64)
    x = normal(5, 3)
    standardizer = Standardizer(loc, 1.0, torch.ones_like(loc))
    torch.testing.assert_close(standardizer(x + loc), x.float(), rtol=0, atol=1e-6)


def test_standardizer_has_a_scale_for_each_feature():
    loc, scales = torch.tensor([[1.0, -2.0, 3.0], [0.1, 1.0, 10.0]], dtype=torch.float64)
    standardizer, x = Standardizer(loc, scales, scales**2).double(), normal(5, 3)
    torch.testing.assert_close(standardizer(x), (x - loc) / scales, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(standardizer.inverse(standardizer(x)), x, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("likelihood", [Gaussian, diagonal_gaussian, sigmoid_gaussian])
@pytest.mark.parametrize("log_variance", [-1.5, 0.0, 2.0])
def test_gaussian_is_that_of_torch_distributions(standardizer, likelihood, log_variance):
    model = likelihood(standardizer).double()
    with torch.no_grad():
        model.log_variance.fill_(log_variance)
        if model.is_diagonal:
            model.log_ratios.copy_(torch.arange(3))
    x, eta = normal(5, 3), normal(4, 5, 3)
    expected = distributions.Normal(model.mean(eta), torch.as_tensor(model.noise_variance, dtype=torch.float64).sqrt())
    torch.testing.assert_close(
        model.log_prob(target(model, x), eta), expected.log_prob(x).sum(-1), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("likelihood", ALL)
def test_feature_log_probs_add_up_to_log_prob(standardizer, likelihood):
    model = likelihood(standardizer).double()
    x, eta = target(model, normal(5, 3).sigmoid().round()), normal(4, 5, 3)
    log_probs = model.feature_log_probs(x, eta)
    assert log_probs.shape == eta.shape
    torch.testing.assert_close(log_probs.sum(-1), model.log_prob(x, eta), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("likelihood", [Gaussian, diagonal_gaussian, sigmoid_gaussian])
def test_feature_log_probs_are_those_of_torch_distributions(standardizer, likelihood):
    model = likelihood(standardizer).double()
    x, eta = normal(5, 3), normal(4, 5, 3)
    expected = distributions.Normal(model.mean(eta), torch.as_tensor(model.noise_variance, dtype=torch.float64).sqrt())
    torch.testing.assert_close(
        model.feature_log_probs(target(model, x), eta), expected.log_prob(x), rtol=1e-12, atol=1e-12
    )


def test_gaussian_mean_is_in_the_units_of_the_data(standardizer):
    torch.testing.assert_close(Gaussian(standardizer).mean(torch.zeros(1, 3)), standardizer.loc[None].float())
    assert 0 < Gaussian(standardizer, "sigmoid").mean(normal(1, 3)).min() < 1


def test_gaussian_starts_at_the_variance_of_the_data():
    variances = torch.tensor([1.0, 4.0, 7.0], dtype=torch.float64)
    standardizer = Standardizer(torch.zeros_like(variances), 2.0, variances)
    assert Gaussian(standardizer).noise_variance == pytest.approx(4.0, rel=1e-6)
    np.testing.assert_allclose(diagonal_gaussian(standardizer).noise_variance, [1, 4, 7], rtol=1e-6)


def test_gaussian_takes_variances_in_the_units_of_the_data(standardizer):
    variances = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    one, each = Gaussian(standardizer).double(), diagonal_gaussian(standardizer).double()
    one.set_noise_variance(variances)
    each.set_noise_variance(variances)
    assert one.noise_variance == pytest.approx(3.0, rel=1e-12)
    np.testing.assert_allclose(each.noise_variance, variances, rtol=1e-12)


def test_gaussian_variance_has_a_floor(standardizer):
    likelihood = Gaussian(standardizer)
    likelihood.set_noise_variance(torch.zeros(3, dtype=torch.float64))
    assert likelihood.noise_variance == pytest.approx(MIN_VARIANCE * 2.5**2)
    torch.nn.init.constant_(likelihood.log_variance, -1e6)
    assert likelihood.noise_variance == pytest.approx(MIN_VARIANCE * 2.5**2)


def target(model, x):
    """Samples as a likelihood takes them."""
    return model.standardizer(x) if model.is_standardized else x


def scaled(link):
    """A variance for each feature, and with the identity link a unit for each."""
    variances = torch.tensor([1e-4, 1.0, 9.0], dtype=torch.float64)
    model = diagonal_gaussian(Standardizer(torch.ones_like(variances), variances.sqrt(), variances), link).double()
    model.set_noise_variance(variances.flip(0))
    return model


@pytest.mark.parametrize("link", ["identity", "sigmoid"])
def test_gaussian_with_a_unit_for_each_feature_is_that_of_torch_distributions(link):
    model, x, eta = scaled(link), normal(5, 3), normal(4, 5, 3)
    expected = distributions.Normal(model.mean(eta), torch.tensor([9.0, 1.0, 1e-4], dtype=torch.float64).sqrt())
    torch.testing.assert_close(
        model.log_prob(target(model, x), eta), expected.log_prob(x).sum(-1), rtol=1e-12, atol=1e-12
    )
    eta = eta[0].requires_grad_()
    x = target(model, x)
    (gradient,) = torch.autograd.grad(model.log_prob(x, eta).sum(), eta)
    torch.testing.assert_close(model.gradient(x, eta.detach()), gradient)


@pytest.mark.parametrize("link", ["identity", "sigmoid"])
def test_the_updated_variances_are_those_of_largest_density(link):
    """A common factor of all variances, in closed form from the squared errors."""
    model, x, eta = scaled(link), normal(20, 3), normal(20, 3)
    before = model.noise_variance
    ratio = ((x - model.mean(eta)).square().numpy() / before).mean()
    model.update_noise_variance(float(model.log_prob(target(model, x), eta).mean()))
    np.testing.assert_allclose(model.noise_variance / before, ratio, rtol=1e-5)  # kept as a float32 logarithm
    model.update_noise_variance(float(model.log_prob(target(model, x), eta).mean()), lambda ratio: 3 * ratio)
    np.testing.assert_allclose(model.noise_variance / before, 3 * ratio, rtol=1e-5)


@pytest.mark.parametrize("n_features", [1, 3])
def test_diagonal_has_a_variance_for_each_feature(n_features):
    ones = torch.ones(n_features, dtype=torch.float64)
    assert diagonal_gaussian(Standardizer(ones, 1.0, ones)).noise_variance.shape == (n_features,)


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


def test_poisson_is_that_of_torch_distributions(standardizer):
    x, eta = torch.tensor([[0.0, 1.0, 30.0]], dtype=torch.float64), 2 * normal(4, 1, 3)
    expected = distributions.Poisson(eta.exp()).log_prob(x).sum(-1)
    torch.testing.assert_close(Poisson(standardizer).log_prob(x, eta), expected, rtol=1e-12, atol=1e-12)


# lambda of the paper, whose logit is eta; across 1/2, where the usual form is 0 / 0.
LAMBDAS = [1e-6, 1e-3, 0.2, 0.45, 0.4999, 0.5 - 1e-9, 0.5, 0.5 + 1e-9, 0.5001, 0.55, 0.9, 1 - 1e-3, 1 - 1e-6]


@pytest.mark.parametrize("probability", LAMBDAS)
def test_continuous_bernoulli_integrates_to_one(standardizer, probability):
    model, eta = ContinuousBernoulli(standardizer), torch.logit(torch.tensor([[probability]], dtype=torch.float64))

    def moment(power):
        def integrand(x):
            return x**power * model.log_prob(torch.tensor([[x]], dtype=torch.float64), eta).exp().item()

        return quad(integrand, 0, 1, epsabs=1e-12)[0]

    assert moment(0) == pytest.approx(1, abs=1e-8)
    assert moment(1) == pytest.approx(model.mean(eta).item(), abs=1e-8)
    assert moment(2) - moment(1) ** 2 == pytest.approx(model.information(eta).item(), abs=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_continuous_bernoulli_is_smooth_and_finite(standardizer, dtype):
    """Against torch.distributions where that is exact, and with gradients everywhere."""
    model = ContinuousBernoulli(standardizer)
    eta = torch.tensor([-200, -30, -5, -0.21, -0.19, -1e-5, 0, 1e-5, 0.19, 0.21, 5, 30, 200], dtype=dtype)
    x = torch.full((1, 1), 0.3, dtype=dtype)
    eta = eta[:, None, None].requires_grad_()
    log_prob = model.log_prob(x, eta)[:, 0]
    (slope,) = torch.autograd.grad(log_prob.sum(), eta)
    # Near eta = 0 the derivative of the logarithm loses digits that the gradient has.
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-10}
    torch.testing.assert_close(slope[:, 0], model.gradient(x, eta.detach())[:, 0], **tolerance)
    middle = slice(2, -2)
    expected = distributions.ContinuousBernoulli(logits=eta[:, 0, 0].double()).log_prob(x[0].double())
    rtol = 1e-5 if dtype == torch.float32 else 1e-10  # relative to a log density that may be near 0
    torch.testing.assert_close(log_prob[middle].double(), expected[middle], rtol=rtol, atol=0.1 * rtol)


@pytest.mark.parametrize("likelihood", ALL)
def test_gradient_and_information_are_those_of_log_prob(standardizer, likelihood, generator):
    """The derivative by autograd; and its square by many draws of x."""
    model = likelihood(standardizer)
    eta = normal(1, 3).requires_grad_()
    x = target(model, model.sample(eta.detach().expand(100_000, 3), generator))
    (expected,) = torch.autograd.grad(model.log_prob(x[:1], eta).sum(), eta)
    torch.testing.assert_close(model.gradient(x[:1], eta.detach()), expected)
    squares = model.gradient(x, eta.detach()).square()
    error = 5 * squares.std(0) / math.sqrt(len(x))
    assert ((squares.mean(0) - model.information(eta.detach())).abs() < error + 1e-12).all()


@pytest.mark.parametrize("likelihood", ALL)
def test_samples_have_the_mean_and_lie_in_the_support(standardizer, likelihood, generator):
    model, eta, n = likelihood(standardizer), normal(1, 3), 100_000
    rows = model.sample(eta.expand(n, 3), generator).detach()
    assert ((rows.mean(0) - model.mean(eta)[0]).abs() < 5 * rows.std(0) / math.sqrt(n)).all()
    assert SUPPORTS[model.support][1](rows.numpy())
    assert rows.dtype == eta.dtype


@pytest.mark.parametrize("likelihood", [Gaussian, diagonal_gaussian, sigmoid_gaussian])
def test_samples_have_the_variance(standardizer, likelihood, generator):
    model, n = likelihood(standardizer), 100_000
    rows = model.sample(normal(1, 3).expand(n, 3), generator).detach()
    # Five standard errors of the variance of a normal sample.
    np.testing.assert_allclose(rows.var(0), np.broadcast_to(model.noise_variance, 3), rtol=5 * math.sqrt(2 / n))


@pytest.mark.parametrize("likelihood", LIKELIHOODS.values())
def test_start_stands_for_the_column_means(likelihood):
    mean = torch.tensor([0.03, 0.5, 0.8], dtype=torch.float64)
    model = likelihood(Standardizer(mean, 1.0, torch.ones_like(mean)))
    torch.testing.assert_close(model.mean(model.start(mean)), mean, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("likelihood", ALL)
def test_start_of_columns_at_the_edge_is_finite(likelihood):
    mean = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert likelihood(Standardizer(mean, 1.0, torch.ones_like(mean))).start(mean).isfinite().all()


@pytest.mark.parametrize("likelihood", ALL)
def test_missing_values_have_no_part_in_the_density(standardizer, likelihood):
    model, whole = likelihood(standardizer).double(), likelihood(standardizer).double()
    model.has_missing = True
    x, eta = torch.ones(4, 3, dtype=torch.float64), normal(4, 3).requires_grad_()
    x[0, 1] = x[1] = torch.nan
    seen = ~x.isnan()
    terms = whole.feature_log_probs(torch.ones_like(x), eta) * seen
    torch.testing.assert_close(model.log_prob(x, eta), terms.sum(-1), rtol=1e-12, atol=0)
    torch.testing.assert_close(model.feature_log_probs(x, eta), terms, rtol=1e-12, atol=0)
    torch.testing.assert_close(model.observed_information(x, eta), whole.information(eta) * seen, rtol=1e-12, atol=0)
    model.log_prob(x, eta).sum().backward()
    torch.testing.assert_close(eta.grad, model.gradient(x, eta.detach()), rtol=1e-9, atol=1e-12)
    assert (eta.grad[~seen] == 0).all()


@pytest.mark.parametrize("likelihood", [Gaussian, diagonal_gaussian, sigmoid_gaussian])
def test_noise_variance_is_the_mean_squared_error_of_observed_values(standardizer, likelihood):
    model = likelihood(standardizer).double()
    model.has_missing = True
    x, eta = normal(50, 3), normal(50, 3) / 2
    x[:40, 0] = x[7] = torch.nan
    squares = ((x - model.mean(eta)) if not model.is_standardized else x - eta).square()
    relative = squares / (model.log_variance + (model.log_ratios if model.is_diagonal else 0)).exp()
    before = model.log_variance.exp().item()
    model.update_noise_variance(float(model.log_prob(x, eta).mean()), observed=(~x.isnan()).double().mean(0))
    assert model.log_variance.exp().item() / before == pytest.approx(relative.nanmean().item(), rel=1e-9)
