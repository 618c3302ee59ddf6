"""One sample, and a batch, through ONNX Runtime and through the estimator, side by side, with the size of the file.

Digits in float32, one thread each; medians of 300 calls for one sample and of 20 for all 1797, the two in turn. The
last column is the largest difference relative to the largest value.

    python benchmarks/export.py    # about a minute on two cores
"""

import time

import numpy as np
import onnxruntime
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklatent import AutoencoderTransformer, GenerativeClassifier, PCAReducer, VAETransformer
from sklatent.export import to_onnx

NETWORK = {"max_epochs": 3, "random_state": 0}
CASES = {
    "PCAReducer": (PCAReducer(8), "transform"),
    "PCAReducer, scores": (PCAReducer(8), "score_samples"),
    "AutoencoderTransformer": (AutoencoderTransformer(8, **NETWORK), "transform"),
    "VAETransformer": (VAETransformer(8, **NETWORK), "transform"),
    "VAETransformer, conv": (VAETransformer(8, backbone="conv", hidden_sizes=(8, 16), **NETWORK), "transform"),
    "GenerativeClassifier": (GenerativeClassifier(PCAReducer(8)), "predict_proba"),
    "Pipeline with a VAE": (
        make_pipeline(StandardScaler(), VAETransformer(8, **NETWORK), LogisticRegression(max_iter=1000)),
        "predict_proba",
    ),
}


def main():
    """Fit, export and time each case, and print a line for it as soon as it is known."""
    torch.set_num_threads(1)
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    print(f"{'':24}{'one sample (ms)':^26}{'all samples (ms)':^26}{'file':>8}{'export':>9}{'error':>10}")
    print(f"{'':24}{'ours':>8}{'ONNX':>8}{'ratio':>8}  {'ours':>8}{'ONNX':>8}{'ratio':>8}  {'kB':>8}{'s':>9}")
    for name, (estimator, method) in CASES.items():
        own = getattr(estimator.fit(X, y), method)
        start = time.perf_counter()
        file = to_onnx(estimator, method=method).SerializeToString()
        export_time = time.perf_counter() - start
        session = runtime(file)
        exported = lambda X, session=session: session.run(None, {"X": X})[0]  # noqa: E731
        one, every = medians(own, exported, X[:1], 300), medians(own, exported, X, 20)
        error = np.abs(own(X) - exported(X)).max() / np.abs(own(X)).max()
        times = "  ".join(f"{ours:8.3f}{theirs:8.3f}{ours / theirs:8.1f}" for ours, theirs in (one, every))
        print(f"{name:24}{times}  {len(file) / 1e3:8.1f}{export_time:9.2f}{error:10.1e}", flush=True)


def runtime(file):
    """ONNX Runtime on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options)


def medians(first, second, X, n_calls):
    """Median times of two functions of X in milliseconds, called in turn."""
    times = np.array([[milliseconds(function, X) for function in (first, second)] for _ in range(n_calls)])
    return np.median(times, axis=0)


def milliseconds(function, X):
    """How long a call takes."""
    start = time.perf_counter()
    function(X)
    return 1e3 * (time.perf_counter() - start)


if __name__ == "__main__":
    main()
