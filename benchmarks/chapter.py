"""The chapter's headline figures on MNIST, beside ours.

Its recipe (Chaudhury 2024, figures 14.9 and 14.10): images of 32 x 32, 55,000 for training and 5,000 for validation,
d -> 512 -> ReLU -> nz=2 and back, batches of 100, Adam at 1e-3, 20 epochs. Then PCA and the package's own defaults on
the same split.

    python benchmarks/chapter.py                         # about 13 minutes on two cores
    python benchmarks/chapter.py --epochs 1 --seeds 1    # the chapter's figures after its first epoch
"""

import argparse
import time

import numpy as np
import torch
from sklearn.model_selection import train_test_split

from sklatent import AutoencoderTransformer, PCAReducer, VAETransformer
from sklatent._nn.data import Batches, Rows
from sklatent._nn.objectives import elbo_terms
from sklatent.datasets import fetch_mnist
from sklatent.metrics import reconstruction_scorer

RECIPE = {
    "hidden_sizes": (512,),
    "activation": "relu",
    "batch_size": 100,
    "lr": 1e-3,
    "lr_schedule": "constant",
    "verbose": 1,
}
RECIPE_VAE = {**RECIPE, "kl_warmup": 0}
# After the first and the twentieth epoch: squared error; BCE + KL.
CHAPTER = {"autoencoder": {1: 39.98, 20: 32.68}, "vae": {1: 226.33, 20: 206.80}}


def main(epochs, n_seeds):
    """Fit everything and print the table."""
    X, _ = fetch_mnist(image_size=32)
    X_train, X_valid = train_test_split(X, test_size=5000, random_state=0)
    rows = []

    def report(name, model, measure, chapter=None):
        seeds = range(n_seeds) if "random_state" in model.get_params() else [None]
        figures, seconds = [], []
        for seed in seeds:
            if seed is not None:
                model.set_params(random_state=seed)
            start = time.perf_counter()
            model.fit(X_train)
            seconds.append(time.perf_counter() - start)
            figures.append(measure(model, X_valid))
            print(f"{name}, random_state={seed}: {figures[-1]:.2f} in {seconds[-1]:.0f} s\n", flush=True)
        rows.append((name, np.median(figures), min(figures), max(figures), chapter, np.median(seconds)))
        return model

    sigmoid, bernoulli = {"output_activation": "sigmoid"}, {"likelihood": "bernoulli"}
    autoencoder = report(
        "autoencoder, chapter's recipe, squared error",
        AutoencoderTransformer(2, max_epochs=epochs, **sigmoid, **RECIPE),
        squared_error,
        CHAPTER["autoencoder"].get(epochs),
    )
    vae = report(
        "VAE, chapter's recipe, BCE + KL",
        VAETransformer(2, max_epochs=epochs, **bernoulli, **RECIPE_VAE),
        bce_and_kl,
        CHAPTER["vae"].get(epochs),
    )
    report("PCA, squared error", PCAReducer(2), squared_error)
    ours = {"verbose": 1} | ({} if epochs == 20 else {"max_epochs": epochs})
    report("autoencoder, our defaults, squared error", AutoencoderTransformer(2, **sigmoid, **ours), squared_error)
    report("VAE, our defaults, BCE + KL", VAETransformer(2, **bernoulli, **ours), bce_and_kl)

    print(f"\nValidation after {epochs} epochs, summed over the pixels of an image; {n_seeds} seeds")
    print(f"{'':46}{'median':>8}{'least':>8}{'most':>8}{'chapter':>9}{'seconds':>9}")
    for name, median, least, most, chapter, seconds in rows:
        print(f"{name:46}{median:8.2f}{least:8.2f}{most:8.2f}{chapter or '':>9}{seconds:9.0f}")
    print("\nCodes of the validation images by the chapter's recipe (figure 14.10)")
    for name, model in [("autoencoder", autoencoder), ("VAE", vae)]:
        Z = model.transform(X_valid)
        within = (np.linalg.norm(Z, axis=1) < 4).mean()
        print(f"{name:12} within radius 4: {within:.3f}   deviation of each axis: {Z.std(axis=0).round(2)}")


def squared_error(model, X):
    """Squared error of an image at its code, summed over the pixels."""
    return -reconstruction_scorer(model, X)


def bce_and_kl(model, X):
    """Minus the ELBO of an image by one draw, as the chapter's validation has it."""
    draws = torch.Generator().manual_seed(0)
    device = model.module_.standardizer.loc.device
    module = model.module_

    def elbo(x):
        eps = torch.randn((len(x), model.n_components_), generator=draws).to(device)
        return elbo_terms(module.log_likelihood(x), module.posterior(x), module.prior_density(), eps)

    with torch.no_grad():
        parts = [elbo(x) for x, _ in Batches(Rows(X, device), 1000)]
    return float(torch.cat([terms.kl - terms.log_prob for terms in parts]).mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20, help="passes over the training images (default: 20)")
    parser.add_argument("--seeds", type=int, default=3, help="fits of each network (default: 3)")
    arguments = parser.parse_args()
    main(arguments.epochs, arguments.seeds)
