"""
KL divergence, low and high
===========================

The KL divergence of the posterior from the prior is the price of a latent code: low where the posterior is close to
N(0, 1), high where it is narrow or far away (Chaudhury 2024, equation 14.1 and figure 14.8).
"""

# %%
# Two normal densities
# --------------------
# The area under q ln(q / p) is the divergence. For normal densities it has the closed form
# (s² + m² - 1) / 2 - ln s.
import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import norm

grid = np.linspace(-5, 5, 2001)
prior = norm.pdf(grid)
figure, axes = plt.subplots(1, 2, figsize=(11, 3.8), sharex=True, sharey=True)
for ax, (mean, scale) in zip(axes, [(0.3, 0.9), (2.0, 0.3)], strict=True):
    posterior = norm.pdf(grid, mean, scale)
    integrand = posterior * (norm.logpdf(grid, mean, scale) - norm.logpdf(grid))
    area = np.trapezoid(integrand, grid)
    closed = (scale**2 + mean**2 - 1) / 2 - np.log(scale)
    print(f"q = N({mean}, {scale}²): area {area:.4f}, closed form {closed:.4f} nats")
    ax.plot(grid, prior, color="0.3", label="prior N(0, 1)")
    ax.plot(grid, posterior, color="tab:red", label=f"q = N({mean}, {scale}²)")
    ax.fill_between(grid, integrand, color="tab:red", alpha=0.25, label="q ln(q / p)")
    ax.set(title=f"KL divergence {closed:.2f} nats", xlabel="z")
    ax.legend(loc="upper left")
axes[0].set_ylabel("density")
figure.tight_layout()

# %%
# In a fitted VAE
# ---------------
# With a larger `beta` the posteriors come closer to the prior: they widen and overlap, the mean KL divergence falls,
# and digits that are hard to tell apart share latent codes. The ellipses are those of some posteriors.
from sklatent import VAETransformer  # noqa: E402
from sklatent.metrics import rate_distortion  # noqa: E402
from sklatent.plotting import LatentDisplay  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402

X, y = load_digits(return_X_y=True)
X = X / 16
figure, axes = plt.subplots(1, 2, figsize=(12, 5))
for ax, beta in zip(axes, [0.3, 3.0], strict=True):
    vae = VAETransformer(2, beta=beta, random_state=0).fit(X)
    rate, distortion = rate_distortion(vae, X)
    LatentDisplay.from_estimator(vae, X, y=y, ellipses=True, ax=ax, s=6)
    ax.set_title(f"beta={beta:g}: KL {rate:.1f}, -ln p(x | z) {distortion:.1f} nats")
figure.tight_layout()
plt.show()
