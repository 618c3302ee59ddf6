"""
One search over PCA, autoencoder and VAE
========================================

A Pipeline scales the digits, reduces their dimension and classifies the latent codes. One grid search compares
scikit-learn's PCA with the three models of this package as the reducer, by the accuracy of the classifier and by the
log-likelihood of held-out digits under the reducer. Each reducer is a density model, so their log-likelihoods are
directly comparable.
"""

# %%
# Search
# ------
# The reducer is a parameter like any other. Every fit prints one line.
import matplotlib.pyplot as plt
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler

from sklatent import AutoencoderTransformer, PCAReducer, VAETransformer

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0, stratify=y)

pipeline = Pipeline([("scale", MinMaxScaler()), ("reduce", PCA()), ("classify", LogisticRegression(max_iter=5000))])
sizes = [2, 8, 16]
grid = [
    {"reduce": [PCA()], "reduce__n_components": sizes},
    {"reduce": [PCAReducer()], "reduce__nz": sizes},
    {"reduce": [AutoencoderTransformer(random_state=0)], "reduce__nz": sizes},
    {"reduce": [VAETransformer(random_state=0)], "reduce__nz": sizes, "reduce__beta": [0.3, 1.0]},
]


def nats(model, X, y=None):
    """Mean log-likelihood of the scaled samples under the reducer."""
    return model[:-1].score(X)


scoring = {"accuracy": "accuracy", "nats": nats}
search = GridSearchCV(pipeline, grid, scoring=scoring, refit="accuracy", cv=3, n_jobs=2, verbose=3)
search.fit(X_train, y_train)

# %%
# The ranked table: accuracy of a linear classifier on the latent codes, and held-out log-likelihood in nats per sample.
results = pd.DataFrame(search.cv_results_)
table = pd.DataFrame(
    {
        "rank": results["rank_test_accuracy"],
        "accuracy": results["mean_test_accuracy"],
        "nats": results["mean_test_nats"],
        "fit_seconds": results["mean_fit_time"],
        "reducer": [type(reducer).__name__ for reducer in results["param_reduce"]],
        "nz": results["param_reduce__nz"].fillna(results["param_reduce__n_components"]).astype(int),
        "beta": results["param_reduce__beta"],
    }
).sort_values("rank", kind="stable")
print(table.to_string(index=False, na_rep="", float_format="{:.3f}".format))
print(f"best by accuracy, on the digits left out of the search: {search.score(X_test, y_test):.3f}")

# %%
# Comparison by log-likelihood
# ----------------------------
# The VAE with the largest log-likelihood in the search, and probabilistic PCA with the same latent dimension, on
# held-out digits.
best = table[table["reducer"] == "VAETransformer"]["nats"].idxmax()
vae = pipeline.set_params(**results["params"][best])[:-1].fit(X_train)
ppca = Pipeline([("scale", MinMaxScaler()), ("reduce", PCAReducer(table["nz"][best]))]).fit(X_train)
print(f"held-out nats per sample with nz={table['nz'][best]}, beta={table['beta'][best]:g}:")
print(f"  VAE, lower bound on log p(x)     {vae.score(X_test):7.2f}")
print(f"  probabilistic PCA, exact log p(x) {ppca.score(X_test):6.2f}")

# %%
# Latent spaces and reconstructions
# ---------------------------------
# Above, the two-dimensional latent codes of the held-out digits, coloured by label. Below, digits and their
# reconstructions by the best VAE.
figure = plt.figure(figsize=(12, 6.5), layout="constrained")
maps, images = figure.subfigures(2, 1, height_ratios=[2, 1])
reducers = [PCAReducer(2), AutoencoderTransformer(2, random_state=0), VAETransformer(2, random_state=0)]
for ax, reducer in zip(maps.subplots(1, 3), reducers, strict=True):
    Z = Pipeline([("scale", MinMaxScaler()), ("reduce", reducer)]).fit(X_train).transform(X_test)
    points = ax.scatter(*Z.T, c=y_test, cmap="tab10", vmin=-0.5, vmax=9.5, s=12)
    ax.set(title=type(reducer).__name__, xlabel="$z_0$", ylabel="$z_1$")
maps.colorbar(points, ax=maps.axes, ticks=range(10), label="digit")

reconstructed = vae.inverse_transform(vae.transform(X_test[:15]))
axes = images.subplots(2, 15)
for row, digits in zip(axes, (X_test, reconstructed), strict=True):
    for ax, digit in zip(row, digits, strict=False):
        ax.imshow(digit.reshape(8, 8), cmap="gray_r", vmin=0, vmax=16)
        ax.set(xticks=[], yticks=[])
axes[0, 0].set_ylabel("digit")
axes[1, 0].set_ylabel("VAE")
figure.savefig("digits_search.png", dpi=100)
print("wrote digits_search.png")
