"""
Choosing nz and beta
====================

Log-likelihoods cannot choose `beta`, and say little about what latent codes are good for. What can: the score of what
comes after them, and without that the knee of the curve of rate and distortion.
"""

# %%
# One search, three numbers for each candidate
# --------------------------------------------
# The accuracy of a classifier on the latent codes, their rate in nats, and the distortion, which is what they leave
# out. All 36 networks are trained as one.
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklatent import VAETransformer
from sklatent.metrics import active_units_scorer, distortion_scorer, rate_scorer
from sklatent.model_selection import FusedGridSearchCV
from sklatent.plotting import RateDistortionDisplay
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

X, y = load_digits(return_X_y=True)
vae = VAETransformer(random_state=0)
pipeline = Pipeline([("vae", vae), ("classify", LogisticRegression(max_iter=2000))])
sizes, betas = [2, 4, 8, 16], [0.3, 1.0, 3.0]
scoring = {
    "accuracy": "accuracy",
    "rate": rate_scorer,
    "distortion": distortion_scorer,
    "active": active_units_scorer,
}
search = FusedGridSearchCV(
    pipeline,
    {"vae__nz": sizes, "vae__beta": betas},
    scoring=scoring,
    refit="accuracy",
    cv=3,
)
results = search.fit(X / 16, y).cv_results_

# %%
# The curve
# ---------
# Along it `beta` falls from left to right. Beyond the knee, more rate takes off little distortion.
RateDistortionDisplay.from_cv_results(results, score="accuracy")

# %%
# How many latent dimensions are used
# -----------------------------------
# A latent dimension is worth its rate as long as it takes off more than `beta` times as much distortion; the others
# collapse to the prior. So `beta` limits the number of active dimensions, whatever `nz` is.
table = pd.DataFrame(
    {
        "nz": np.asarray(results["param_vae__nz"], dtype=int),
        "beta": np.asarray(results["param_vae__beta"], dtype=float),
        "accuracy": results["mean_test_accuracy"],
        "rate": -results["mean_test_rate"],
        "active": results["mean_test_active"],
    }
)
figure, axes = plt.subplots(1, 3, figsize=(13, 3.8))
for ax, name in zip(axes, ["accuracy", "rate", "active"], strict=True):
    values = table.pivot(index="nz", columns="beta", values=name).loc[sizes, betas]
    ax.imshow(values, cmap="viridis", aspect="auto")
    for (i, j), value in np.ndenumerate(values.to_numpy()):
        ax.text(j, i, f"{value:.3g}", ha="center", va="center", color="white")
    ax.set_xticks(range(len(betas)), betas)
    ax.set_yticks(range(len(sizes)), sizes)
    ax.set(xlabel="beta", ylabel="nz", title=name)
figure.tight_layout()

# %%
# The choice
# ----------
# Of the candidates whose accuracy is within a standard error of the best, the one with the smallest rate.
best = table["accuracy"].idxmax()
error = results["std_test_accuracy"][best] / np.sqrt(search.n_splits_)
good = table[table["accuracy"] >= table["accuracy"][best] - error]
choice = good.loc[good["rate"].idxmin()]
print(f"best accuracy: nz={table['nz'][best]}, beta={table['beta'][best]:g}, ", end="")
print(f"{table['accuracy'][best]:.3f} with {table['rate'][best]:.0f} nats")
print(f"choice: nz={choice['nz']:.0f}, beta={choice['beta']:g}, ", end="")
print(f"{choice['accuracy']:.3f} with {choice['rate']:.0f} nats")
plt.show()
