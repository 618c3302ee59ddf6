"""
How much of a horse is a zebra?
===============================

A generative classifier has a density for each class. So it says more of a row than the name of a class: how the row
divides among the classes, as a zebra is 0.7 of a horse, and how probable it is under all of them together (14.2). Here
it learns nine of the ten digits and then meets the tenth.
"""

# %%
# Nine digits
# -----------
# The nines are left out. Of the others, three fifths train, a fifth chooses the threshold, a fifth is the test.
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from sklatent import GenerativeClassifier, PCAReducer, VAETransformer

X, y = load_digits(return_X_y=True)
X, zebra = X / 16, 9
X_strange, X_known, y_known = X[y == zebra], X[y != zebra], y[y != zebra]
X_train, X_rest, y_train, y_rest = train_test_split(X_known, y_known, test_size=0.4, random_state=0, stratify=y_known)
X_tune, X_test, _, y_test = train_test_split(X_rest, y_rest, test_size=0.5, random_state=0, stratify=y_rest)

# %%
# Rejection
# ---------
# `predict` gives -1 to rows whose log p(x) is below `reject_threshold`, here the least probable twentieth of known
# digits. It matters of which: a density is higher on the rows that it was fitted on, so a quantile of their scores
# rejects far more of new digits than the twentieth it promises. One of held-out scores rejects about what it promises.
classifiers, records = {}, []
for density in (VAETransformer(8, random_state=0), PCAReducer(8)):
    classifier = GenerativeClassifier(density).fit(X_train, y_train)
    accuracy = classifier.score(X_test, y_test)
    for rows, known in {"training": X_train, "held-out": X_tune}.items():
        classifier.set_params(reject_threshold=float(np.quantile(classifier.score_samples(known), 0.05)))
        shares = [np.mean(classifier.predict(part) == classifier.reject_label_) for part in (X_test, X_strange)]
        records.append([type(density).__name__, accuracy, rows, classifier.reject_threshold, *shares])
columns = ["density", "accuracy", "5% of", "threshold, nats", "known rejected", f"{zebra}s rejected"]
print(pd.DataFrame(records, columns=columns).to_string(index=False, float_format="{:.3f}".format))

# %%
# What the tenth is made of
# -------------------------
# The last classifier, of exact densities by probabilistic PCA, divides the digits of the class that it has never seen.
# On average they divide among several classes; one by one they seldom do, since 64 pixels of evidence settle the
# matter between classes, rightly or not. That a row is of none of them shows in log p(x) alone.
proba = classifier.predict_proba(X_strange)
shares = pd.Series(proba.mean(axis=0), classifier.classes_).sort_values(ascending=False)
print(f"mean class probabilities of a {zebra}: " + ", ".join(f"{k} {share:.2f}" for k, share in shares.head(4).items()))
print(f"share of the {zebra}s of which no class has 0.9: {np.mean(proba.max(axis=1) < 0.9):.3f}")


def show(axes, digits, captions, title):
    """A row of digits, each over its caption."""
    for ax, digit, caption in zip(axes, digits, captions, strict=True):
        ax.imshow(digit.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[], xlabel=caption)
    axes[0].set_ylabel(title, rotation=0, ha="right", va="center")


def divide(shares):
    """The two classes with the largest shares of a row."""
    return "\n".join(f"{classifier.classes_[k]}: {shares[k]:.2f}" for k in shares.argsort()[:-3:-1])


scores_test, scores_strange = classifier.score_samples(X_test), classifier.score_samples(X_strange)
figure, axes = plt.subplots(4, 8, figsize=(10, 6.6), layout="constrained")
divided = proba.max(axis=1).argsort()[:8]
show(axes[0], X_strange[divided], map(divide, proba[divided]), f"most divided {zebra}s")
for line, title, digits, scores, order in [
    (axes[1], f"most probable {zebra}s", X_strange, scores_strange, -1),
    (axes[2], "most probable\nknown digits", X_test, scores_test, -1),
    (axes[3], "least probable\nknown digits", X_test, scores_test, 1),
]:
    rows = (order * scores).argsort()[:8]
    show(line, digits[rows], [f"{score:.0f} nats" for score in scores[rows]], title)

# %%
# The scores of known digits that were not trained on, and of the tenth; the line is the threshold.
figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
bins = np.linspace(min(scores_test.min(), scores_strange.min()), scores_test.max(), 60)
for scores, label in [(scores_test, "known digits, held out"), (scores_strange, f"{zebra}s, never seen")]:
    ax.hist(scores, bins, weights=np.full(len(scores), 1 / len(scores)), alpha=0.6, label=label)
ax.axvline(classifier.reject_threshold, color="black", linestyle="--", label="reject_threshold")
ax.set(title="Of none of the nine classes?", xlabel="log p(x), nats", ylabel="share of the digits")
ax.legend(loc="upper left")
plt.show()
