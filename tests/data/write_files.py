"""Write the files that every later version has to load: run once for each release, with its version in the path.

    python tests/data/write_files.py

The folder of a version that was released is never written again.
"""

import json
from pathlib import Path
from zipfile import ZIP_DEFLATED

import skops.io
from sklearn.datasets import load_iris
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sklatent
from sklatent import AutoencoderTransformer, GenerativeClassifier, LatentOutlierDetector, PCAReducer, VAETransformer
from sklatent.model_selection import FusedGridSearchCV, FusedRandomizedSearchCV

FOLDER = Path(__file__).parent / sklatent.__version__


def models():
    """Small estimators of every class, unfitted, by the name of their file."""
    small = {"hidden_sizes": (4,), "max_epochs": 2, "random_state": 0}
    pca = PCAReducer(2)
    return {
        "pca": pca,
        "autoencoder": AutoencoderTransformer(2, **small),
        "vae": VAETransformer(2, prior="mixture", n_prior_components=2, likelihood="gaussian_diagonal", **small),
        "conv": VAETransformer(1, backbone="conv", image_shape=(1, 2, 2), **small),
        "pipeline": make_pipeline(StandardScaler(), VAETransformer(2, **small)),
        "classifier": GenerativeClassifier(PCAReducer(1), reject_fraction=0.05),
        "detector": LatentOutlierDetector(PCAReducer(1), n_splits=2),
        "grid_search": FusedGridSearchCV(VAETransformer(2, **small), {"nz": [1, 2]}, cv=2),
        "randomized_search": FusedRandomizedSearchCV(pca, {"nz": [1, 2, 3]}, n_iter=2, random_state=0),
    }


def results(model, X):
    """What a model gives for a few samples, in the order of its methods."""
    names = [name for name in ("transform", "score_samples", "predict") if hasattr(model, name)]
    return {name: getattr(model, name)(X[::30]).tolist() for name in names}


def main():
    """Write a file for each model, and what it gives."""
    X, y = load_iris(return_X_y=True)
    FOLDER.mkdir(exist_ok=True)
    fitted = {name: model.fit(X, y) for name, model in models().items()}
    fitted["partial"] = VAETransformer(1, hidden_sizes=(), random_state=0).partial_fit(X)
    for name, model in fitted.items():
        skops.io.dump(model, FOLDER / f"{name}.skops", compression=ZIP_DEFLATED, compresslevel=9)
    expected = {name: results(model, X) for name, model in fitted.items()}
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
