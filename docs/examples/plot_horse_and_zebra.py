"""
How much of a horse is a zebra?
===============================

A generative classifier has a density for each class. So it predicts more than a label: the probability of each class,
as a zebra may be a horse with probability 0.7, and the density of the sample under all classes together (Chaudhury
2024, section 14.2). Here it learns nine of the ten digits and is then given the tenth.
"""

# %%
# Nine digits
# -----------
# The nines are left out. The other digits are split into a training set (three fifths), a validation set for the choice
# of the threshold (one fifth) and a test set (one fifth).
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklatent import GenerativeClassifier, PCAReducer, VAETransformer
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

X, y = load_digits(return_X_y=True)
X, zebra = X / 16, 9
X_strange, X_known, y_known = X[y == zebra], X[y != zebra], y[y != zebra]
X_train, X_rest, y_train, y_rest = train_test_split(
    X_known, y_known, test_size=0.4, random_state=0, stratify=y_known
)
X_tune, X_test, _, y_test = train_test_split(
    X_rest, y_rest, test_size=0.5, random_state=0, stratify=y_rest
)

# %%
# Rejection
# ---------
# ``predict`` returns -1 for samples whose log p(x) is below `reject_threshold`, here the 5 % quantile of the scores of
# known digits. A density is higher on its training samples, so the quantile of their scores rejects far more than 5 %
# of new digits. The quantile of held-out scores rejects about 5 %.
classifiers, records = {}, []
for density in (VAETransformer(8, random_state=0), PCAReducer(8)):
    classifier = GenerativeClassifier(density).fit(X_train, y_train)
    accuracy = classifier.score(X_test, y_test)
    for part, known in {"training": X_train, "held-out": X_tune}.items():
        classifier.set_params(
            reject_threshold=float(np.quantile(classifier.score_samples(known), 0.05))
        )
        rejected = [
            np.mean(classifier.predict(X) == classifier.reject_label_)
            for X in (X_test, X_strange)
        ]
        records.append(
            [
                type(density).__name__,
                accuracy,
                part,
                classifier.reject_threshold,
                *rejected,
            ]
        )
columns = [
    "density",
    "accuracy",
    "5% of",
    "threshold, nats",
    "known rejected",
    f"{zebra}s rejected",
]
print(
    pd.DataFrame(records, columns=columns).to_string(
        index=False, float_format="{:.3f}".format
    )
)

# %%
# Predictions for the unseen digit
# --------------------------------
# The last classifier, which has the exact densities of probabilistic PCA, predicts class probabilities for the digits
# of the class that it has never seen. Averaged over these digits, the probability is spread over several classes. For a
# single digit it rarely is: the evidence of 64 pixels decides for one class, rightly or not. Only log p(x) shows that a
# sample belongs to none of them.
proba = classifier.predict_proba(X_strange)
means = pd.Series(proba.mean(axis=0), classifier.classes_).sort_values(ascending=False)
print(
    f"mean class probabilities of a {zebra}: "
    + ", ".join(f"{k} {mean:.2f}" for k, mean in means.head(4).items())
)
print(
    f"fraction of the {zebra}s without a class of probability 0.9: {np.mean(proba.max(axis=1) < 0.9):.3f}"
)


def show(axes, digits, captions, title):
    """Plot digits side by side, each above its caption."""
    for ax, digit, caption in zip(axes, digits, captions, strict=True):
        ax.imshow(digit.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[], xlabel=caption)
    axes[0].set_ylabel(title, rotation=0, ha="right", va="center")


def describe(probabilities):
    """Format the two most probable classes of a sample."""
    return "\n".join(
        f"{classifier.classes_[k]}: {probabilities[k]:.2f}"
        for k in probabilities.argsort()[:-3:-1]
    )


scores_test, scores_strange = (
    classifier.score_samples(X_test),
    classifier.score_samples(X_strange),
)
figure, axes = plt.subplots(4, 8, figsize=(10, 6.6), layout="constrained")
uncertain = proba.max(axis=1).argsort()[:8]
show(
    axes[0],
    X_strange[uncertain],
    map(describe, proba[uncertain]),
    f"least certain {zebra}s",
)
for line, title, digits, scores, order in [
    (axes[1], f"most probable {zebra}s", X_strange, scores_strange, -1),
    (axes[2], "most probable\nknown digits", X_test, scores_test, -1),
    (axes[3], "least probable\nknown digits", X_test, scores_test, 1),
]:
    chosen = (order * scores).argsort()[:8]
    show(line, digits[chosen], [f"{score:.0f} nats" for score in scores[chosen]], title)

# %%
# The scores of held-out known digits and of the unseen digit. The vertical line is the threshold.
figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
bins = np.linspace(min(scores_test.min(), scores_strange.min()), scores_test.max(), 60)
for scores, label in [
    (scores_test, "known digits, held out"),
    (scores_strange, f"{zebra}s, never seen"),
]:
    ax.hist(
        scores,
        bins,
        weights=np.full(len(scores), 1 / len(scores)),
        alpha=0.6,
        label=label,
    )
ax.axvline(
    classifier.reject_threshold, color="black", linestyle="--", label="reject_threshold"
)
ax.set(
    title="Known and unseen digits",
    xlabel="log p(x), nats",
    ylabel="fraction of the digits",
)
ax.legend(loc="upper left")
plt.show()
