"""
Polar coordinates, given and learned
====================================

The right representation makes a problem linear: in polar coordinates a circle is a straight line (Chaudhury 2024,
section 14.3). Here a linear classifier separates two noisy concentric rings in several representations: Cartesian
coordinates, polar coordinates, the latent codes of an autoencoder, and the latent code and score of a VAE that was
fitted to one of the rings.
"""

# %%
# The exact transformation
# ------------------------
# A FunctionTransformer applies the exact transformation, as the step of a Pipeline before the classifier.
# `AutoencoderTransformer` can take its place, but gains nothing: it is trained to reconstruct points, not to straighten
# rings. No other continuous and injective encoder of the plane into two dimensions can do better: the image of the
# inner ring still lies within that of the outer one, so no line separates them. Polar coordinates succeed because they
# are discontinuous.
import matplotlib.pyplot as plt
import numpy as np
from sklatent import AutoencoderTransformer, VAETransformer
from sklearn.datasets import make_circles
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

X, y = make_circles(2000, factor=0.5, noise=0.05, random_state=0)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0, stratify=y)


def to_polar(X):
    """Angle and radius."""
    return np.column_stack([np.arctan2(X[:, 1], X[:, 0]), np.hypot(X[:, 0], X[:, 1])])


# %%
# The learned transformation
# --------------------------
# A latent dimension of 1 suffices for a ring. A VAE that is fitted to the inner ring alone provides both polar
# coordinates: its latent code is the position along the ring, and its score, log p(x), decreases with the distance from
# the ring (Chaudhury 2024, section 14.1: the part of a point in the manifold, and the part orthogonal to it). Unlike
# the autoencoder, it was told which points form the ring. With only two features to reconstruct, a KL term at full
# weight from the first step would make the posterior collapse (`fit` then warns), so `kl_warmup` raises its weight over
# the first half of the epochs.
ring = VAETransformer(1, max_epochs=200, random_state=0).fit(X_train[y_train == 1])


def position_and_score(X):
    """Position along the learned ring, and log-likelihood in nats."""
    return np.column_stack([ring.transform(X), ring.score_samples(X)])


representations = {
    "plane": FunctionTransformer(),
    "polar coordinates": FunctionTransformer(to_polar),
    "autoencoder, nz=2": AutoencoderTransformer(2, random_state=0),
    "VAE, latent code and score": FunctionTransformer(position_and_score),
}
models = {
    name: make_pipeline(representation, StandardScaler(), LogisticRegression()).fit(
        X_train, y_train
    )
    for name, representation in representations.items()
}
print("accuracy of a linear classifier on held-out points:")
for name, model in models.items():
    print(f"  {name:27}{model.score(X_test, y_test):.3f}")

# %%
# The four representations
# ------------------------
# The dashed line is the decision boundary of the classifier. The black curve in the first plot is the learned ring: the
# decoded latent codes from the smallest to the largest of the training samples.
codes = ring.transform(X_train[y_train == 1])
curve = ring.inverse_transform(np.linspace(codes.min(), codes.max(), 500)[:, None])
labels = [
    ("$x_0$", "$x_1$"),
    ("angle", "radius"),
    ("$z_0$", "$z_1$"),
    ("$z$", "log p(x), nats"),
]
figure, axes = plt.subplots(1, 4, figsize=(15, 4.5), layout="constrained")
for ax, (name, model), (xlabel, ylabel) in zip(
    axes, models.items(), labels, strict=True
):
    Z = model[0].transform(X_test)
    for label, ring_name in enumerate(["outer ring", "inner ring"]):
        ax.scatter(*Z[y_test == label].T, s=8, label=ring_name)
    window = ax.axis()
    sides = np.meshgrid(np.linspace(*window[:2]), np.linspace(*window[2:]))
    decision = (
        model[1:]
        .decision_function(np.stack(sides, axis=-1).reshape(-1, 2))
        .reshape(sides[0].shape)
    )
    ax.contour(*sides, decision, levels=[0], colors="0.3", linestyles="--")
    ax.set(
        title=f"{name}\naccuracy {model.score(X_test, y_test):.3f}",
        xlabel=xlabel,
        ylabel=ylabel,
    )
axes[0].plot(*curve.T, color="black", label="learned ring")
figure.legend(
    *axes[0].get_legend_handles_labels(),
    loc="outside lower center",
    ncols=3,
    frameon=False,
)

# %%
# Quality of the learned angle
# ----------------------------
# We visit the held-out points of the inner ring in the order of their latent codes. If the VAE had unrolled the ring
# perfectly, this path would go round the ring once. It goes round more often, though much less than in random order:
# noise exchanges neighbours, and a continuous encoder has to run back through all its latent codes where the two ends
# of the learned ring meet.


def turns(angles):
    """Number of times that a path from each angle to the next goes round."""
    return np.abs(np.angle(np.exp(1j * np.diff(angles)))).sum() / (2 * np.pi)


inner = X_test[y_test == 1]
angles = to_polar(inner)[:, 0]
walks = {
    "latent codes": ring.transform(inner)[:, 0],
    "angles": angles,
    "chance": np.random.default_rng(0).random(len(inner)),
}
for name, order in walks.items():
    print(
        f"turns round the inner ring in the order of {name}: {turns(angles[np.argsort(order)]):.1f}"
    )
plt.show()
