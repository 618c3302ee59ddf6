"""
Filling holes
=============

`PCAReducer` takes NaN as missing: it is fitted to what is observed, by expectation maximization, scores what is
observed, and fills the holes with what the model expects there.
"""

# %%
# Digits with a third of their pixels missing
# -------------------------------------------
# The training digits have holes as well; no complete digit is ever seen.
import matplotlib.pyplot as plt
import numpy as np
from sklatent import PCAReducer
from sklearn.datasets import load_digits
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.model_selection import train_test_split

X = load_digits().data / 16
rng = np.random.default_rng(0)
X_holes = np.where(rng.random(X.shape) < 1 / 3, np.nan, X)
train, test = train_test_split(np.arange(len(X)), random_state=0)
holes = np.isnan(X_holes[test])

# %%
# How many components
# -------------------
# The log-likelihood of the observed pixels of digits that were left out tells, though no digit is complete.
scores = {
    nz: PCAReducer(nz).fit(X_holes[train]).score(X_holes[test]) for nz in (8, 16, 24)
}
nz = max(scores, key=scores.get)
print(", ".join(f"nz={nz}: {score:.1f} nats" for nz, score in scores.items()))

# %%
# Three ways to fill them
# -----------------------
# The root of the mean squared error of the missing pixels, which lie in [0, 1]. Digits are many and alike, so that the
# five nearest ones fill holes best; the model is a few components, and knows how sure it is.
model = PCAReducer(nz).fit(X_holes[train])
filled = {
    "mean": SimpleImputer().fit(X_holes[train]).transform(X_holes[test]),
    "neighbours": KNNImputer().fit(X_holes[train]).transform(X_holes[test]),
    f"PCAReducer({nz})": model.impute(X_holes[test]),
}
for name, digits in filled.items():
    error = np.sqrt(np.mean((digits - X[test])[holes] ** 2))
    print(f"{name:15} {error:.3f}")

# %%
# A score needs no filling: log p of the observed pixels is exact, and tells digits from their mirror images in spite of
# the holes.
mirrored = X_holes[test].reshape(-1, 8, 8)[:, :, ::-1].reshape(-1, 64)
observed = 64 - holes.sum(axis=1)
ours, theirs = (
    np.median(model.score_samples(part) / observed)
    for part in (X_holes[test], mirrored)
)
print(
    f"nats per observed pixel, median: digits {ours:.2f}, mirrored digits {theirs:.2f}"
)

figure, axes = plt.subplots(5, 14, figsize=(11, 4.2))
pictures = {"digit": X[test], "with holes": X_holes[test], **filled}
for line, (name, digits) in zip(axes, pictures.items(), strict=True):
    line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for ax, digit in zip(line, digits, strict=False):
        ax.imshow(digit.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        ax.set_facecolor("tab:orange")
        ax.set(xticks=[], yticks=[])
figure.tight_layout()
plt.show()
