"""
One search over PCA, autoencoder and VAE
========================================

One search compares scikit-learn's PCA with the three models of this package as a step of a Pipeline, by the accuracy of
the classifier after them and by the log-likelihood of digits that were left out. The networks of all candidates and
folds are trained as a few stacks, and a progress bar shows their epochs.
"""

# %%
# Search
# ------
# The reducer is a parameter like any other. `FusedGridSearchCV` has the results of scikit-learn's `GridSearchCV`.
# Callbacks need scikit-learn 1.9, and the progress bar needs rich: `pip install "sklatent[progress]"`.
import matplotlib.pyplot as plt
import pandas as pd
from sklatent import AutoencoderTransformer, PCAReducer, VAETransformer
from sklatent.model_selection import FusedGridSearchCV
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0, stratify=y)

pipeline = Pipeline(
    [
        ("scale", MinMaxScaler()),
        ("reduce", PCA()),
        ("classify", LogisticRegression(max_iter=5000)),
    ]
)
sizes = [2, 8, 16]
autoencoder = AutoencoderTransformer(random_state=0)
vae = VAETransformer(random_state=0)
grid = [
    {"reduce": [PCA()], "reduce__n_components": sizes},
    {"reduce": [PCAReducer()], "reduce__nz": sizes},
    {"reduce": [autoencoder], "reduce__nz": sizes},
    {"reduce": [vae], "reduce__nz": sizes, "reduce__beta": [0.3, 1.0]},
]


def nats(model, X, y=None):
    """Mean log-likelihood of the scaled samples under the reducer."""
    return model[:-1].score(X)


scoring = {"accuracy": "accuracy", "nats": nats}
search = FusedGridSearchCV(
    pipeline, grid, scoring=scoring, refit="accuracy", cv=3, verbose=1
)
try:
    from sklearn.callback import ProgressBar

    search.set_callbacks(ProgressBar(max_propagation_depth=0))
except ImportError:
    print('no progress bar: pip install "scikit-learn>=1.9" rich')
search.fit(X_train, y_train)

# %%
# The ranked table: accuracy of a linear classifier on the latent codes, and held-out log-likelihood in nats per sample.
results = pd.DataFrame(search.cv_results_)
table = pd.DataFrame(
    {
        "rank": results["rank_test_accuracy"],
        "accuracy": results["mean_test_accuracy"],
        "nats": results["mean_test_nats"],
        "reducer": [type(reducer).__name__ for reducer in results["param_reduce"]],
        "nz": results["param_reduce__nz"].fillna(results["param_reduce__n_components"]),
        "beta": results["param_reduce__beta"],
        "route": results["route"],
    }
).astype({"nz": int})
ranked = table.sort_values("rank", kind="stable")
print(ranked.to_string(index=False, na_rep="", float_format="{:.3f}".format))

# %%
# Who wins, and by how much
# -------------------------
# With latent dimension 2 the networks leave PCA far behind, by accuracy and by log-likelihood. With 16, PCA keeps
# what a linear classifier needs, and is as accurate; as densities of new digits the networks stay ahead.
best = table.groupby(["nz", "reducer"])[["accuracy", "nats"]].max()
for nz in sizes:
    pca, ours = best.loc[nz].loc["PCA"], best.loc[nz].drop(["PCA", "PCAReducer"])
    by_accuracy, by_nats = ours["accuracy"].idxmax(), ours["nats"].idxmax()
    gain, nats_gained = ours.max() - pca
    print(f"nz={nz:2}: {by_accuracy} {gain:+.3f} in accuracy over PCA, ", end="")
    print(f"{by_nats} {nats_gained:+.1f} nats")
winner = search.best_params_
print(f"winner by accuracy: {type(winner['reduce']).__name__}, refitted; ", end="")
print(f"on the digits left out of the search: {search.score(X_test, y_test):.3f}")

# %%
# Latent spaces and reconstructions
# ---------------------------------
# Above, the two-dimensional latent codes of the held-out digits, coloured by label. Below, digits and their
# reconstructions by the VAE with the largest log-likelihood in the search.
figure = plt.figure(figsize=(12, 6.5), layout="constrained")
maps, images = figure.subfigures(2, 1, height_ratios=[2, 1])
reducers = [PCAReducer(2), autoencoder.set_params(nz=2), vae.set_params(nz=2)]
for ax, reducer in zip(maps.subplots(1, 3), reducers, strict=True):
    model = Pipeline([("scale", MinMaxScaler()), ("reduce", reducer)]).fit(X_train)
    Z = model.transform(X_test)
    points = ax.scatter(*Z.T, c=y_test, cmap="tab10", vmin=-0.5, vmax=9.5, s=12)
    ax.set(title=type(reducer).__name__, xlabel="$z_0$", ylabel="$z_1$")
maps.colorbar(points, ax=maps.axes, ticks=range(10), label="digit")

most_probable = table[table["reducer"] == "VAETransformer"]["nats"].idxmax()
model = pipeline.set_params(**search.cv_results_["params"][most_probable])[:-1]
reconstructed = model.fit(X_train).inverse_transform(model.transform(X_test[:15]))
axes = images.subplots(2, 15)
for row, digits in zip(axes, (X_test, reconstructed), strict=True):
    for ax, digit in zip(row, digits, strict=False):
        ax.imshow(digit.reshape(8, 8), cmap="gray_r", vmin=0, vmax=16)
        ax.set(xticks=[], yticks=[])
axes[0, 0].set_ylabel("digit")
axes[1, 0].set_ylabel("VAE")
figure.savefig("digits_search.png", dpi=100)
print("wrote digits_search.png")
