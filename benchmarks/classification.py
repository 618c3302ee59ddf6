"""Accuracy of one density for each class on the digits, beside the classifiers that come to mind.

Mean over `StratifiedKFold(5, shuffle=True, random_state=0)` of the digits / 16.

    python benchmarks/classification.py    # about 2 minutes on two cores
"""

import time

from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KernelDensity, KNeighborsClassifier

from sklatent import AutoencoderTransformer, GenerativeClassifier, PCAReducer, VAETransformer

MODELS = {
    "LogisticRegression": LogisticRegression(max_iter=5000),
    "KNeighborsClassifier": KNeighborsClassifier(),
    "GenerativeClassifier(KernelDensity(0.4))": GenerativeClassifier(KernelDensity(bandwidth=0.4)),
    "GenerativeClassifier(GaussianMixture(reg_covar=0.01))": GenerativeClassifier(GaussianMixture(reg_covar=0.01)),
    "GenerativeClassifier(PCAReducer(8))": GenerativeClassifier(PCAReducer(8)),
    "GenerativeClassifier(AutoencoderTransformer(8))": GenerativeClassifier(AutoencoderTransformer(8, random_state=0)),
    "GenerativeClassifier(VAETransformer(8))": GenerativeClassifier(VAETransformer(8, random_state=0)),
}


def main():
    """Cross-validate everything and print the table."""
    X, y = load_digits(return_X_y=True)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    print(f"{'':56}{'accuracy':>10}{'deviation':>11}{'seconds':>9}")
    for name, model in MODELS.items():
        start = time.perf_counter()
        scores = cross_val_score(model, X / 16, y, cv=folds)
        seconds = time.perf_counter() - start
        print(f"{name:56}{scores.mean():10.4f}{scores.std():11.4f}{seconds:9.1f}", flush=True)


if __name__ == "__main__":
    main()
