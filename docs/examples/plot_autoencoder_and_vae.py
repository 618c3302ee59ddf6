"""
Autoencoder and VAE side by side
================================

Both reconstruct about equally well. What differs is the latent space: that of the autoencoder spreads far from the
origin, that of the VAE is compact about it, so that one knows where to sample (Chaudhury 2024, figures 14.9 and 14.10).
The chapter has MNIST at 32 x 32; here are scikit-learn's digits, which need no download.
"""

# %%
# Two fits
# --------
# Cross-entropy for both, as in the chapter: the pixels lie in [0, 1].
import matplotlib.pyplot as plt
import numpy as np
from sklatent import AutoencoderTransformer, VAETransformer
from sklatent.metrics import reconstruction_error
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    X / 16, y, random_state=0, stratify=y
)
params = {"likelihood": "bernoulli", "random_state": 0}
models = {
    "autoencoder": AutoencoderTransformer(2, noise=0.0, **params).fit(X_train),
    "VAE": VAETransformer(2, **params).fit(X_train),
}

# %%
# Reconstructions
# ---------------
# From a latent dimension of 2.
figure, axes = plt.subplots(3, 15, figsize=(12, 2.9))
pictures = {"digit": X_test[:15]}
for name, model in models.items():
    reconstructed = model.inverse_transform(model.transform(X_test))
    pictures[name] = reconstructed[:15]
    error = reconstruction_error(X_test, reconstructed)
    print(f"{name}: squared error of a held-out digit {error:.2f}")
for line, (name, digits) in zip(axes, pictures.items(), strict=True):
    line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for ax, digit in zip(line, digits, strict=True):
        ax.imshow(digit.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
figure.tight_layout()

# %%
# Latent spaces on the same axes
# ------------------------------
# A circle of radius 4 holds nearly all of N(0, I), and nearly all latent codes of the VAE.
codes = {name: model.transform(X_test) for name, model in models.items()}
edge = 1.05 * max(np.abs(Z).max() for Z in codes.values())
figure, axes = plt.subplots(1, 2, figsize=(12, 5.6), sharex=True, sharey=True)
for ax, (name, Z) in zip(axes, codes.items(), strict=True):
    fraction = np.mean(np.linalg.norm(Z, axis=1) < 4)
    spread = Z.std(axis=0).round(1)
    print(
        f"{name}: fraction {fraction:.3f} within radius 4, standard deviations {spread}"
    )
    points = ax.scatter(*Z.T, c=y_test, cmap="tab10", vmin=-0.5, vmax=9.5, s=12)
    ax.add_patch(plt.Circle((0, 0), 4, fill=False, color="0.4", linestyle="--"))
    ax.set(xlim=(-edge, edge), ylim=(-edge, edge), aspect="equal", xlabel="$z_0$")
    ax.set_title(f"{name}: {fraction:.0%} within radius 4")
axes[0].set_ylabel("$z_1$")
figure.colorbar(points, ax=axes, ticks=range(10), label="digit", shrink=0.8)

# %%
# What the prior decodes to
# -------------------------
# Latent codes from N(0, I): the decoder of the VAE was trained on them, that of the autoencoder never saw most.
Z = np.random.default_rng(0).standard_normal((15, 2))
figure, axes = plt.subplots(2, 15, figsize=(12, 2))
for line, (name, model) in zip(axes, models.items(), strict=True):
    line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for ax, digit in zip(line, model.inverse_transform(Z), strict=True):
        ax.imshow(digit.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
figure.tight_layout()
plt.show()
