"""The optimum of a linear VAE is known: beta times the noise variance is the water level of rate-distortion theory.

With the eigenvalues lambda of the covariance of the samples, fixed noise variance s2 and the level t = beta s2, a
latent dimension pays for itself where lambda > t. Its posterior has the variance t / lambda, so its rate is
ln(lambda / t) / 2 and the squared error along it is t; along the others nothing is encoded, and the error is lambda.
This is reverse water-filling, which is optimal for a Gaussian source.

Lucas et al. (2019), "Don't blame the ELBO! A linear VAE perspective on posterior collapse", section 4. Dai & Wipf
(2018), "Connections with robust PCA and the role of emergent sparsity in variational autoencoder models", JMLR 19.
Cover & Thomas (2006), "Elements of information theory", theorem 10.3.3.
"""

import math

import numpy as np
import pytest
import torch
from torch import nn

from sklatent._nn.likelihoods import Gaussian, Standardizer
from sklatent._nn.objectives import elbo_terms
from sklatent._nn.posteriors import DiagonalNormal
from sklatent._nn.priors import StandardNormal

EIGENVALUES = np.array([8.0, 4.0, 2.0, 1.0, 0.5, 0.1])
NOISE = 0.4
CONSTANT = len(EIGENVALUES) / 2 * math.log(2 * math.pi * NOISE)  # of the distortion in nats
BETAS = [0.1, 0.8, 1.0, 1.8, 4.0, 9.0, 15.0, 30.0]  # levels from below the smallest eigenvalue to above the largest


def samples():
    """Samples whose covariance, with divisor n, has the eigenvalues exactly."""
    rng = np.random.default_rng(0)
    n, d = 12, len(EIGENVALUES)
    left = rng.standard_normal((n, d))
    left = np.linalg.qr(left - left.mean(axis=0))[0]
    right = np.linalg.qr(rng.standard_normal((d, d)))[0]
    return torch.as_tensor(math.sqrt(n) * left * np.sqrt(EIGENVALUES) @ right.T)


class LinearVAE(nn.Module):
    """x = W z + noise of fixed variance, q(z | x) = N(A x, diag exp log_var)."""

    def __init__(self, nz, d):
        super().__init__()
        generator = torch.Generator().manual_seed(nz)
        self.nz = nz
        self.decoder, self.encoder = (
            nn.Parameter(0.3 * torch.randn(shape, generator=generator, dtype=torch.float64))
            for shape in [(nz, d), (d, nz)]
        )
        self.log_var = nn.Parameter(torch.zeros(nz, dtype=torch.float64))
        self.prior = StandardNormal(nz)
        self.likelihood = Gaussian(Standardizer(torch.zeros(d), 1.0, torch.ones(d))).double()
        nn.init.constant_(self.likelihood.log_variance, math.log(NOISE))

    def terms(self, x):
        """Rate and distortion: the mean over 2 nz points is exact, since ln p(x | z) is quadratic in z."""
        points = math.sqrt(self.nz) * torch.cat([torch.eye(self.nz), -torch.eye(self.nz)]).double()
        q = DiagonalNormal(x @ self.encoder, self.log_var.expand(len(x), -1))
        terms = elbo_terms(
            lambda z: self.likelihood.log_prob(x, z @ self.decoder),
            q,
            self.prior,
            points[:, None, :].expand(-1, len(x), -1),
        )
        return terms.kl.mean(), -terms.log_prob.mean()

    def fit(self, x, beta):
        """Minimize distortion + beta rate to rounding."""
        parameters = [self.decoder, self.encoder, self.log_var]
        options = {"max_iter": 3000, "tolerance_grad": 1e-12, "tolerance_change": 0.0, "history_size": 50}
        optimizer = torch.optim.LBFGS(parameters, line_search_fn="strong_wolfe", **options)

        def loss():
            optimizer.zero_grad()
            rate, distortion = self.terms(x)
            value = distortion + beta * rate
            value.backward()
            return value

        optimizer.step(loss)
        return self


def rate_at(squared_error):
    """R(D) of a Gaussian source: the water level that leaves this error is found by bisection."""
    low, high = 0.0, EIGENVALUES.max()
    for _ in range(60):
        level = (low + high) / 2
        low, high = (level, high) if np.minimum(EIGENVALUES, level).sum() < squared_error else (low, level)
    return np.log(np.maximum(EIGENVALUES / level, 1)).sum() / 2


@pytest.mark.slow
@pytest.mark.parametrize("nz", [1, 3, 6, 8])
@pytest.mark.parametrize("beta", BETAS)
def test_optimum_uses_the_eigenvalues_above_the_water_level(nz, beta):
    x = samples()
    vae = LinearVAE(nz, x.shape[1]).fit(x, beta)
    level = beta * NOISE
    with torch.no_grad():
        rate, distortion = (term.item() for term in vae.terms(x))
        activity = (x @ vae.encoder).var(dim=0, correction=0)
    above = EIGENVALUES[level < EIGENVALUES]
    used = above[:nz]
    assert (activity > 0.01).sum().item() == min(nz, len(above))
    # The loss hardly changes as latent dimensions of similar variance turn into one another, so the optimizer leaves
    # an angle of about the root of its precision.
    assert np.sort(activity.numpy())[::-1][: len(used)] == pytest.approx(1 - level / used, abs=1e-4)
    squared_error = EIGENVALUES.sum() - (used - level).sum()
    assert rate == pytest.approx(np.log(used / level).sum() / 2, abs=1e-6)
    assert 2 * NOISE * (distortion - CONSTANT) == pytest.approx(squared_error, abs=1e-6)
    if nz >= len(above):  # then no code is better
        assert rate == pytest.approx(rate_at(2 * NOISE * (distortion - CONSTANT)), abs=1e-6)
