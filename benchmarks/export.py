"""One sample, and a batch, through ONNX Runtime and through the estimator, side by side, with the size of the file.

Digits in float32, one thread each; medians of 300 calls for one sample and of 20 for all 1797, the two in turn. The
last column is the largest difference relative to the largest value.

With `--part grid` the largest difference over each combination of estimator, likelihood and link, prior, posterior,
backbone and method, for one sample and for 200; with `--part composites` that of PCA, of the meta-estimators and of
Pipelines.

    python benchmarks/export.py    # about a minute on two cores
    python benchmarks/export.py --part composites    # about a minute
    python benchmarks/export.py --part grid    # about eight minutes
    python benchmarks/export.py --part grid --likelihood poisson    # about a minute
"""

import argparse
import time
from itertools import product

import numpy as np
import onnxruntime
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklatent import (
    AutoencoderTransformer,
    GenerativeClassifier,
    LatentOutlierDetector,
    PCAReducer,
    VAETransformer,
)
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


LIKELIHOODS = {
    name: {"likelihood": name}
    for name in ("gaussian", "gaussian_diagonal", "bernoulli", "continuous_bernoulli", "poisson")
}
LIKELIHOODS |= {
    f"{name}, sigmoid": {"likelihood": name, "output_activation": "sigmoid"}
    for name in ("gaussian", "gaussian_diagonal")
}
BACKBONES = {
    "mlp": {},
    "linear": {"hidden_sizes": ()},
    "conv (4, 8)": {"backbone": "conv", "hidden_sizes": (4, 8)},
    "conv (4,)": {"backbone": "conv", "hidden_sizes": (4,)},
}
CODES = "transform", "inverse_transform"
LATENTS = list(product(["standard_normal", "mixture", "vamp"], ["diagonal", "full"]))


def main():
    """Run the part that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=["times", "composites", "grid"], default="times")
    parser.add_argument("--likelihood", choices=LIKELIHOODS)
    options = parser.parse_args()
    if options.part == "times":
        times()
    elif options.part == "composites":
        composites()
    else:
        grid([options.likelihood] if options.likelihood else LIKELIHOODS)


def composites():
    """Print a line for each estimator: the largest error of each of its methods."""
    X, y = load_digits(return_X_y=True)
    X, y = (X / 16).astype(np.float32)[:400], y[:400]
    for name, estimator, *methods in composite_cases():
        estimator.fit(X[:200], y[:200])
        errors = [f"{method} {largest_error(estimator, method, X[200:]):.1e}" for method in methods]
        print(f"{name:41}{'   '.join(errors)}", flush=True)


def composite_cases():
    """Yield a name, an estimator and the methods to export."""
    quick = {"max_epochs": 1, "random_state": 0}
    residual = AutoencoderTransformer(3, density="residual", **quick)
    for nz, whiten in product((None, 8, 0.9), (False, True)):
        yield f"PCA({nz}, whiten={whiten})", PCAReducer(nz, whiten=whiten), *CODES, "score_samples"
    for name, parameters in LIKELIHOODS.items():
        if name != "poisson":  # whose score cannot be exported
            yield f"autoencoder, {name}", clone(residual).set_params(**parameters), "score_samples"
    for name, density in {"PCA": PCAReducer(8), "autoencoder": residual}.items():
        yield f"classifier, {name}", GenerativeClassifier(density), "score_samples", "predict_proba"
        yield f"detector, {name}", LatentOutlierDetector(density, n_splits=None), "score_samples", "decision_function"
    steps = {
        "PCA": (PCAReducer(8), "score_samples"),
        "autoencoder": (residual, "transform"),
        "VAE": (VAETransformer(3, **quick), "transform"),
        "VAE, conv": (VAETransformer(3, **BACKBONES["conv (4, 8)"], **quick), "transform"),
        "classifier": (GenerativeClassifier(PCAReducer(4)), "predict_proba"),
        "detector": (LatentOutlierDetector(), "decision_function"),
    }
    for name, (last, method) in steps.items():
        yield f"scaler and {name}", make_pipeline(StandardScaler(), last), method
    steps = StandardScaler(), VAETransformer(3, **quick), LogisticRegression(max_iter=1000)
    yield "scaler, VAE and logistic regression", make_pipeline(*steps), "predict_proba"


def grid(likelihoods):
    """Print a line for each likelihood and backbone: the largest errors of the autoencoder and of all VAEs."""
    X = (load_digits().data / 16).astype(np.float32)[:200]
    for likelihood, (name, backbone) in product(likelihoods, BACKBONES.items()):
        parameters = {**LIKELIHOODS[likelihood], "max_epochs": 1, "random_state": 0, **backbone}
        models = [AutoencoderTransformer(3, **parameters)]
        models += [VAETransformer(3, prior=p, posterior=q, **parameters) for p, q in LATENTS]
        samples = np.round(16 * X) if likelihood == "poisson" else X
        errors = [max(largest_error(model.fit(samples), method, samples) for method in CODES) for model in models]
        print(f"{likelihood:22}{name:14}autoencoder {errors[0]:.1e}   6 VAEs {max(errors[1:]):.1e}", flush=True)


def largest_error(model, method, X):
    """Largest difference of a method for one sample and for all, relative to the largest value."""
    session = runtime(to_onnx(model, method=method).SerializeToString())
    values = model.transform(X) if method == "inverse_transform" else X
    errors = []
    for part in (values[:1], values):
        ours = getattr(model, method)(part)
        (theirs,) = session.run(None, {session.get_inputs()[0].name: part})
        errors.append(np.abs(ours - theirs).max() / np.abs(ours).max())
    return max(errors)


def times():
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
