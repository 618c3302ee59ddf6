"""
Generating and interpolating digits
===================================

A latent model can generate new samples: sample a latent code and decode it (Chaudhury 2024, section 14.3). Here
probabilistic PCA and the VAE generate digits and interpolate between two digits along the straight line between their
latent codes, and a VAE with latent dimension 2 is decoded over a grid. On a flat manifold an interpolated digit is a
superposition of the two digits; on a curved one it can consist of clear strokes.
"""

# %%
# Samples
# -------
# `sample` samples z from the latent density and x given z. `mean=True` leaves out the noise of the pixels, which the
# model takes to be independent.
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklatent import PCAReducer, VAETransformer
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neighbors import NearestNeighbors

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    X / 16, y, random_state=0, stratify=y
)
models = {
    f"{name}, nz={nz}": model.fit(X_train)
    for nz in (4, 8)
    for name, model in {
        "PCA": PCAReducer(nz),
        "VAE": VAETransformer(nz, random_state=0),
    }.items()
}

# %%
# Interpolation
# -------------
# We decode eleven latent codes on the line between those of two held-out digits.
first, last = (X_test[y_test == digit][:1] for digit in (3, 6))
weights = np.linspace(0, 1, 11)[:, None]


def interpolate(model):
    """Digits decoded along the straight line between two latent codes."""
    return model.inverse_transform(
        (1 - weights) * model.transform(first) + weights * model.transform(last)
    )


def show(axes, digits, title):
    """Plot digits side by side."""
    for ax, digit in zip(axes, digits, strict=False):
        ax.imshow(digit.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
    axes[0].set_ylabel(title, rotation=0, ha="right", va="center")


figure = plt.figure(figsize=(10, 5.4), layout="constrained")
names = ["PCA, nz=4", "VAE, nz=4"]
for part, title, make in zip(
    figure.subfigures(2, 1, hspace=0.05),
    [
        "Digits sampled from the model",
        "From a 3 to a 6 along the line between their latent codes",
    ],
    [lambda model: model.sample(11, mean=True, random_state=0), interpolate],
    strict=True,
):
    part.suptitle(title)
    for axes, name in zip(part.subplots(2, 11), names, strict=True):
        show(axes, make(models[name]), name)

# %%
# Distance to real digits
# -----------------------
# The mean squared distance to the nearest training digit: of held-out digits, of their reconstructions, of the digit
# decoded from the midpoint between the latent codes of two of them, and of generated samples. The reconstructions are
# the fair reference, since they are as smooth as the midpoints and the samples.
nearest = NearestNeighbors(n_neighbors=1).fit(X_train)
partners = np.random.default_rng(0).permutation(X_test)


def distance(digits):
    """Mean squared distance to the nearest training digit."""
    return (nearest.kneighbors(digits)[0] ** 2).mean()


distances = {}
for name, model in models.items():
    Z, Z_partners = model.transform(X_test), model.transform(partners)
    reconstructed, midpoints = (
        model.inverse_transform(Z),
        model.inverse_transform((Z + Z_partners) / 2),
    )
    samples = model.sample(500, mean=True, random_state=0)
    distances[name] = [
        distance(digits) for digits in (reconstructed, midpoints, samples)
    ]
print(
    f"squared distance to the nearest training digit; of a held-out digit {distance(X_test):.2f}"
)
table = pd.DataFrame(distances, index=["reconstruction", "midpoint", "sample"]).T
print(table.to_string(float_format="{:.2f}".format))

# %%
# The midpoints and samples of the VAE are nearer to real digits than those of PCA, with either latent dimension. The
# difference between reconstructions and samples is about the same for both models: the VAE gains by a manifold that is
# nearer to the digits everywhere. Latent dimension 4 gives better samples than 8, which gives
# :ref:`better reconstructions <sphx_glr_auto_examples_plot_compression.py>`.
#
# A map of the latent plane
# -------------------------
# The KL term pulls the latent codes of a VAE towards a standard normal density about the origin (Chaudhury 2024, figure
# 14.10), so a grid about the origin covers most of what the model has learned. Neighbouring latent codes decode to
# similar digits, and one digit changes gradually into the next.
vae = VAETransformer(2, random_state=0).fit(X_train)
n_cells, edge = 13, 2.6  # so many cells of width 0.4 from -2.6 to 2.6
centres = np.linspace(-edge + 0.2, edge - 0.2, n_cells)
Z = np.stack(np.meshgrid(centres, centres[::-1]), axis=-1).reshape(-1, 2)
tiles = np.pad(
    vae.inverse_transform(Z).reshape(-1, 8, 8), [(0, 0), (1, 1), (1, 1)]
)  # a white frame about each
mosaic = (
    tiles.reshape(n_cells, n_cells, 10, 10)
    .swapaxes(1, 2)
    .reshape(n_cells * 10, n_cells * 10)
)
codes = vae.transform(X_test)
print(
    f"held-out latent codes: mean {codes.mean(axis=0).round(2)}, standard deviation {codes.std(axis=0).round(2)},"
)
print(f"fraction within the grid: {(abs(codes) < edge).all(axis=1).mean():.2f}")

figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, 5.2), layout="constrained")
points = left.scatter(*codes.T, c=y_test, cmap="tab10", vmin=-0.5, vmax=9.5, s=12)
left.add_patch(
    plt.Rectangle(
        (-edge, -edge), 2 * edge, 2 * edge, fill=False, color="0.5", linestyle="--"
    )
)
left.set(
    title="Latent codes of held-out digits, and the grid",
    xlabel="$z_0$",
    ylabel="$z_1$",
    aspect="equal",
)
figure.colorbar(points, ax=left, ticks=range(10), label="digit")
right.imshow(mosaic, cmap="gray_r", vmin=0, vmax=1, extent=(-edge, edge, -edge, edge))
right.set(title="Digits decoded over the grid", xlabel="$z_0$", ylabel="$z_1$")
plt.show()
