"""Damaged files of skops: how many load, and as what. None runs code, and none gives another model without an error.

Each of 18 kinds of damage, such as flipped bits, swapped arrays, a huge shape, another class or a pickle inside, at
random places of the files of six models. A file is "refused" where loading raises, "useless" where an object without a
state comes out of it whose every use raises, and "same" where the damage is in bytes that do not matter.

    python benchmarks/safety.py    # 5,400 files, about half a minute
"""

import argparse
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from sklearn.datasets import load_iris

from sklatent import AutoencoderTransformer, GenerativeClassifier, LatentOutlierDetector, PCAReducer, VAETransformer
from sklatent.model_selection import FusedGridSearchCV

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # a part of them is tested there
from damaged_files import KINDS, Judge

OUTCOMES = ["refused", "same", "useless", "different", "code"]


def main():
    """Print a table of the outcomes, a line for each kind of damage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=50, help="damaged files of each kind and model")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    judges, start, total = fitted(), time.perf_counter(), Counter()
    rng = np.random.default_rng(arguments.seed)
    print(f"{'damage':18s}" + "".join(f"{name:>11s}" for name in OUTCOMES))
    for kind in KINDS:
        found = sum((judge.count(kind, arguments.files, rng) for judge in judges), Counter())
        total += found
        print(f"{kind:18s}" + "".join(f"{found[name]:11d}" for name in OUTCOMES), flush=True)
    print(f"{'all':18s}" + "".join(f"{total[name]:11d}" for name in OUTCOMES))
    print(f"{total.total()} files in {time.perf_counter() - start:.0f} s")


def fitted():
    """A judge of each model."""
    X, y = load_iris(return_X_y=True)
    small = {"hidden_sizes": (4,), "max_epochs": 2, "random_state": 0}
    vae = VAETransformer(2, n_draws=2, **small)
    models = [
        PCAReducer(2).partial_fit(X),
        AutoencoderTransformer(2, **small).fit(X),
        VAETransformer(2, n_draws=2, **small).partial_fit(X),
        GenerativeClassifier(PCAReducer(1)).fit(X, y),
        LatentOutlierDetector(PCAReducer(1), n_splits=2).fit(X),
        FusedGridSearchCV(vae, {"nz": [1, 2]}, cv=2).fit(X),
    ]
    return [Judge(model, X[:5]) for model in models]


if __name__ == "__main__":
    main()
