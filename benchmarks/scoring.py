"""`score_samples` of a VAE against the bare passes through the decoder that it needs, side by side.

10,000 MNIST rows, nz=8, 32 draws; medians of five, the two in turn.

    python benchmarks/scoring.py    # about 2 minutes on two cores
"""

import time

import numpy as np
import torch

from sklatent import VAETransformer
from sklatent.datasets import fetch_mnist

N_DRAWS = 32


def main():
    """Time both and print the ratio."""
    X, _ = fetch_mnist(subset="test")
    vae = VAETransformer(8, likelihood="bernoulli", n_draws=N_DRAWS, max_epochs=1, random_state=0).fit(X)
    n_rows = 32  # as score_samples has it
    Z = torch.randn(n_rows * N_DRAWS, 8)

    def decode():
        with torch.no_grad():
            for _ in range(0, len(X), n_rows):
                vae.module_.decoder(Z)

    times = np.array([[seconds(lambda: vae.score_samples(X)), seconds(decode)] for _ in range(5)])
    scoring, decoding = np.median(times, axis=0)
    ratio = np.median(times[:, 0] / times[:, 1])
    print(f"score_samples {scoring:.2f} s, bare decoder {decoding:.2f} s, ratio {ratio:.2f}")


def seconds(function):
    """Wall time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
