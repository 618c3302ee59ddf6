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

With `--part contaminated` the training samples contain outliers: 0, 1, 5 or 10 % of them. Each of the ten digits in
turn is normal, the benign samples of the breast cancer data, and each of the three classes of the wine data; the others
are outliers. Half of the normal samples are fitted to, with outliers, and all that is left is ranked: ROC AUC. Columns
of breast cancer and wine are scaled by StandardScaler, for every detector. Beside ours, with and without
`support_fraction=0.75`, are three of scikit-learn and PyOD's two networks with the layers of ours, in batches of 16,
since the classes of wine have too few samples for its 32.

    python benchmarks/outliers.py --part contaminated --splits 1      # about a quarter of an hour

With `--part thresholds` it is asked what a threshold is worth. Half of the normal samples are fitted to; of the other
half, the fraction below the threshold for a `contamination` of 0.05 and 0.1 is compared with it, with `n_splits=5` and
with `n_splits=None`, and the fraction of the p-values up to a with a. Then as many outliers as make up 10 % of the new
samples are added, and `select` at `fdr=0.1` is compared with the truth. Behind each mean is its standard error over the
splits. Last, the time of a fit with 5 splits over that of a single one.

    python benchmarks/outliers.py --part thresholds --splits 20
    python benchmarks/outliers.py --part thresholds --splits 10-19 --only VAE,cancer      # a piece of it
"""

import argparse
import time
import warnings
from importlib.util import find_spec

import numpy as np
from sklearn.covariance import EllipticEnvelope
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklatent import AutoencoderTransformer, LatentOutlierDetector, PCAReducer, VAETransformer

NZ = 8
HIDDEN = [256, 128]
OURS = {
    "PCAReducer": lambda seed: LatentOutlierDetector(PCAReducer(NZ), n_splits=None),
    "AutoencoderTransformer": lambda seed: LatentOutlierDetector(
        AutoencoderTransformer(NZ, random_state=seed), n_splits=None
    ),
    'AutoencoderTransformer, density="residual"': lambda seed: LatentOutlierDetector(
        AutoencoderTransformer(NZ, density="residual", random_state=seed), n_splits=None
    ),
    "VAETransformer": lambda seed: LatentOutlierDetector(VAETransformer(NZ, random_state=seed), n_splits=None),
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


def pyod_detectors(**common):
    """PyOD's, by name, where it is installed; with parameters for all of them."""
    if find_spec("pyod") is None:
        print("pyod is not installed: its rows are left out. python -m pip install pyod")
        return {}
    from pyod.models.auto_encoder import AutoEncoder
    from pyod.models.vae import VAE

    widths = {"hidden_neuron_list": [*HIDDEN, NZ]}
    pair = {"encoder_neuron_list": HIDDEN, "decoder_neuron_list": HIDDEN[::-1], "latent_dim": NZ}

    def maker(detector, *steps, **parameters):
        return lambda seed: make_pipeline(*steps, detector(random_state=seed, verbose=0, **parameters, **common))

    makers = {}
    for name, detector, parameters in [("AutoEncoder", AutoEncoder, widths), ("VAE", VAE, pair)]:
        longer = parameters | {"epoch_num": 50}
        plain = longer | {"preprocessing": False}
        makers[f"PyOD {name}"] = maker(detector, **parameters)
        makers[f"PyOD {name}, 50 epochs"] = maker(detector, **longer)
        makers[f"PyOD {name}, 50 epochs, pixels as they are"] = maker(detector, **plain)
        makers[f"PyOD {name}, 50 epochs, StandardScaler"] = maker(detector, StandardScaler(), **plain)
    return makers


CONTAMINATIONS = (0.0, 0.01, 0.05, 0.1)
DENSITIES = {
    "PCAReducer": lambda seed: PCAReducer(NZ),
    "AutoencoderTransformer": lambda seed: AutoencoderTransformer(NZ, random_state=seed),
    "VAETransformer": lambda seed: VAETransformer(NZ, random_state=seed),
}
SCIKIT_LEARN = {
    "IsolationForest": lambda seed: IsolationForest(random_state=seed),
    "EllipticEnvelope": lambda seed: EllipticEnvelope(random_state=seed),
    "LocalOutlierFactor": lambda seed: LocalOutlierFactor(novelty=True),
}


def normal_classes():
    """Name of the data, samples, mask of the normal ones, and whether to scale the columns."""
    X, y = load_digits(return_X_y=True)
    yield from (("digits", X / 16, y == label, False) for label in np.unique(y))
    X, y = load_breast_cancer(return_X_y=True)
    yield "breast cancer", X, y == 1, True
    X, y = load_wine(return_X_y=True)
    yield from (("wine", X, y == label, True) for label in np.unique(y))


def split_contaminated(is_normal, fraction, rng):
    """Indices of half of the normal samples with a fraction of outliers among them, and of all others."""
    normal, outliers = (rng.permutation(np.flatnonzero(mask)) for mask in (is_normal, ~is_normal))
    n_normal = len(normal) // 2
    n_outliers = round(fraction / (1 - fraction) * n_normal)
    train = np.concatenate([normal[:n_normal], outliers[:n_outliers]])
    return train, np.setdiff1d(np.arange(len(is_normal)), train)


def is_wanted(title, only):
    """Whether a title contains each of some words."""
    return all(word in title for word in only)


def contaminated(splits, only=()):
    """Print the ROC AUC of detectors that were fitted to samples with outliers among them."""
    names = list(dict.fromkeys(name for name, *_ in normal_classes()))
    print("ROC AUC with 0, 1, 5 and 10 % outliers among the training samples; mean over classes, median over splits")
    print(f"{'':46}" + "".join(f"{name:>26}" for name in [*names, "mean of all"]))
    for detector, make in contaminated_detectors().items():
        if not is_wanted(detector, only):
            continue
        start = time.perf_counter()
        areas = {name: contaminated_areas(make, name, splits) for name in names}
        values = [*areas.values(), np.mean(list(areas.values()), axis=0)]
        cells = "".join("  " + "".join(f"{area:6.3f}" for area in row) for row in values)
        print(f"{detector:46}{cells}  {time.perf_counter() - start:.0f} s", flush=True)


def contaminated_detectors():
    """Ours with and without robust supports, scikit-learn's, and PyOD's with the layers of ours."""
    # PyOD drops a last batch that is not full, and the classes of wine have fewer than the 32 samples of its default.
    pyod = {name: make for name, make in pyod_detectors(batch_size=16).items() if name.count(",") == 0}
    densities = {"default: PCAReducer, parallel": lambda seed: None} | DENSITIES
    ours = {
        f"{name}{label}": lambda seed, density=density, fraction=fraction: LatentOutlierDetector(
            density(seed), support_fraction=fraction, n_splits=None
        )
        for name, density in densities.items()
        for label, fraction in (("", None), (", support_fraction=0.75", 0.75))
    }
    return ours | SCIKIT_LEARN | pyod


def contaminated_areas(make, name, splits):
    """ROC AUC for each contamination: mean over the classes of a data set, median over the splits."""
    problems = [problem[1:] for problem in normal_classes() if problem[0] == name]
    areas = np.empty((len(splits), len(problems), len(CONTAMINATIONS)))
    for row, k, column in np.ndindex(areas.shape):
        (X, is_normal, scaled), split = problems[k], splits[row]
        train, test = split_contaminated(is_normal, CONTAMINATIONS[column], np.random.default_rng(split))
        areas[row, k, column] = ranked(make(split), X, is_normal, scaled, train, test)
    return np.median(areas.mean(axis=1), axis=0)


def ranked(detector, X, is_normal, scaled, train, test):
    """ROC AUC of a detector on the samples that it was not fitted to."""
    if scaled:
        scaler = StandardScaler().fit(X[train])
        X = scaler.transform(X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of EllipticEnvelope, for blank pixels
        decision = detector.fit(X[train]).decision_function(X[test])
    is_ours = not hasattr(detector, "steps")  # PyOD's are Pipelines here, and larger for outliers
    return roc_auc_score(is_normal[test], decision if is_ours else -decision)


def thresholds(splits, only=()):
    """Print what thresholds, p-values and selections are worth on new samples."""
    for name, make in DENSITIES.items():
        for data in ("digits", "breast cancer"):
            title = f"{name}, {data}"
            if is_wanted(title, only):
                problems = [problem[1:] for problem in normal_classes() if problem[0] == data]
                found = np.array([threshold_means(title, make(split), problems, split) for split in splits])
                report_thresholds(title, found)
    if is_wanted("times", only):
        fit_times()


def threshold_means(title, density, problems, split):
    """The figures of a split, mean over the classes; printed on the way."""
    start = time.perf_counter()
    means = np.mean([threshold_figures(density, *problem, split) for problem in problems], axis=0)
    seconds = time.perf_counter() - start
    print(f"{title}, split {split}: {' '.join(f'{mean:.4f}' for mean in means)} in {seconds:.0f} s", flush=True)
    return means


LEVELS = (0.01, 0.05, 0.1, 0.2)


def threshold_figures(density, X, is_normal, scaled, split):
    """Flagged fractions with and without splits, fractions of p-values, and the false discovery proportion."""
    rng = np.random.default_rng(split)
    model = make_pipeline(StandardScaler(), density) if scaled else density
    train, rest = split_contaminated(is_normal, 0.0, rng)
    new, outliers = rest[is_normal[rest]], rng.permutation(rest[~is_normal[rest]])
    detectors = [LatentOutlierDetector(model, n_splits=n).fit(X[train]) for n in (5, None)]
    scores = [detector.score_samples(X[new]) for detector in detectors]
    flagged = [
        np.mean(score < np.percentile(detector.training_scores_, 100 * c, method="weibull"))
        for detector, score in zip(detectors, scores, strict=True)
        for c in (0.05, 0.1)
    ]
    p_values = detectors[0].p_values(X[new])
    mixed = np.concatenate([new, outliers[: round(len(new) / 9)]])
    selected = detectors[0].select(X[mixed], fdr=0.1)
    false = np.sum(selected & is_normal[mixed]) / max(selected.sum(), 1)
    power = np.mean(selected[~is_normal[mixed]])
    return [*flagged, *(np.mean(p_values <= a) for a in LEVELS), false, power]


def report_thresholds(title, found):
    """A block of the figures, each with its standard error over the splits."""
    names = [
        *(f"flagged at contamination={c}, n_splits={n}" for n in (5, None) for c in (0.05, 0.1)),
        *(f"P(p <= {a})" for a in LEVELS),
        "false discoveries at fdr=0.1",
        "outliers selected at fdr=0.1",
    ]
    print(f"\n{title}, {len(found)} splits")
    for name, values in zip(names, found.T, strict=True):
        error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
        print(f"  {name:44}{values.mean():8.3f} +- {error:.3f}", flush=True)


def fit_times():
    """Print the time of a fit with 5 splits over that of a single one, on all digits; median of three."""
    X = load_digits().data / 16
    print("\nTime of a fit with n_splits=5 over n_splits=None, digits (1,797 samples)")
    for name, make in DENSITIES.items():
        ratios = []
        for seed in range(3):
            five, one = (timed(LatentOutlierDetector(make(seed), n_splits=n).fit, X, 1)[1] for n in (5, None))
            ratios.append(five / one)
        print(f"  {name:44}{np.median(ratios):8.2f}", flush=True)


PARTS = {
    "one-class": one_class_detection,
    "features": features,
    "contaminated": contaminated,
    "thresholds": thresholds,
}
SPLIT_PARTS = ("contaminated", "thresholds")


def to_numbers(text):
    """The numbers below "20", or those from "10-19"."""
    first, dash, last = text.partition("-")
    return range(int(first), int(last) + 1) if dash else range(int(text))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, default="one-class", help="default: one-class")
    parser.add_argument(
        "--seeds",
        "--splits",
        type=to_numbers,
        default="3",
        help="fits of each detector, or random splits: their number, or the first and the last as 10-19 (default: 3)",
    )
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=[],
        help=f"words that a row must contain, separated by commas; for the parts {' and '.join(SPLIT_PARTS)}",
    )
    arguments = parser.parse_args()
    if arguments.part in SPLIT_PARTS:
        PARTS[arguments.part](arguments.seeds, arguments.only)
    else:
        PARTS[arguments.part](len(arguments.seeds))
