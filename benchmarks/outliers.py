"""One digit against the nine others: our detectors beside PyOD's.

Each class of scikit-learn's digits in turn is the normal one. A detector is fitted to half of its rows (about 90, of 64
pixels in [0, 1]) and ranks its other half against all rows of the nine other classes: ROC AUC, mean over the ten
classes. Every detector sees the same split, scores each row by one number and knows no labels. Codes have 8
dimensions.

PyOD's networks get the hidden layers that ours choose for 64 columns, (256, 128), and stay otherwise at PyOD's
defaults: columns standardized, batches of 32 with the last one dropped, dropout 0.2, 10 epochs for its autoencoder and
30 for its VAE. The layers of PyOD's autoencoder end in the code, so that one too has its activation, batch norm and
dropout. More rows for each are there to favour it: with the 50 epochs that ours train for; then on the pixels as they
are; then on pixels by StandardScaler. PyOD's own standardizing measures a pixel that is blank in all rows fitted in
units of 1e-8, beside which no other counts; StandardScaler leaves such a pixel as it is.

    python -m pip install pyod         # optional: without it, its rows are left out
    python benchmarks/outliers.py      # about two minutes on two cores

With `--part features` it is asked which value made a sample strange. In each of 500 new samples of a correlated normal
distribution one value is moved by six of its conditional standard deviations, and the value with the least of the
`score_features` is compared with the one that was moved. Beside it, the value that is farthest from the mean of its
feature, in standard deviations, and how much longer `score_features` takes than `score_samples`.

    python benchmarks/outliers.py --part features      # about half a minute
"""

import argparse
import time
from importlib.util import find_spec

import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklatent import AutoencoderTransformer, LatentOutlierDetector, PCAReducer, VAETransformer

NZ = 8
HIDDEN = [256, 128]
OURS = {
    "PCAReducer": lambda seed: LatentOutlierDetector(PCAReducer(NZ)),
    "AutoencoderTransformer": lambda seed: LatentOutlierDetector(AutoencoderTransformer(NZ, random_state=seed)),
    'AutoencoderTransformer, density="residual"': lambda seed: LatentOutlierDetector(
        AutoencoderTransformer(NZ, density="residual", random_state=seed)
    ),
    "VAETransformer": lambda seed: LatentOutlierDetector(VAETransformer(NZ, random_state=seed)),
}
FEATURE_SCORERS = {
    "farthest from the mean": lambda nz, seed: None,
    "PCAReducer": lambda nz, seed: PCAReducer(nz),
    "AutoencoderTransformer": lambda nz, seed: AutoencoderTransformer(nz, random_state=seed),
    'AutoencoderTransformer, density="residual"': lambda nz, seed: AutoencoderTransformer(
        nz, density="residual", random_state=seed
    ),
    "VAETransformer": lambda nz, seed: VAETransformer(nz, random_state=seed),
}


def features(n_seeds):
    """Print how often the least of the `score_features` is that of the value that was moved."""
    print(f"Moved values found, mean over {n_seeds} seeds; median of the times of score_features over score_samples")
    print(f"{'':40}{'3 of 8 features':>18}{'8 of 64 features':>18}{'time':>8}")
    for name, make in FEATURE_SCORERS.items():
        times = []
        few, many = (
            np.mean([moved_values(make(nz, seed), nz, n_features, seed, times) for seed in range(n_seeds)])
            for nz, n_features in [(3, 8), (8, 64)]
        )
        print(f"{name:40}{few:18.1%}{many:18.1%}" + (f"{np.median(times):8.2f}" if times else ""), flush=True)


def moved_values(model, n_factors, n_features, seed, times):
    """Fraction of the samples whose moved value has the least score. Appends a ratio of times."""
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((n_features, n_factors))
    covariance = W @ W.T + 0.5 * np.eye(n_features)
    X, X_new = (rng.multivariate_normal(np.zeros(n_features), covariance, size=n) for n in (2000, 500))
    moved = rng.integers(n_features, size=len(X_new))
    deviations = 1 / np.sqrt(np.diag(np.linalg.inv(covariance)))
    X_new[np.arange(len(X_new)), moved] += 6 * rng.choice([-1, 1], len(X_new)) * deviations[moved]
    if model is None:
        return np.mean((np.abs(X_new - X.mean(axis=0)) / X.std(axis=0)).argmax(axis=1) == moved)
    model.fit(X)
    scores, seconds = timed(model.score_features, X_new)
    times.append(seconds / timed(model.score_samples, X_new)[1])
    return np.mean(scores.argmin(axis=1) == moved)


def timed(function, X, n_repeats=5):
    """The result, and the least of the seconds that it took."""
    seconds = []
    for _ in range(n_repeats):
        start = time.perf_counter()
        result = function(X)
        seconds.append(time.perf_counter() - start)
    return result, min(seconds)


def one_class_detection(n_seeds):
    """Fit everything and print the table."""
    X, y = load_digits(return_X_y=True)
    problems = [one_class(X / 16, y, label) for label in np.unique(y)]
    start = time.perf_counter()
    rows = [report(name, make, problems, n_seeds) for name, make in (OURS | pyod_detectors()).items()]

    print(f"\nROC AUC of one digit against the others, mean over {len(problems)} digits; {n_seeds} seeds")
    print(f"{'':48}{'median':>8}{'least':>8}{'most':>8}{'worst digit':>13}{'seconds':>9}")
    for name, median, least, most, worst, seconds in rows:
        print(f"{name:48}{median:8.3f}{least:8.3f}{most:8.3f}{worst:13.3f}{seconds:9.1f}")
    print(f"The seconds are of ten fits and scorings. All of it took {time.perf_counter() - start:.0f} s.")


def one_class(X, y, label):
    """Rows to fit, rows to rank, and whether each of the latter is normal."""
    X_train, X_normal = train_test_split(X[y == label], test_size=0.5, random_state=0)
    X_test = np.concatenate([X_normal, X[y != label]])
    return X_train, X_test, np.arange(len(X_test)) < len(X_normal)


def report(name, make, problems, n_seeds):
    """A row of the table: median, least and most over the seeds, the worst digit's median, seconds."""
    areas, seconds = [], []
    for seed in range(n_seeds):
        start = time.perf_counter()
        areas.append([roc_auc(make(seed), *problem) for problem in problems])
        seconds.append(time.perf_counter() - start)
        digits = " ".join(f"{value:.3f}" for value in areas[-1])
        print(f"{name}, random_state={seed}: {np.mean(areas[-1]):.3f} in {seconds[-1]:.1f} s ({digits})", flush=True)
    means = np.mean(areas, axis=1)
    return name, np.median(means), means.min(), means.max(), np.median(areas, axis=0).min(), np.median(seconds)


def roc_auc(detector, X_train, X_test, is_normal):
    """ROC AUC of the detector; PyOD's decision function is larger for outliers, scikit-learn's for inliers."""
    scores = detector.fit(X_train).decision_function(X_test)
    return roc_auc_score(is_normal, scores if isinstance(detector, LatentOutlierDetector) else -scores)


def pyod_detectors():
    """PyOD's, by name, where it is installed."""
    if find_spec("pyod") is None:
        print("pyod is not installed: its rows are left out. python -m pip install pyod")
        return {}
    from pyod.models.auto_encoder import AutoEncoder
    from pyod.models.vae import VAE

    widths = {"hidden_neuron_list": [*HIDDEN, NZ]}
    pair = {"encoder_neuron_list": HIDDEN, "decoder_neuron_list": HIDDEN[::-1], "latent_dim": NZ}

    def maker(detector, *steps, **parameters):
        return lambda seed: make_pipeline(*steps, detector(random_state=seed, verbose=0, **parameters))

    makers = {}
    for name, detector, parameters in [("AutoEncoder", AutoEncoder, widths), ("VAE", VAE, pair)]:
        longer = parameters | {"epoch_num": 50}
        plain = longer | {"preprocessing": False}
        makers[f"PyOD {name}"] = maker(detector, **parameters)
        makers[f"PyOD {name}, 50 epochs"] = maker(detector, **longer)
        makers[f"PyOD {name}, 50 epochs, pixels as they are"] = maker(detector, **plain)
        makers[f"PyOD {name}, 50 epochs, StandardScaler"] = maker(detector, StandardScaler(), **plain)
    return makers


PARTS = {"one-class": one_class_detection, "features": features}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, default="one-class", help="default: one-class")
    parser.add_argument("--seeds", type=int, default=3, help="fits of each detector (default: 3)")
    arguments = parser.parse_args()
    PARTS[arguments.part](arguments.seeds)
