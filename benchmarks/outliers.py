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


def main(n_seeds):
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="fits of each detector (default: 3)")
    arguments = parser.parse_args()
    main(arguments.seeds)
