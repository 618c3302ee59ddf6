"""PCA beside scikit-learn's solvers, IncrementalPCA, torch.pca_lowrank and torch_pca.

Rows have deviations that fall as the root of the index, about a mean of the size of one deviation. Times are medians,
the estimators in an order drawn anew each time, since threads of one may still be waiting when the next begins. The
error of a fit is the largest relative one of its variances against the exact ones, and the angle the largest principal
angle between its components and the exact ones. Each estimator's peak memory is that of a process of its own, less what
it had with the rows in memory.

    python benchmarks/pca.py                              # all parts but the slow ones: about 12 minutes
    python benchmarks/pca.py --part speed --auto --repeats 9    # beside scikit-learn's auto alone
    python benchmarks/pca.py --part speed --shape 20000x2000 --dtype float32
    python benchmarks/pca.py --part scores --slow         # with scikit-learn's scores of 2000 x 20000, two minutes
    python benchmarks/pca.py --part dimension             # how often nz="parallel" and "mle" find a planted rank
"""

import argparse
import subprocess
import sys
import time
import warnings
from importlib.util import find_spec

import numpy as np
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA, IncrementalPCA
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, SimpleImputer

from sklatent import PCAReducer

SHAPES = {
    "60000x784": 50,
    "1797x64": 16,
    "200000x100": 20,
    "5000x5000": 50,
    "20000x2000": 50,
    "2000x20000": 20,
}
AUTO = ("PCAReducer", "sklearn auto")
# Beyond so many operations the solvers that decompose everything are left out.
LARGEST_FULL = 1e11


class TorchLowRank:
    """torch.pca_lowrank with an estimator's attributes."""

    def __init__(self, nz):
        self.nz = nz

    def fit(self, X):
        """Fit to X."""
        import torch

        _, values, vectors = torch.pca_lowrank(torch.from_numpy(X), self.nz)
        self.explained_variance_ = values.numpy() ** 2 / (len(X) - 1)
        self.components_ = vectors.numpy().T
        return self


def estimators(n, d, nz):
    """Name and unfitted estimator of each row of the table."""
    yield "PCAReducer", PCAReducer(nz, random_state=0)
    yield "sklearn auto", PCA(nz, random_state=0)
    yield "sklearn randomized", PCA(nz, svd_solver="randomized", random_state=0)
    yield "sklearn arpack", PCA(nz, svd_solver="arpack", random_state=0)
    if d <= 5000:
        yield "sklearn covariance_eigh", PCA(nz, svd_solver="covariance_eigh")
    if n * d * min(n, d) <= LARGEST_FULL:
        yield "sklearn full", PCA(nz, svd_solver="full")
        yield "IncrementalPCA", IncrementalPCA(nz)
    yield "torch.pca_lowrank", TorchLowRank(nz)
    if find_spec("torch_pca"):
        from torch_pca import PCA as TorchPCA

        yield "torch_pca", TorchPCA(nz)


def rows(n, d, dtype):
    """Rows whose deviations fall slowly."""
    rng = np.random.default_rng(0)
    return (rng.standard_normal((n, d), dtype=np.float32) * np.arange(1, d + 1, dtype=np.float32) ** -0.5 + 1).astype(
        dtype
    )


def speed(shapes, dtypes, repeats, auto):
    """Fit and transform of every estimator, or of "auto" alone, and how close it comes."""
    for shape in shapes:
        for dtype in dtypes:
            n, d = map(int, shape.split("x"))
            n_repeats = repeats * (30 if n * d < 2**20 else 1)
            print(f"\n{shape}, {dtype}, {SHAPES.get(shape, 20)} components, median of {n_repeats}")
            print(
                f"{'':26}{'fit s':>9}{'ratio':>8}{'transform s':>13}{'error':>10}{'mean error':>12}{'angle, deg':>12}"
            )
            compare(rows(n, d, dtype), SHAPES.get(shape, 20), n_repeats, auto)


def compare(X, nz, repeats, auto):
    """Print a row for each estimator; the ratio is the median of those in one round."""
    variances, components = exact_pca(X, nz)
    fits = {name: (model, []) for name, model in estimators(*X.shape, nz) if not auto or name in AUTO}
    rng = np.random.default_rng(0)
    for _ in range(repeats):
        for name in rng.permutation(list(fits)):
            model, times = fits[name]
            times.append(seconds(model.fit, X))
    base = np.array(fits["sklearn auto"][1])
    for name, (model, times) in fits.items():
        transform = median_of(repeats, model.transform, X) if hasattr(model, "transform") else np.nan
        errors = np.abs(np.asarray(model.explained_variance_) / variances - 1)
        angle = np.degrees(subspace_angles(np.asarray(model.components_, dtype=float).T, components.T).max())
        print(f"{name:26}{np.median(times):9.4f}{np.median(times / base):8.2f}{transform:13.4f}", end="")
        print(f"{errors.max():10.1e}{errors.mean():12.1e}{angle:12.4f}", flush=True)


def exact_pca(X, nz):
    """Leading variances and components by float64 products of rows centred in float64."""
    rows = X.astype(np.float64)
    rows -= rows.mean(axis=0)
    if len(rows) >= rows.shape[1]:
        values, vectors = np.linalg.eigh(rows.T @ rows)
    else:
        values, vectors = np.linalg.eigh(rows @ rows.T)
        vectors = rows.T @ vectors[:, -nz:] / np.sqrt(values[-nz:])
    return values[: -nz - 1 : -1] / (len(X) - 1), vectors[:, : -nz - 1 : -1].T


def scores(dtypes, repeats, slow):
    """score_samples against scikit-learn's, which builds and inverts a matrix of d x d."""
    for shape in ("60000x784", "2000x20000"):
        n, d = map(int, shape.split("x"))
        for dtype in dtypes:
            X = rows(n, d, dtype)
            ours = median_of(repeats, PCAReducer(SHAPES[shape]).fit(X).score_samples, X)
            print(f"{shape}, {dtype}: PCAReducer {ours:.3f} s", end="", flush=True)
            if d <= 5000 or slow:
                theirs = median_of(1 if slow else repeats, PCA(SHAPES[shape], random_state=0).fit(X).score_samples, X)
                print(f", scikit-learn {theirs:.3f} s, {theirs / ours:.1f} times", end="")
            print(flush=True)


MEMORY = """
import sys, threading, time
import numpy as np
sys.path.insert(0, {folder!r})
from pca import MEMORY_MODELS, anonymous_memory
X = np.random.default_rng(0).standard_normal(({n}, {d}), dtype=np.float32)
model = MEMORY_MODELS[{name!r}](20)
model.fit(X[:2000])
before, peak, done = anonymous_memory(), [0], []
def watch():
    while not done:
        peak[0] = max(peak[0], anonymous_memory()); time.sleep(0.002)
thread = threading.Thread(target=watch); thread.start()
model.fit(X)
done.append(1); thread.join()
print((peak[0] - before) / 1e9)
"""
MEMORY_MODELS = {
    "PCAReducer": lambda nz: PCAReducer(nz, random_state=0),
    "sklearn auto": lambda nz: PCA(nz, random_state=0),
    "sklearn covariance_eigh": lambda nz: PCA(nz, svd_solver="covariance_eigh"),
    "IncrementalPCA": IncrementalPCA,
}


def anonymous_memory():
    """Bytes of memory that belong to no file."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


def memory():
    """Peak memory of a fit over the rows themselves, a gigabyte of float32, in a process of its own."""
    for n, d in ((1_000_000, 250), (125_000, 2000)):
        for name in MEMORY_MODELS:
            code = MEMORY.format(folder=sys.path[0], n=n, d=d, name=name)
            result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            print(f"{n} x {d} float32, {name}: {float(result.stdout):.3f} GB", flush=True)


def digits():
    """Components of twelve within 0.1 degree of those of an SVD in float64 of the same rows."""
    rng = np.random.default_rng(0)
    falling = 10.0 ** -np.arange(12)
    for title, deviations, mean, dtype in [
        ("float32, mean 1e3, deviations 10 to 1", np.linspace(10, 1, 12), 1e3, np.float32),
        ("float32, deviations 1 to 1e-11", falling, 0.0, np.float32),
        ("float64, deviations 1 to 1e-11", falling, 0.0, np.float64),
        ("float64, mean 1e6, deviations 10 to 1", np.linspace(10, 1, 12), 1e6, np.float64),
    ]:
        left, right = (np.linalg.qr(rng.standard_normal((size, 12)))[0] for size in (2000, 12))
        X = ((left * deviations) @ right.T * np.sqrt(2000) + mean).astype(dtype)
        centered = X.astype(np.longdouble) - X.astype(np.longdouble).mean(axis=0)
        exact = np.linalg.svd(centered.astype(np.float64), full_matrices=False)[2]
        counts = []
        for model in (PCAReducer(12), PCA(12)):
            pairs = zip(model.fit(X).components_.astype(float), exact, strict=True)
            angles = [subspace_angles(a[:, None], b[:, None])[0] for a, b in pairs]
            counts.append(int((np.degrees(angles) < 0.1).sum()))
        print(f"{title}: PCAReducer {counts[0]}, scikit-learn auto {counts[1]} of 12", flush=True)


def missing():
    """A fifth of the entries missing: error of what is filled in, and seconds, of fit and fill."""
    for n, d in ((1000, 20), (2000, 50)):
        rng = np.random.default_rng(0)
        full = rng.standard_normal((n, 5)) @ rng.standard_normal((5, d)) + 0.3 * rng.standard_normal((n, d)) + 3
        gaps = rng.random((n, d)) < 0.2
        X = np.where(gaps, np.nan, full)
        pca = PCAReducer(5)
        fills = {
            "PCAReducer": lambda X=X, pca=pca: pca.inverse_transform(pca.fit_transform(X)),
            "mean": lambda X=X: SimpleImputer().fit_transform(X),
            "IterativeImputer": lambda X=X: IterativeImputer(random_state=0).fit_transform(X),
        }
        for name, fill in fills.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                took = median_of(3, fill)
                error = np.sqrt(np.mean((fill() - full)[gaps] ** 2))
            print(f"{n} x {d}, {name}: error {error:.4f}, {took:.3f} s", flush=True)


# Samples, features, variances of the five components, standard deviations of the noise, and its distribution.
PLANTED = {
    "n > d": (500, 40, (12, 9, 7, 5, 4), np.ones(40), "normal"),
    "n < d": (80, 300, (80, 60, 45, 35, 25), np.ones(300), "normal"),
    "weak components beside strong ones": (400, 60, (60, 30, 4, 2, 1.5), np.ones(60), "normal"),
    "noise variances from 0.2 to 1.8": (500, 40, (15, 12, 9, 7, 5), np.linspace(0.2, 1.8, 40) ** 0.5, "normal"),
    "heavy tails: t values, 3 degrees": (500, 40, (12, 9, 7, 5, 4), np.ones(40), "t values"),
    "heavy tails: t samples, 4 degrees": (500, 40, (20, 15, 12, 9, 7), np.ones(40), "t samples"),
}
NOISES = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "t values": lambda rng, shape: rng.standard_t(3, shape) / 3**0.5,
    "t samples": lambda rng, shape: rng.standard_normal(shape) / np.sqrt(rng.chisquare(4, (shape[0], 1)) / 2),
}


def dimension(n_seeds=20):
    """Number of seeds with which the planted rank of 5 is found, the range of what is found, and seconds of a fit."""
    for title, setting in PLANTED.items():
        found = {name: [] for name in ("parallel", "mle")}
        times = {name: [] for name in found}
        for seed in range(n_seeds):
            X = planted(np.random.default_rng(seed), *setting)
            for name in found if X.shape[0] >= X.shape[1] else ["parallel"]:
                model = PCAReducer(name, random_state=seed)
                times[name].append(seconds(model.fit, X))
                found[name].append(model.n_components_)
        for name, ranks in found.items():
            if ranks:
                print(f"{title}, {name}: {ranks.count(5)} of {n_seeds}, ", end="")
                print(f"{min(ranks)} to {max(ranks)}, {np.median(times[name]):.3f} s", flush=True)


def planted(rng, n, d, variances, deviations, noise):
    """Samples of a factor model: components in a random orientation, and noise of variance one, scaled."""
    axes = np.linalg.qr(rng.standard_normal((d, len(variances))))[0]
    scores = rng.standard_normal((n, len(variances))) * np.sqrt(variances)
    return scores @ axes.T + NOISES[noise](rng, (n, d)) * deviations


def seconds(function, *arguments):
    """Wall time of one call."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def median_of(repeats, function, *arguments):
    """Median wall time of some calls."""
    return np.median([seconds(function, *arguments) for _ in range(repeats)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--part", choices=["speed", "scores", "memory", "digits", "missing", "dimension", "all"], default="all"
    )
    parser.add_argument("--shape", action="append", help="of the part speed, as 1797x64; may be repeated")
    parser.add_argument("--dtype", action="append", choices=["float32", "float64"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--auto", action="store_true", help="speed beside scikit-learn's auto alone, two minutes")
    parser.add_argument("--slow", action="store_true", help="with scikit-learn's scores of 20000 columns")
    arguments = parser.parse_args()
    dtypes = arguments.dtype or ["float32", "float64"]
    parts = {
        "speed": lambda: speed(arguments.shape or SHAPES, dtypes, arguments.repeats, arguments.auto),
        "scores": lambda: scores(dtypes, arguments.repeats, arguments.slow),
        "memory": memory,
        "digits": digits,
        "missing": missing,
        "dimension": dimension,
    }
    for name, part in parts.items():
        if arguments.part in (name, "all"):
            part()
