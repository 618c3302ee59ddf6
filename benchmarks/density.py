"""Held-out nats of every model, beside scikit-learn's densities; and the published setting of Burda et al. (2016).

With one noise variance for all features and with one for each, beside factor analysis: digits, scaled tables, and the
data of scikit-learn's example "Model selection with Probabilistic PCA and Factor Analysis", where the networks are
linear and trained for 100 epochs at a higher learning rate. Medians of three seeds.

Digits / 16 with `train_test_split(random_state=0, stratify=y)`, and 28 x 28 MNIST in [0, 1] with uniform noise of one
grey level (so that a density of pixels is defined), trained on the first rows of the training images. Importance bounds
by 100 draws.

    python benchmarks/density.py                    # digits and MNIST, about 15 minutes on two cores
    python benchmarks/density.py --part digits      # about 2 minutes
    python benchmarks/density.py --part diagonal    # a variance for each feature, about 2 minutes
    python benchmarks/density.py --part burda --epochs 50
    python benchmarks/density.py --part burda --epochs 10 --images 10000    # about 10 minutes
"""

import argparse
import time

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import scale

from sklatent import AutoencoderTransformer, PCAReducer, VAETransformer
from sklatent.datasets import fetch_mnist

# Table 1 of Burda, Grosse & Salakhutdinov (2016): one stochastic layer, 5000 draws; VAE, and IWAE with k = 5 and 50.
BURDA = {1: -86.76, 5: -85.54, 50: -84.78}


def models(nz):
    """The rows of the table: name and unfitted model."""
    vae = {"random_state": 0, "n_draws": 100}
    yield f"sklearn PCA({nz})", PCA(nz)
    yield f"sklearn FactorAnalysis({nz})", FactorAnalysis(nz, random_state=0)
    yield "sklearn GaussianMixture(10)", GaussianMixture(10, reg_covar=1e-3, random_state=0)
    yield f"PCAReducer({nz})", PCAReducer(nz)
    yield f"AutoencoderTransformer({nz})", AutoencoderTransformer(nz, random_state=0)
    yield f"AutoencoderTransformer({nz}, noise=0.3)", AutoencoderTransformer(nz, noise=0.3, random_state=0)
    for posterior in ("diagonal", "full"):
        for prior in ("standard_normal", "mixture", "vamp"):
            name = f"VAETransformer({nz}), {prior}, {posterior}"
            yield name, VAETransformer(nz, prior=prior, posterior=posterior, **vae)
    yield f"VAETransformer({nz}), no warm-up", VAETransformer(nz, kl_warmup=0, **vae)
    yield f"VAETransformer({nz}), 32 draws", VAETransformer(nz, random_state=0)


def compare(title, X_train, X_test, nz):
    """Fit and score every model, and print the table."""
    print(f"\n{title}: {len(X_train)} rows to fit, {len(X_test)} held out, {X_train.shape[1]} features")
    print(f"{'':48}{'held out':>10}{'training':>10}{'fit s':>8}{'score s':>9}")
    for name, model in models(nz):
        start = time.perf_counter()
        model.fit(X_train)
        fitted = time.perf_counter()
        score = model.score(X_test)
        scored = time.perf_counter()
        training = model.score(X_train[: len(X_test)])
        print(f"{name:48}{score:10.2f}{training:10.2f}{fitted - start:8.1f}{scored - fitted:9.1f}", flush=True)


def digits():
    """The small set."""
    X, y = load_digits(return_X_y=True)
    compare("Digits / 16", *train_test_split(X / 16, random_state=0, stratify=y)[:2], nz=8)


def mnist():
    """Dequantized pixels: the density of grey levels that noise has made continuous."""
    rng = np.random.default_rng(0)
    X_train, X_test = (
        ((X * 255 + rng.uniform(size=X.shape)) / 256).astype(np.float32)
        for X in (fetch_mnist(subset="train")[0][:20_000], fetch_mnist(subset="test")[0][:2000])
    )
    compare("MNIST, dequantized", X_train, X_test, nz=16)


def noisy_factors(is_homoscedastic, n_train=500, n_test=5000, n_features=25, rank=5):
    """The model of scikit-learn's example, with more samples of it held out."""
    rng = np.random.RandomState(42)
    U, _, _ = np.linalg.svd(rng.randn(n_features, n_features))
    X = rng.randn(n_train + n_test, rank) @ U[:, :rank].T
    noise = np.ones(n_features) if is_homoscedastic else rng.rand(n_features) + 0.5
    X += noise * rng.randn(*X.shape)
    return X[:n_train], X[n_train:]


def diagonal():
    """One variance for all features, and one for each."""
    X, y = load_digits(return_X_y=True)
    tables = {"Digits / 16, nz=8": (8, {}, train_test_split(X / 16, random_state=0, stratify=y)[:2])}
    for load, nz in ((load_wine, 3), (load_breast_cancer, 5), (load_diabetes, 3)):
        split = train_test_split(scale(load().data), random_state=0)
        tables[f"{load.__name__.removeprefix('load_')}, scaled, nz={nz}"] = nz, {}, split
    linear = {"hidden_sizes": (), "max_epochs": 100, "batch_size": 100, "lr": 0.02}
    for name, params in (("linear", linear), ("linear, default training", {"hidden_sizes": ()})):
        tables[f"homoscedastic, nz=5, {name}"] = 5, params, noisy_factors(True)
        tables[f"heteroscedastic, nz=5, {name}"] = 5, params, noisy_factors(False)
    print(f"{'':44}{'PCA':>9}{'FA':>14}{'autoencoder':>24}{'VAE':>20}")
    print(f"{'held-out nats':44}{'':23}" + f"{'gaussian':>12}{'diagonal':>10}" * 2)
    for title, (nz, params, (train, test)) in tables.items():
        scores = [PCA(nz).fit(train).score(test), FactorAnalysis(nz, random_state=0).fit(train).score(test)]
        for network in (AutoencoderTransformer, VAETransformer):
            for likelihood in ("gaussian", "gaussian_diagonal"):
                models = [network(nz, likelihood=likelihood, random_state=seed, **params) for seed in range(3)]
                scores.append(np.median([model.fit(train).score(test) for model in models]))
        pca, factor_analysis, *networks = scores
        print(f"{title:44}{pca:9.2f}{factor_analysis:14.2f}", end="")
        print("".join(f"{score:{12 - 2 * (k % 2)}.2f}" for k, score in enumerate(networks)), flush=True)


def burda(epochs, n_images, train_draws):
    """Stochastically binarized digits and MNIST, two tanh layers of 200, bits drawn once; the same steps for each k."""
    rng = np.random.default_rng(0)
    digits = train_test_split(load_digits().data / 16, random_state=0)
    images = fetch_mnist(subset="train")[0][:n_images], fetch_mnist(subset="test")[0][:500]
    for title, nz, n_epochs, pixels in (("digits", 8, 4 * epochs, digits), ("MNIST", 50, epochs, images)):
        train, test = ((rng.uniform(size=X.shape) < X).astype(np.float32) for X in pixels)
        print(
            f"\nBinarized {title}, nz={nz}, tanh 200-200, {n_epochs} epochs, {len(train)} images, {len(test)} held out"
        )
        print(f"{'':24}{'nats, 5000 draws':>18}{'standard error':>16}{'units active':>14}{'fit s':>8}")
        for k in train_draws:
            model = VAETransformer(
                nz,
                hidden_sizes=(200, 200),
                activation="tanh",
                likelihood="bernoulli",
                max_epochs=n_epochs,
                kl_warmup=0,
                n_draws=5000,
                n_train_draws=k,
                random_state=0,
            )
            start = time.perf_counter()
            model.fit(train)
            seconds = time.perf_counter() - start
            scores = model.score_samples(test)
            error = scores.std() / np.sqrt(len(scores))
            print(f"{f'n_train_draws={k}':24}{scores.mean():18.2f}{error:16.2f}", end="")
            print(f"{model.active_units_.sum():14}{seconds:8.0f}", flush=True)
    print("\nBurda et al. (2016), MNIST, 3280 passes with bits drawn anew in each:", BURDA)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["digits", "mnist", "diagonal", "burda", "all"], default="all")
    parser.add_argument("--epochs", type=int, default=50, help="of the published setting (default: 50)")
    parser.add_argument("--images", type=int, default=60_000, help="of MNIST to fit in it (default: 60000)")
    parser.add_argument("--train-draws", type=int, nargs="+", default=[1, 5, 50], help="k in it (default: 1 5 50)")
    arguments = parser.parse_args()
    if arguments.part in ("digits", "all"):
        digits()
    if arguments.part in ("mnist", "all"):
        mnist()
    if arguments.part in ("diagonal", "all"):
        diagonal()
    if arguments.part in ("burda", "all"):
        burda(arguments.epochs, arguments.images, arguments.train_draws)
