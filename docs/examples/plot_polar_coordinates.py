"""
From Cartesian to polar, given and learned
==========================================

The right representation makes a problem linear: in polar coordinates a circle is a line (14.3). Two noisy rings, one
within the other, are told apart by a linear classifier on several representations: the plane, polar coordinates, the
codes of an autoencoder, and what a VAE of one of the rings says of a point.
"""

# %%
# Given
# -----
# A FunctionTransformer holds the exact map, and goes into a Pipeline before the classifier. `AutoencoderTransformer`
# goes there as well, but gains nothing: it is trained to copy points, and nobody asks it for straight lines. No other
# encoder of the plane into two codes would do that is continuous and keeps points apart: the image of the inner ring
# would still lie within that of the outer one, where no line parts them. Polar coordinates cut the plane open.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_circles
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sklatent import AutoencoderTransformer, VAETransformer

X, y = make_circles(2000, factor=0.5, noise=0.05, random_state=0)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0, stratify=y)


def to_polar(X):
    """Angle and radius."""
    return np.column_stack([np.arctan2(X[:, 1], X[:, 0]), np.hypot(X[:, 0], X[:, 1])])


# %%
# Learned
# -------
# One code is enough for a ring. A VAE that has seen the inner ring alone has both polar coordinates: its code is the
# place along the ring, and its score, log p(x), falls with the distance from the ring (14.1: the part of a point in
# the manifold, and the part orthogonal to it). It was told which points form the ring; the autoencoder was not. With
# two columns to copy, the KL term at full weight from the first step would leave the code saying nothing at all (`fit`
# then warns of a collapsed posterior), so `kl_warmup` raises it over the first half of the epochs.
ring = VAETransformer(1, max_epochs=200, random_state=0).fit(X_train[y_train == 1])


def place_and_score(X):
    """Place along the learned ring, and nats."""
    return np.column_stack([ring.transform(X), ring.score_samples(X)])


representations = {
    "plane": FunctionTransformer(),
    "polar coordinates": FunctionTransformer(to_polar),
    "two autoencoder codes": AutoencoderTransformer(2, random_state=0),
    "code and score of a VAE": FunctionTransformer(place_and_score),
}
models = {
    name: make_pipeline(representation, StandardScaler(), LogisticRegression()).fit(X_train, y_train)
    for name, representation in representations.items()
}
print("accuracy of a linear classifier on held-out points:")
for name, model in models.items():
    print(f"  {name:24}{model.score(X_test, y_test):.3f}")

# %%
# The four pictures
# -----------------
# The dashed line is where the classifier is undecided; the black curve in the plane is what the VAE makes of codes
# from the least to the largest of its ring.
codes = ring.transform(X_train[y_train == 1])
curve = ring.inverse_transform(np.linspace(codes.min(), codes.max(), 500)[:, None])
labels = [("$x_0$", "$x_1$"), ("angle", "radius"), ("$z_0$", "$z_1$"), ("$z$", "log p(x), nats")]
figure, axes = plt.subplots(1, 4, figsize=(15, 4.5), layout="constrained")
for ax, (name, model), (xlabel, ylabel) in zip(axes, models.items(), labels, strict=True):
    Z = model[0].transform(X_test)
    for label, ring_name in enumerate(["outer ring", "inner ring"]):
        ax.scatter(*Z[y_test == label].T, s=8, label=ring_name)
    window = ax.axis()
    sides = np.meshgrid(np.linspace(*window[:2]), np.linspace(*window[2:]))
    decision = model[1:].decision_function(np.stack(sides, axis=-1).reshape(-1, 2)).reshape(sides[0].shape)
    ax.contour(*sides, decision, levels=[0], colors="0.3", linestyles="--")
    ax.set(title=f"{name}\naccuracy {model.score(X_test, y_test):.3f}", xlabel=xlabel, ylabel=ylabel)
axes[0].plot(*curve.T, color="black", label="learned ring")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)

# %%
# How well is the angle learned?
# ------------------------------
# Walk the held-out points of the inner ring in the order of their codes: had the VAE unrolled it, that would go round
# once. It goes round more often, if far less than at random: noise turns neighbours about, and an encoder, which is
# continuous, runs back over all its codes where the learned ring has its ends.


def turns(angles):
    """How often a walk from each angle to the next goes round."""
    return np.abs(np.angle(np.exp(1j * np.diff(angles)))).sum() / (2 * np.pi)


inner = X_test[y_test == 1]
angles = to_polar(inner)[:, 0]
walks = {"codes": ring.transform(inner)[:, 0], "angles": angles, "chance": np.random.default_rng(0).random(len(inner))}
for name, order in walks.items():
    print(f"turns round the inner ring in the order of {name}: {turns(angles[np.argsort(order)]):.1f}")
plt.show()
