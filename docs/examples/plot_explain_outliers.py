"""
Finding outliers and explaining them
====================================

A detector says which samples are improbable, a p-value how surprising each is, and a score for each value says which
value does not fit the others.
"""

# %%
# Mistakes in a table
# -------------------
# Measurements of cell nuclei, on a logarithmic scale. Some of a test set get one wrong value: the smallest or the
# largest of its column, so that no look at a single column finds it.
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklatent import LatentOutlierDetector, PCAReducer
from sklatent.plotting import ScoreDisplay
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

table = load_breast_cancer(as_frame=True).data.filter(like="mean ")
table = np.log1p(table).rename(columns=lambda name: name.removeprefix("mean "))
X = pd.DataFrame(StandardScaler().fit_transform(table), columns=table.columns)
X_train, X_test = train_test_split(X, test_size=0.3, random_state=0)
rng = np.random.default_rng(0)
X_wrong = X_test.to_numpy().copy()
wrong = rng.choice(len(X_wrong), 12, replace=False)
columns = rng.integers(X.shape[1], size=len(wrong))
for i, j in zip(wrong, columns, strict=True):
    values = X_test.iloc[:, j]
    X_wrong[i, j] = values.max() if X_wrong[i, j] < values.median() else values.min()
is_wrong = np.isin(np.arange(len(X_wrong)), wrong)

# %%
# Scores and p-values
# -------------------
# The threshold is that of scores out of fold, so it holds for new samples. `select` bounds the fraction of those
# selected that are in order.
detector = LatentOutlierDetector(PCAReducer(4), contamination=0.05).fit(X_train)
X_wrong = pd.DataFrame(X_wrong, columns=X.columns)
scores = detector.score_samples(X_wrong)
print(f"area under the ROC curve: {roc_auc_score(is_wrong, -scores):.3f}")
p_values = detector.p_values(X_wrong)
print(f"median p-value: in order {np.median(p_values[~is_wrong]):.2f}, ", end="")
print(f"wrong {np.median(p_values[is_wrong]):.3f}")
selected = detector.select(X_wrong, fdr=0.3)
print(
    f"selected with fdr=0.3: {selected.sum()}, of which {is_wrong[selected].sum()} wrong"
)
groups = {
    "training": X_train,
    "in order": X_wrong[~is_wrong],
    "wrong": X_wrong[is_wrong],
}
ScoreDisplay.from_estimator(detector, groups)

# %%
# Which value does not fit
# ------------------------
# The score of each value given all others of its sample, log p(x_j | other features), in nats. The least one names the
# value that was changed in most of them.
feature_scores = detector.score_features(X_wrong)[wrong]
named = feature_scores.argmin(axis=1)
print(
    f"value found in {np.mean(named == columns):.0%} of the {len(wrong)} wrong samples"
)

order = np.argsort(scores[wrong])
figure, ax = plt.subplots(figsize=(9, 4.6), layout="constrained")
heat = ax.imshow(feature_scores[order].clip(-15), cmap="magma", aspect="auto")
ax.scatter(
    columns[order],
    range(len(wrong)),
    marker="s",
    s=160,
    facecolor="none",
    edgecolor="tab:cyan",
    linewidth=2,
    label="the value that was changed",
)
ax.set_xticks(range(X.shape[1]), X.columns, rotation=45, ha="right")
ax.set(yticks=range(len(wrong)), ylabel="wrong sample, most improbable first")
figure.colorbar(heat, label="log p(x_j | other features), nats")
ax.legend(loc="upper right", bbox_to_anchor=(1, 1.12))

# %%
# In a Pipeline
# -------------
# A scaler before the density is fitted with it, in each fold; the detector takes the Pipeline as it is.
pipeline = make_pipeline(StandardScaler(), PCAReducer(4))
raw = LatentOutlierDetector(pipeline).fit(table.loc[X_train.index])
found = raw.predict(table.loc[X_test.index]) == -1
print(f"outliers among the {len(found)} samples left out: {found.sum()}")
plt.show()
