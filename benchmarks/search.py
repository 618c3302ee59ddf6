"""Fused searches beside scikit-learn's GridSearchCV of the same estimator, in one run: times, scores and memory.

Digits / 16 and 10,000 rows of MNIST; nz 2, 4, 8, 16 by beta 0.5, 1, 2, 4. PCA is compared with a GridSearchCV over
scikit-learn's. Without `refit`, which is the same for all.

    python benchmarks/search.py                            # about 11 minutes on two cores
    python benchmarks/search.py --row digits --batch 64    # one row
    python benchmarks/search.py --row digits --epochs 3    # a glance
    python benchmarks/search.py --part differential        # 200 random searches, whose scores are compared: 2 minutes
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklatent import PCAReducer, VAETransformer
from sklatent.datasets import fetch_mnist
from sklatent.model_selection import FusedGridSearchCV

N_CASES = 200
NZ, BETA = [2, 4, 8, 16], [0.5, 1.0, 2.0, 4.0]
MEMORY = """
from sklearn.datasets import load_digits
from sklatent import VAETransformer
X = load_digits().data / 16
vae = VAETransformer(16, hidden_sizes=(128,), max_epochs=2, batch_size=32, random_state=0)
if {fused}:
    from sklatent.model_selection import FusedGridSearchCV
    FusedGridSearchCV(vae, {{"nz": {nz}, "beta": {beta}}}, refit=False).fit(X)
else:
    vae.fit(X).score(X)
with open("/proc/self/status") as status:
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


def compare(title, search, others, X, y=None, repeat=1):
    """Time searches in turn; print ratios of the medians, and how far scores are apart (relative beyond 1)."""
    searches = {"fused": search, **others}
    times = {name: [] for name in searches}
    for _ in range(repeat):
        for name, candidate in searches.items():
            start = time.perf_counter()
            candidate.fit(X, y)
            times[name].append(time.perf_counter() - start)
    seconds = {name: np.median(values) for name, values in times.items()}
    ratios = ", ".join(
        f"{seconds[name] / seconds['fused']:.1f} times {name} ({seconds[name]:.1f} s)" for name in others
    )
    print(f"{title}: fused {seconds['fused']:.2f} s; {ratios}")
    ours, theirs = search.cv_results_, next(iter(others.values())).cv_results_
    scores, expected = ours["mean_test_score"], theirs["mean_test_score"]
    same = ours["params"][np.argmax(scores)] == theirs["params"][np.argmax(expected)]
    difference = np.nanmax(np.abs(scores - expected) / np.maximum(np.abs(expected), 1))
    routes = ", ".join(sorted(set(ours["route"])))
    print(f"    scores differ by {difference:.1e} at most, same best parameters: {same}, route: {routes}", flush=True)


def warm_up():
    """A small search of each kind, for what is loaded or started at the first."""
    X = load_digits().data[:200] / 16
    vae = VAETransformer(hidden_sizes=(8,), max_epochs=1, kl_warmup=0, random_state=0)
    for search in (FusedGridSearchCV(vae, {"nz": [1, 2]}, cv=2), *grid_searches(vae, {"nz": [1, 2]}, cv=2).values()):
        search.fit(X)


def grid_searches(estimator, grid, **kwargs):
    """scikit-learn's search with one process and with two."""
    return {f"n_jobs={n}": GridSearchCV(estimator, grid, n_jobs=n, refit=False, **kwargs) for n in (1, 2)}


def digits(arguments):
    """A VAE of hidden width 128."""
    X = load_digits().data / 16
    for batch_size in arguments.batch:
        vae = VAETransformer(hidden_sizes=(128,), max_epochs=arguments.epochs, batch_size=batch_size, random_state=0)
        grid = {"nz": NZ, "beta": BETA}
        search = FusedGridSearchCV(vae, grid, refit=False)
        title = f"digits, 16 candidates x 5 folds, {arguments.epochs} epochs, batch {batch_size}"
        compare(title, search, grid_searches(vae, grid), X, repeat=arguments.repeat)


def pipeline(arguments):
    """Scaled, encoded, classified."""
    X, y = load_digits(return_X_y=True)
    vae = VAETransformer(hidden_sizes=(128,), max_epochs=arguments.epochs, batch_size=64, random_state=0)
    steps = make_pipeline(StandardScaler(), vae, LogisticRegression(max_iter=1000))
    grid = {"vaetransformer__nz": NZ, "vaetransformer__beta": BETA}
    search = FusedGridSearchCV(steps, grid, refit=False)
    title = f"digits, scale -> VAE -> logistic regression, {arguments.epochs} epochs, batch 64"
    compare(title, search, grid_searches(steps, grid), X / 16, y, arguments.repeat)


def mnist(arguments):
    """Layers of 512 and 256, bound by arithmetic."""
    X = fetch_mnist(subset="train")[0][:10_000]
    epochs = min(arguments.epochs, 2)
    vae = VAETransformer(hidden_sizes=(512, 256), max_epochs=epochs, batch_size=256, random_state=0)
    grid = {"nz": NZ, "beta": BETA}
    search = FusedGridSearchCV(vae, grid, cv=3, refit=False)
    title = f"MNIST 10,000 rows, 512-256, 16 candidates x 3 folds, {epochs} epochs, batch 256"
    compare(title, search, grid_searches(vae, grid, cv=3), X, repeat=arguments.repeat)


def pca(arguments):
    """Components 1 to 64 by the default score; scikit-learn's has none where the covariance is singular."""
    rows = {"digits": load_digits().data / 16, "MNIST 10,000 rows": fetch_mnist(subset="train")[0][:10_000]}
    for name, X in rows.items():
        search = FusedGridSearchCV(PCAReducer(), {"nz": range(1, 65)}, refit=False)
        others = {
            "GridSearchCV(PCAReducer)": GridSearchCV(PCAReducer(), {"nz": range(1, 65)}, refit=False),
            "GridSearchCV(sklearn PCA)": GridSearchCV(PCA(), {"n_components": range(1, 65)}, refit=False),
        }
        compare(f"PCA, {name}, nz 1 to 64, 5 folds", search, others, X, repeat=arguments.repeat)


def memory(arguments):
    """Peak resident memory of the first row beside that of one fit, each in a process of its own."""
    single, fused = (
        int(subprocess.check_output([sys.executable, "-c", MEMORY.format(fused=fused, nz=NZ, beta=BETA)])) / 2**20
        for fused in (False, True)
    )
    print(f"peak memory: one fit {single:.2f} GB, fused search {fused:.2f} GB, {fused - single:.2f} GB more")


def differential(arguments):
    """Random searches by both, with all that may differ between them, and how far their scores are apart."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))  # a fifth of them runs there
    from search_cases import TOLERANCE, SearchCase

    worst, n_failed = 0.0, 0
    for number in range(N_CASES):
        case = SearchCase(number, arguments.seed)
        difference = case.difference()
        if difference > TOLERANCE:
            n_failed += 1
            print(f"case {number}: scores or best parameters differ by {difference:.1e}\n    {case}", flush=True)
        worst = max(worst, difference)
    print(f"differential, seed {arguments.seed}: {n_failed} of {N_CASES} searches differ, worst difference {worst:.1e}")


TIMED = {"digits": digits, "pipeline": pipeline, "mnist": mnist, "pca": pca, "memory": memory}
PARTS = TIMED | {"differential": differential}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", "--row", choices=list(PARTS), nargs="+", default=list(TIMED))
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 64, 128], help="of the first row")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--repeat", type=int, default=1, help="runs of which to take the median")
    parser.add_argument("--seed", type=int, default=0, help="of the random searches")
    parsed = parser.parse_args()
    warm_up()
    for part in parsed.part:
        PARTS[part](parsed)
