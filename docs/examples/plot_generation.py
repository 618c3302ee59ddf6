"""
New digits, and what lies between two
=====================================

A latent model makes new rows as well as encoding old ones: draw a code, decode it (14.3). Here probabilistic PCA and
the VAE draw digits and walk the straight line between the codes of two, and a VAE of two codes is decoded over a grid.
On a flat manifold the way from one digit to another is a double exposure; on a curved one it can keep to strokes.
"""

# %%
# Samples
# -------
# `sample` draws z from the latent density and x given z; `mean=True` leaves out the noise of the pixels, of which the
# model knows the variance but no pattern.
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neighbors import NearestNeighbors

from sklatent import PCAReducer, VAETransformer

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X / 16, y, random_state=0, stratify=y)
models = {
    f"{name}, {nz} codes": model.fit(X_train)
    for nz in (4, 8)
    for name, model in {"PCA": PCAReducer(nz), "VAE": VAETransformer(nz, random_state=0)}.items()
}

# %%
# Interpolation
# -------------
# Eleven codes on the line between those of two digits that neither model has seen, and their decodings.
first, last = (X_test[y_test == digit][:1] for digit in (3, 6))
weights = np.linspace(0, 1, 11)[:, None]


def interpolate(model):
    """Digits decoded along the straight line between two codes."""
    return model.inverse_transform((1 - weights) * model.transform(first) + weights * model.transform(last))


def show(axes, digits, title):
    """A row of digits."""
    for ax, digit in zip(axes, digits, strict=False):
        ax.imshow(digit.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
    axes[0].set_ylabel(title, rotation=0, ha="right", va="center")


figure = plt.figure(figsize=(10, 5.4), layout="constrained")
names = ["PCA, 4 codes", "VAE, 4 codes"]
for part, title, make in zip(
    figure.subfigures(2, 1, hspace=0.05),
    ["Digits drawn from the model", "From a 3 to a 6 along the line of their codes"],
    [lambda model: model.sample(11, mean=True, random_state=0), interpolate],
    strict=True,
):
    part.suptitle(title)
    for axes, name in zip(part.subplots(2, 11), names, strict=True):
        show(axes, make(models[name]), name)

# %%
# How near to a digit?
# --------------------
# The squared distance to the nearest training digit, averaged, for held-out digits, for their copies, for the middle
# of the line between two of them, and for samples. The copies are the fair yardstick: they are as smooth as the rest.
nearest = NearestNeighbors(n_neighbors=1).fit(X_train)
partners = np.random.default_rng(0).permutation(X_test)


def distance(digits):
    """Mean squared distance to the nearest training digit."""
    return (nearest.kneighbors(digits)[0] ** 2).mean()


rows = {}
for name, model in models.items():
    Z, Z_partners = model.transform(X_test), model.transform(partners)
    copies, middles = model.inverse_transform(Z), model.inverse_transform((Z + Z_partners) / 2)
    samples = model.sample(500, mean=True, random_state=0)
    rows[name] = [distance(digits) for digits in (copies, middles, samples)]
print(f"squared distance to the nearest training digit; of a held-out digit {distance(X_test):.2f}")
print(pd.DataFrame(rows, index=["copy", "middle", "sample"]).T.to_string(float_format="{:.2f}".format))

# %%
# The VAE's middles and samples are nearer to digits than PCA's at either size. The step from copies to samples is about
# as long for both: the VAE gains by a manifold that is nearer to digits everywhere. With four codes samples come out
# better than with eight, which :ref:`copy better <sphx_glr_auto_examples_plot_compression.py>`.
#
# A map of the latent plane
# -------------------------
# The KL term draws two codes of a VAE to a standard normal density about the origin (figure 14.10), so a grid there is
# a map of most that the model knows. Neighbours decode alike, and one digit turns into the next.
vae = VAETransformer(2, random_state=0).fit(X_train)
n_cells, edge = 13, 2.6  # so many cells of width 0.4 from -2.6 to 2.6
centres = np.linspace(-edge + 0.2, edge - 0.2, n_cells)
Z = np.stack(np.meshgrid(centres, centres[::-1]), axis=-1).reshape(-1, 2)
tiles = np.pad(vae.inverse_transform(Z).reshape(-1, 8, 8), [(0, 0), (1, 1), (1, 1)])  # a white frame about each
mosaic = tiles.reshape(n_cells, n_cells, 10, 10).swapaxes(1, 2).reshape(n_cells * 10, n_cells * 10)
codes = vae.transform(X_test)
print(f"codes of held-out digits: mean {codes.mean(axis=0).round(2)}, standard deviation {codes.std(axis=0).round(2)},")
print(f"{(abs(codes) < edge).all(axis=1).mean():.2f} of them within the grid")

figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, 5.2), layout="constrained")
points = left.scatter(*codes.T, c=y_test, cmap="tab10", vmin=-0.5, vmax=9.5, s=12)
left.add_patch(plt.Rectangle((-edge, -edge), 2 * edge, 2 * edge, fill=False, color="0.5", linestyle="--"))
left.set(title="Codes of held-out digits, and the grid", xlabel="$z_0$", ylabel="$z_1$", aspect="equal")
figure.colorbar(points, ax=left, ticks=range(10), label="digit")
right.imshow(mosaic, cmap="gray_r", vmin=0, vmax=1, extent=(-edge, edge, -edge, edge))
right.set(title="Decoded codes over the grid", xlabel="$z_0$", ylabel="$z_1$")
plt.show()
