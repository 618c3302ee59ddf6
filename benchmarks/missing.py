"""Error of imputed values, beside scikit-learn's imputers; coverage of multiple imputations; time of a fit with NaN.

Mean squared error over the missing entries of standardized tables, of which the imputers see the rest.

    python benchmarks/missing.py --part half        # breast cancer, the mask of the notebook of MIWAE: half is missing
    python benchmarks/missing.py --part iris        # the same for iris, with nz=1
    python benchmarks/missing.py --part patterns    # 20 % and 50 % in three patterns, means of 3 masks
    python benchmarks/missing.py --part coverage    # intervals of 90 % from 100 imputations
    python benchmarks/missing.py --part time        # a fit with missing values over one without

Add --quick to leave out the peers that take minutes. MIWAE's published notebook reports 0.287 for breast cancer after
501 epochs (nz=10, 20 importance samples in training, Student-t likelihood), and 0.40 to 0.52 for iris. The part "half"
has the same model with a Gaussian likelihood after the default number of epochs and after 501, which takes a minute.
"""

import argparse
import time
import warnings

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

from sklatent import AutoencoderTransformer, LatentImputer, PCAReducer, VAETransformer

TABLES = {"diabetes": load_diabetes, "wine": load_wine, "digits": load_digits}
N_MASKS = 3
N_IMPUTATIONS = 100


def standardized(load):
    """A table whose columns have mean 0 and variance 1, without constant ones."""
    X = load().data
    X = X[:, X.std(axis=0) > 0]
    return (X - X.mean(axis=0)) / X.std(axis=0)


def peers(quick):
    """scikit-learn's imputers, by name."""
    found = {
        "SimpleImputer": SimpleImputer(keep_empty_features=True),
        "KNNImputer": KNNImputer(keep_empty_features=True),
        "IterativeImputer": IterativeImputer(random_state=0, keep_empty_features=True),
    }
    if not quick:
        forest = ExtraTreesRegressor(n_estimators=10, random_state=0)
        found["IterativeImputer(ExtraTrees)"] = IterativeImputer(forest, random_state=0, keep_empty_features=True)
    return found


def models(*sizes):
    """The three models with these latent dimensions, and the imputer that chooses for itself."""
    found = {"LatentImputer()": LatentImputer()}
    for nz in sizes:
        found[f"PCAReducer({nz})"] = LatentImputer(PCAReducer(nz))
        found[f"AutoencoderTransformer({nz})"] = LatentImputer(AutoencoderTransformer(nz, random_state=0))
        found[f"VAETransformer({nz})"] = LatentImputer(VAETransformer(nz, random_state=0))
    return found


def error(imputer, X, missing):
    """Mean squared error of the missing entries, and seconds."""
    start = time.perf_counter()
    filled = imputer.fit_transform(np.where(missing, np.nan, X))
    return np.mean((filled - X)[missing] ** 2), time.perf_counter() - start


def table(imputers, X, missing):
    """Print one line for each imputer."""
    print(f"{'':44}{'squared error':>14}{'seconds':>9}")
    for name, imputer in imputers.items():
        squares, seconds = error(imputer, X, missing)
        print(f"{name:44}{squares:14.4f}{seconds:9.2f}", flush=True)


def notebook_mask(X):
    """The mask of the notebook, which comes from NumPy's global generator: exactly half of the entries."""
    np.random.seed(1234)  # noqa: NPY002
    missing = np.zeros(X.size, dtype=bool)
    missing[np.random.choice(X.size, X.size // 2, replace=False)] = True  # noqa: NPY002
    return missing.reshape(X.shape)


def half(quick):
    """Breast cancer with half of the entries missing."""
    X = standardized(load_breast_cancer)
    notebook = {
        f"VAETransformer(10), 20 samples, {epochs} epochs": LatentImputer(
            VAETransformer(10, n_train_draws=20, max_epochs=epochs, random_state=0)
        )
        for epochs in (("auto",) if quick else ("auto", 501))
    }
    table(peers(quick) | models(2, 5, 10) | notebook, X, notebook_mask(X))


def iris(quick):
    """Iris with half of the entries missing, and one latent dimension."""
    X = standardized(load_iris)
    diagonal = {
        f"VAETransformer(1), diagonal, seed {seed}": LatentImputer(
            VAETransformer(1, likelihood="gaussian_diagonal", random_state=seed)
        )
        for seed in range(3)
    }
    table(peers(quick) | models(1) | diagonal, X, notebook_mask(X))


def at_random(X, fraction, rng):
    """Each entry is missing with the same probability."""
    return rng.random(X.shape) < fraction


def given_a_column(X, fraction, rng):
    """Entries of the other columns are missing more often the larger the first, which is observed, is."""
    rank = X[:, 0].argsort().argsort() / len(X)
    missing = rng.random(X.shape) < np.clip(2 * fraction * rank, 0, 0.95)[:, None]
    missing[:, 0] = False
    return missing


def blocks(X, fraction, rng):
    """Runs of neighbouring columns, a quarter of all, are missing in some samples."""
    width = max(X.shape[1] // 4, 1)
    n_runs = fraction * X.shape[1] / width
    missing = np.zeros(X.shape, dtype=bool)
    for row in missing:
        for start in rng.integers(X.shape[1] - width + 1, size=rng.poisson(n_runs)):
            row[start : start + width] = True
    return missing


PATTERNS = {"at random": at_random, "given a column": given_a_column, "blocks": blocks}


def patterns(quick):
    """Mean squared error over the masks, one line for each table, pattern and fraction."""
    imputers = peers(quick) | models(5)
    print("columns: " + ", ".join(imputers))
    for name, load in TABLES.items():
        X = standardized(load)
        for pattern, draw in PATTERNS.items():
            for fraction in (0.2, 0.5):
                masks = [draw(X, fraction, np.random.default_rng(seed)) for seed in range(N_MASKS)]
                errors = [np.mean([error(imputer, X, mask)[0] for mask in masks]) for imputer in imputers.values()]
                print(f"{name:10}{pattern:16}{fraction:5.1f}" + "".join(f"{e:8.3f}" for e in errors), flush=True)


def coverage(quick):
    """Fraction of the missing values within the intervals between the quantiles of 5 % and 95 % of the imputations."""
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((1000, 3)) @ rng.standard_normal((3, 10)) + 0.5 * rng.standard_normal((1000, 10))
    for name, X in {"correlated normal": factors, "digits": standardized(load_digits)}.items():
        missing = rng.random(X.shape) < 0.3
        incomplete = np.where(missing, np.nan, X)
        nz = 3 if X is factors else 8
        for estimator in (
            PCAReducer(nz),
            AutoencoderTransformer(nz, random_state=0),
            VAETransformer(nz, random_state=0),
        ):
            estimator.fit(incomplete)
            imputations = [estimator.impute(incomplete, sample=True, random_state=k) for k in range(N_IMPUTATIONS)]
            low, high = np.quantile(np.array(imputations)[:, missing], [0.05, 0.95], axis=0)
            covered = np.mean((low <= X[missing]) & (X[missing] <= high))
            print(f"{name:20}{type(estimator).__name__:26}{covered:8.3f}", flush=True)


def duration(quick):
    """Seconds of a fit with 30 % missing over those of one without: the median of pairs side by side."""
    for name, load in {"breast cancer": load_breast_cancer, "digits": load_digits}.items():
        X = standardized(load)
        incomplete = np.where(np.random.default_rng(0).random(X.shape) < 0.3, np.nan, X)
        for estimator in (AutoencoderTransformer(5, random_state=0), VAETransformer(5, random_state=0)):
            ratios = []
            for _ in range(5):
                seconds = []
                for samples in (incomplete, X):
                    start = time.process_time()
                    estimator.fit(samples)
                    seconds.append(time.process_time() - start)
                ratios.append(seconds[0] / seconds[1])
            print(f"{name:16}{type(estimator).__name__:26}{np.median(ratios):8.2f}", flush=True)


PARTS = {"half": half, "iris": iris, "patterns": patterns, "coverage": coverage, "time": duration}


def main():
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all")
    parser.add_argument("--quick", action="store_true", help="leave out the peers that take minutes")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)  # IterativeImputer's default stops after ten rounds
    for part in arguments.part or PARTS:
        print(f"\n{part}: {PARTS[part].__doc__}")
        PARTS[part](arguments.quick)


if __name__ == "__main__":
    main()
