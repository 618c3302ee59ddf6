"""`score_samples` of a VAE against the bare passes through the decoder that it needs, side by side.

10,000 MNIST rows, nz=8, 32 draws; medians of five, the two in turn. With `--part autoencoder` an autoencoder's scores
against a VAE's: 100,000 x 50 samples, nz=2, the defaults otherwise, medians of three. With `--part one` the latency of
one MNIST sample, both networks, nz=2 and 10, both precisions: the median over 50 samples, and a sample's part of 500.

    python benchmarks/scoring.py    # about 2 minutes on two cores
    python benchmarks/scoring.py --part autoencoder
    python benchmarks/scoring.py --part one
"""

import argparse
import time

import numpy as np
import torch

from sklatent import AutoencoderTransformer, VAETransformer
from sklatent.datasets import fetch_mnist

N_DRAWS = 32


def main():
    """Run the part that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, default="vae")
    PARTS[parser.parse_args().part]()


def vae():
    """Time a VAE's scores and its decoder and print the ratio."""
    X, _ = fetch_mnist(subset="test")
    vae = VAETransformer(8, likelihood="bernoulli", n_draws=N_DRAWS, max_epochs=1, random_state=0).fit(X)
    n_rows = 32  # about as score_samples has it
    Z = torch.randn(n_rows * N_DRAWS, 8)

    def decode():
        with torch.no_grad():
            for _ in range(0, len(X), n_rows):
                vae.module_.decoder(Z)

    times = np.array([[seconds(lambda: vae.score_samples(X)), seconds(decode)] for _ in range(5)])
    scoring, decoding = np.median(times, axis=0)
    ratio = np.median(times[:, 0] / times[:, 1])
    print(f"score_samples {scoring:.2f} s, bare decoder {decoding:.2f} s, ratio {ratio:.2f}")


def autoencoder():
    """Time the scores of both networks and print the ratio."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((100_000, 5)) @ rng.standard_normal((5, 50)) + 0.3 * rng.standard_normal((100_000, 50))
    X = X.astype(np.float32)
    models = [network(2, max_epochs=5, random_state=0).fit(X[:10_000]) for network in NETWORKS]
    times = np.array([[seconds(lambda model=model: model.score_samples(X)) for model in models] for _ in range(3)])
    own, other = np.median(times, axis=0)
    print(f"autoencoder {own:.2f} s, VAE {other:.2f} s, ratio {np.median(times[:, 0] / times[:, 1]):.2f}")


def one():
    """Time the score of a single sample, and its part of the time of many."""
    X, _ = fetch_mnist(subset="test")
    for network in NETWORKS:
        for nz in (2, 10):
            model = network(nz, max_epochs=1, random_state=0).fit(X)
            for dtype in (np.float64, np.float32):
                samples = X[:500].astype(dtype)
                times = [seconds(lambda x=x, model=model: model.score_samples(x[None])) for x in samples[:50]]
                many = seconds(lambda samples=samples, model=model: model.score_samples(samples)) / len(samples)
                print(
                    f"{network.__name__}({nz}), {dtype.__name__}: {1e3 * np.median(times):.1f} ms alone, "
                    f"{1e3 * many:.2f} ms among 500"
                )


def seconds(function):
    """Wall time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


NETWORKS = (AutoencoderTransformer, VAETransformer)
PARTS = {"vae": vae, "autoencoder": autoencoder, "one": one}

if __name__ == "__main__":
    main()
