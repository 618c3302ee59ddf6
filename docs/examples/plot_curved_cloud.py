"""
A curved cloud, and manifolds that are jagged or smooth
=======================================================

PCA has only flat manifolds, and fails on a cloud along a curve (Chaudhury 2024, section 14.4 and figure 14.4). An
autoencoder bends its manifold. If reconstruction is all it is trained for, the manifold runs from point to point; noise
on the input or a KL divergence make it smooth (section 14.6 and figure 14.6).
"""

# %%
# Three networks and PCA
# ----------------------
# Forty points are few enough to be learned by heart by a network that starts at random, sees no noise and is trained
# for long. The regularized networks have the same layers and as many epochs.
import matplotlib.pyplot as plt
import numpy as np
from sklatent import AutoencoderTransformer, PCAReducer, VAETransformer
from sklatent.datasets import make_curve_cloud
from sklatent.metrics import reconstruction_error

X = make_curve_cloud(40, noise=0.08, random_state=0)
X_new = make_curve_cloud(2000, noise=0.08, random_state=1)
network = {
    "hidden_sizes": (128, 128, 64),
    "max_epochs": 1000,
    "batch_size": 40,
    "random_state": 0,
}
jagged = {"init": "random", "noise": 0.0, "lr_schedule": "constant", "lr": 3e-3}
models = {
    "PCA": PCAReducer(1),
    "autoencoder, reconstruction alone": AutoencoderTransformer(1, **network | jagged),
    "autoencoder with noise": AutoencoderTransformer(1, noise=0.2, **network),
    "VAE": VAETransformer(1, **network),
}

# %%
# What it costs
# -------------
# The jagged manifold is nearest to the points that it has seen. The smooth ones are nearer to new points, and shorter:
# equal steps of the latent code are steps of similar length along the curve, so that distances between latent codes
# mean something. The unevenness is the standard deviation of the length of a step divided by its mean.
figure, axes = plt.subplots(1, 4, figsize=(14, 3.8), sharex=True, sharey=True)
print(f"{'squared error of':35} seen   new   length  unevenness")
for ax, (name, model) in zip(axes, models.items(), strict=True):
    Z = model.fit(X).transform(X)
    curve = model.inverse_transform(np.linspace(Z.min(), Z.max(), 2000)[:, None])
    steps = np.linalg.norm(np.diff(curve, axis=0), axis=1)
    errors = [
        reconstruction_error(points, model.inverse_transform(model.transform(points)))
        for points in (X, X_new)
    ]
    print(f"{name:35} {errors[0]:.4f} {errors[1]:.4f}", end="")
    print(f" {steps.sum():6.2f} {steps.std() / steps.mean():6.2f}")
    ax.scatter(*X_new[:400].T, s=4, color="0.85")
    ax.scatter(*X.T, s=14, color="0.3")
    ax.plot(*curve.T, color="tab:red")
    ax.set(title=name, xlabel="$x_0$")
axes[0].set_ylabel("$x_1$")
figure.tight_layout()
plt.show()
