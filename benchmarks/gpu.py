"""All figures of one accelerator in one command: training, search, stacks, the chapter's losses and PCA.

Times are medians of one run, after a warm-up. The floor of a step is its arithmetic and its bytes, at the rates that
the device reaches in one large product and one large copy. Results go to `benchmarks/results/<device>.md`, with
versions. The setting of Burda et al. (2016) is in `benchmarks/density.py`.

None of this has been run on an accelerator yet, so no figure of it is quoted.

    python benchmarks/gpu.py                           # every part on the accelerator of this machine
    python benchmarks/gpu.py --part training search    # two of them
    python benchmarks/gpu.py --device cpu --quick      # every part small, to see that it works: 20 s; writes nothing
"""

import os

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # before scipy

import argparse
import platform
import re
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
import sklearn
import skorch
import torch
import training
from chapter import bce_and_kl
from pca import exact_pca
from pca import rows as rows_of_pca
from search import BETA, NZ
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV, train_test_split

import sklatent
from sklatent import PCAReducer, VAETransformer
from sklatent._base import learn_many
from sklatent._nn.devices import has_float64, resolve_device
from sklatent.model_selection import FusedGridSearchCV

RESULTS = Path(__file__).parent / "results"
HIDDEN, CODES = 512, 2
N_COMPONENTS = 50
# Losses of the chapter's VAE in nats that are to be reached, by the epochs of our defaults that reach them on a CPU.
LOSSES = {206.80: 1, 190.0: 8}


class Sizes:
    """The sizes of what is measured."""

    def __init__(self, quick):
        self.n_runs, self.n_steps = (1, 4) if quick else (5, 200)
        self.n_images = 256 if quick else 60_000
        self.batches = (128,) if quick else (128, 1024, 8192)
        self.grid = {"nz": NZ[:2], "beta": BETA[:2]} if quick else {"nz": NZ, "beta": BETA}
        self.n_epochs = 2 if quick else 30
        self.n_networks = 10 if quick else 1000
        self.losses = {206.80: 1} if quick else LOSSES
        self.pca = (2000, 50) if quick else (1_000_000, 784)


def throughput(device, sizes):
    """Samples of MNIST per second, 1024-512-2, beside three loops, and the floor of a step."""
    X = images(sizes)
    rates = peak(device)
    for batch in sizes.batches:
        epochs = max(batch * sizes.n_steps // len(X), 1)
        contestants = {
            "plain skorch": training.plain_skorch,
            "a loop by hand": training.by_hand,
            "torch.compile by hand": training.compiled_by_hand,
        }
        setting = (HIDDEN, CODES, batch)
        for contestant in (training.ours, *contestants.values()):  # warm-up
            contestant(X, *setting, 1)
        ours = [training.ours(X, *setting, epochs) for _ in range(sizes.n_runs)]
        yield f"MNIST 1024-512-2, batch {batch}: samples per second", f"{epochs * len(X) / np.median(ours):,.0f}"
        for name, contestant in contestants.items():
            theirs = [contestant(X, *setting, epochs) for _ in range(sizes.n_runs)]
            yield f"batch {batch}: these over those of {name}", f"{np.median(theirs) / np.median(ours):.2f}"
        floor = step_floor(X.shape[1], batch, *rates) * epochs * len(X) / batch
        yield f"batch {batch}: time of an epoch over its floor", f"{np.median(ours) / floor:.1f}"


def search(device, sizes):
    """80 VAEs of the digits: the fused search beside scikit-learn's, and beside its own on the CPU."""
    X = training.digits_rows()
    vae = VAETransformer(hidden_sizes=(128,), max_epochs=sizes.n_epochs, batch_size=32, device=device, random_state=0)
    fused, plain = (kind(vae, sizes.grid, refit=False) for kind in (FusedGridSearchCV, GridSearchCV))
    on_cpu = clone(fused).set_params(estimator__device="cpu")
    for model in (fused, on_cpu):  # warm-up
        clone(model).set_params(estimator__max_epochs=1).fit(X[:200])
    times = {name: seconds(model.fit, X) for name, model in (("fused", fused), ("plain", plain), ("cpu", on_cpu))}
    n_fits = len(fused.cv_results_["params"]) * fused.n_splits_
    yield f"{n_fits} digits VAEs, {sizes.n_epochs} epochs, batch 32: fused search", f"{times['fused']:.2f} s"
    threads = f"{torch.get_num_threads()} threads"
    yield "time of GridSearchCV on the same device, over it", f"{times['plain'] / times['fused']:.1f}"
    yield f"time of the fused search on the CPU with {threads}, over it", f"{times['cpu'] / times['fused']:.1f}"
    differences = np.abs(fused.cv_results_["mean_test_score"] - plain.cv_results_["mean_test_score"])
    yield "scores of both searches on the device differ by at most", f"{differences.max():.1e} nats"


def stacks(device, sizes):
    """Many VAEs of the digits as stacks, over the time of one fit."""
    X = training.digits_rows()
    settings = {"hidden_sizes": (128,), "max_epochs": sizes.n_epochs, "batch_size": 32, "device": device}
    models = [VAETransformer(random_state=k, **settings) for k in range(sizes.n_networks)]
    clone(models[0]).fit(X[:200])  # warm-up
    one = seconds(clone(models[0]).fit, X)
    n = len(models)
    many = seconds(learn_many, models, [X] * n, [None] * n)
    yield f"{n} digits VAEs as stacks, over the time of one fit", f"{many / one:.1f}"


def chapter(device, sizes):
    """Time to the losses of the chapter's VAE on MNIST, by our defaults, on validation samples."""
    X, X_valid = train_test_split(images(sizes), test_size=1 / 12, random_state=0)
    for loss, epochs in sizes.losses.items():
        model = VAETransformer(2, likelihood="bernoulli", max_epochs=epochs, device=device, random_state=0)
        time = seconds(model.fit, X)
        yield f"MNIST VAE to {loss:.2f} nats, {epochs} epochs", f"{bce_and_kl(model, X_valid):.2f} nats in {time:.2f} s"


def pca(device, sizes):
    """Fits of many samples in host memory and on the device, beside scikit-learn's array API and torch.pca_lowrank."""
    if not has_float64(device):
        yield "PCA", f"not on {device}, which has no float64"
        return
    X = rows_of_pca(*sizes.pca, np.float32)
    there, exact = torch.from_numpy(X).to(device), exact_pca(X, N_COMPONENTS)[0]
    theirs = PCA(N_COMPONENTS, svd_solver="covariance_eigh")
    with sklearn.config_context(array_api_dispatch=True):
        runs = {
            "PCAReducer, host memory": (PCAReducer(N_COMPONENTS, device=device, random_state=0), X),
            "PCAReducer, tensors": (PCAReducer(N_COMPONENTS, random_state=0), there),
            "scikit-learn, tensors": (theirs, there),
            "torch.pca_lowrank": (LowRank(), there),
            "PCAReducer, CPU": (PCAReducer(N_COMPONENTS, device="cpu", random_state=0), X),
        }
        for name, (model, samples) in runs.items():
            model.fit(samples)
            times = [synchronized(device, model.fit, samples) for _ in range(sizes.n_runs)]
            variances = torch.as_tensor(model.explained_variance_).cpu().numpy()
            error = np.abs(variances / exact - 1).max()
            yield f"{name}: fit of {X.shape[0]} x {X.shape[1]}", f"{np.median(times):.3f} s, error {error:.0e}"


class LowRank:
    """torch.pca_lowrank of tensors with an estimator's attribute."""

    def fit(self, X):
        """Fit to X."""
        _, values, _ = torch.pca_lowrank(X, N_COMPONENTS)
        self.explained_variance_ = values**2 / (len(X) - 1)


PARTS = {"training": throughput, "search": search, "stacks": stacks, "chapter": chapter, "pca": pca}


def peak(device):
    """Multiply-adds and bytes per second that a device reaches in a large product and a large copy, in float32."""
    n = 1024 if device == "cpu" else 8192
    A = torch.ones(n, n, device=device)
    B = torch.empty_like(A)
    products, copies = (
        np.median([synchronized(device, *call) for _ in range(5)]) for call in ((torch.mm, A, A), (B.copy_, A))
    )
    return n**3 / products, 2 * 4 * n**2 / copies


def step_floor(n_features, batch, products_per_second, bytes_per_second):
    """Seconds of the arithmetic of a step and of its bytes, of which the device does both at a time."""
    n_weights = HIDDEN * (2 * n_features + 3 * CODES)
    # Weights are read forwards and backwards, and with their gradients and two moments read and written by Adam. The
    # samples and the activations are written and read once on either way.
    n_numbers = n_weights * 9 + batch * 4 * 2 * (n_features + HIDDEN)
    return max(3 * n_weights * batch / products_per_second, 4 * n_numbers / bytes_per_second)


def images(sizes):
    """MNIST at 32 x 32 in float32, or noise of this size where it is only to be seen that all works."""
    if sizes.n_images < 60_000:
        return np.random.default_rng(0).random((sizes.n_images, 1024), dtype=np.float32)
    return training.mnist_rows()[: sizes.n_images]


def seconds(function, *args):
    """Wall time of one call, which ends with numbers on the host."""
    start = perf_counter()
    function(*args)
    return perf_counter() - start


def synchronized(device, function, *args):
    """Wall time of one call and of all that it has begun on the device."""

    def whole():
        function(*args)
        if device != "cpu":
            torch.accelerator.synchronize()

    return seconds(whole)


def name_of(device):
    """Name of a card, or of the processor."""
    module = None if device == "cpu" else torch.get_device_module(device)
    named = getattr(module, "get_device_name", None)
    return named(device) if named else platform.processor() or platform.machine()


def versions():
    """Everything that a figure depends on."""
    found = {module.__name__: module.__version__ for module in (sklatent, torch, sklearn, skorch, np)}
    found |= {"Python": platform.python_version(), "CUDA": torch.version.cuda, "HIP": torch.version.hip}
    return ", ".join(f"{name} {version}" for name, version in found.items() if version)


def report(device, lines):
    """The results as a page."""
    table = "\n".join(f"| {what} | {figure} |" for what, figure in lines)
    command = f"python {' '.join(['benchmarks/gpu.py', *sys.argv[1:]])}"
    return f"# {name_of(device)}\n\n`{command}`\n\n{versions()}\n\n| what | figure |\n| --- | --- |\n{table}\n"


def main(arguments):
    """Measure, print and write."""
    device = resolve_device(arguments.device)
    if device == "cpu" and not arguments.quick:
        sys.exit("PyTorch finds no accelerator on this machine. Pass --device cpu --quick to see that all parts work.")
    training.DEVICE = device
    lines = []
    for part in arguments.part:
        for line in PARTS[part](device, Sizes(arguments.quick)):
            lines.append(line)
            print(": ".join(line), flush=True)
    if not arguments.quick:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{re.sub('[^A-Za-z0-9]+', '-', name_of(device)).strip('-').lower()}.md"
        path.write_text(report(device, lines))
        print(f"written to {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto (default), cuda, cuda:1, mps, xpu")
    parser.add_argument("--part", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="every part small; the figures mean nothing")
    main(parser.parse_args())
