"""What each method of a fitted estimator computes, as ONNX graphs."""

__all__ = ["METHODS", "class_labels", "method_model", "method_names", "output_shape"]

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from array_api_compat import to_device
from numpy.typing import NDArray

from sklatent._autoencoder import AutoencoderTransformer
from sklatent._classification import GenerativeClassifier
from sklatent._nn.objectives import residual_density
from sklatent._outliers import LatentOutlierDetector
from sklatent._pca import PCAReducer
from sklatent._ppca.density import log_density, model_variances, scaled_axes, squared_distances
from sklatent._vae import VAETransformer
from sklatent.export._arrays import Graph, Value
from sklatent.export._networks import network_model


def method_names(estimator: Any) -> list[str]:
    """The methods of an estimator of this package that can be exported; none for other estimators."""
    return list(METHODS.get(type(estimator), {}))


def method_model(estimator: Any, method: str) -> Any:
    """A method of a fitted estimator of this package as an ONNX model, whose output has the name of the method.

    The estimators refuse samples that are not finite, and a graph cannot. So numbers are NaN for them: without this
    some operators, such as ReLU and maximum pooling, would turn NaN into a number like any other.

    Raises
    ------
    ValueError
        If the method cannot be exported.
    """
    graph = Graph()
    name, width = _input(estimator, method)
    x = Value(graph, name)
    result = METHODS[type(estimator)][method](estimator, x)
    shape = output_shape(estimator, method)
    if method == "predict":
        labels = class_labels(estimator)
        dtype = labels.dtype if labels.dtype.kind != "U" else np.dtype(object)
        return graph.model((name, width), graph.apply("Gather", labels, result), method, dtype, shape)
    result = result.astype(np.float32) + _zero_or_nan(x, keepdims=bool(shape))
    return graph.model((name, width), result, method, np.float32, shape)


def output_shape(estimator: Any, method: str) -> tuple[int, ...]:
    """Shape of what a method gives for each sample."""
    if method == "predict_proba":
        return (len(estimator.classes_),)
    widths = {"transform": "n_components_", "inverse_transform": "n_features_in_"}
    return (int(getattr(estimator, widths[method])),) if method in widths else ()


def class_labels(estimator: Any) -> NDArray[Any]:
    """The labels that `predict` chooses from: the classes, and last the label of rejected samples or of outliers."""
    if isinstance(estimator, LatentOutlierDetector):
        return np.array([1, -1])
    labels = np.array([*estimator.classes_.tolist(), estimator.reject_label_])
    return labels.astype(np.int64) if labels.dtype.kind in "biu" else labels


def _input(estimator: Any, method: str) -> tuple[str, int]:
    if method == "inverse_transform":
        return "Z", int(estimator.n_components_)
    return "X", int(estimator.n_features_in_)


def _zero_or_nan(x: Value, keepdims: bool = False) -> Value:
    """0 for finite samples and NaN for others, (n,) or (n, 1), in float32."""
    return (x * np.float32(0)).reduce("ReduceSum", keepdims)


def _project(pca: PCAReducer, x: Value) -> Value:
    """Latent codes (n, n_components), in float64: samples far from the origin keep their digits."""
    return (x.astype(np.float64) - _array(pca.mean_)) @ _axes(pca, -1).T


def _reconstruct(pca: PCAReducer, z: Value) -> Value:
    """Expectations (n, n_features) given latent codes (n, n_components), in float64."""
    return z.astype(np.float64) @ _axes(pca, 1) + _array(pca.mean_)


def _density(pca: PCAReducer, x: Value) -> Value:
    """Log-densities (n,), in float64."""
    rows, (variances, noise) = x.astype(np.float64) - _array(pca.mean_), _variances(pca)
    distances: Any = squared_distances(rows, _array(pca.components_), variances, noise)
    return log_density(distances, variances, noise, pca.n_features_in_)


def _axes(pca: PCAReducer, power: int) -> NDArray[Any]:
    axes = _array(pca.components_)
    return scaled_axes(axes, _variances(pca)[0], power) if pca.whiten else axes


def _variances(pca: PCAReducer) -> tuple[NDArray[Any], float]:
    return model_variances(_array(pca.explained_variance_), float(pca.noise_variance_), _array(pca.mean_))


def _array(values: Any) -> NDArray[np.float64]:
    return np.asarray(to_device(values, "cpu"), dtype=np.float64)


def _encode(network: Any, x: Value) -> Value:
    encode = lambda module, x: module.encode(x)  # noqa: E731
    return x.graph.include(network_model(network.module_, encode, network.n_features_in_), x)


def _decode(network: Any, z: Value) -> Value:
    decode = lambda module, z: module.likelihood.mean(module.decode(z))  # noqa: E731
    return z.graph.include(network_model(network.module_, decode, network.n_components_), z)


def _residual_density(network: AutoencoderTransformer, x: Value) -> Value:
    if network.density != "residual":
        raise ValueError(
            f"score_samples of AutoencoderTransformer cannot be exported with density={network.density!r}: Laplace's "
            "approximation searches for the most probable latent code of each sample. Set density='residual', or use "
            "PCAReducer."
        )
    if network.likelihood == "poisson":
        raise ValueError(
            "score_samples of AutoencoderTransformer cannot be exported with likelihood='poisson': ONNX has no "
            "logarithm of the gamma function."
        )
    return x.graph.include(network_model(network.module_, residual_density, network.n_features_in_), x)


def _refuse_bound(network: VAETransformer, x: Value) -> Value:
    raise ValueError(
        "score_samples of VAETransformer cannot be exported: the importance-weighted bound needs random numbers that "
        "depend on the values of each sample, which ONNX cannot generate. Use PCAReducer, or AutoencoderTransformer "
        "with density='residual'."
    )


def _scores(density: Any, x: Value) -> Value:
    """Scores (n,) of an estimator within another one, in float64."""
    methods = METHODS.get(type(density), {})
    if "score_samples" not in methods:
        raise ValueError(
            f"score_samples of {type(density).__name__} cannot be exported within another estimator. The density must "
            f"be one of {[kind.__name__ for kind in METHODS]}, and other steps must come before the whole estimator."
        )
    return methods["score_samples"](density, x).astype(np.float64)


def _log_joint(classifier: GenerativeClassifier, x: Value) -> Value:
    """Log p(x | c) + log p(c), (n, n_classes); NaN for samples that are not finite."""
    columns = [x.graph.apply("Unsqueeze", _scores(density, x), np.array([1])) for density in classifier.estimators_]
    scores = x.graph.apply("Concat", *columns, axis=1)
    return scores + _log_prior(classifier) + _zero_or_nan(x, keepdims=True).astype(np.float64)


def _log_prior(classifier: GenerativeClassifier) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):  # a class with prior 0 is never predicted
        return np.log(classifier.class_prior_)


def _log_posterior(classifier: GenerativeClassifier, log_joint: Value) -> Value:
    """Log p(c | x), (n, n_classes); the prior for samples whose densities are all zero."""
    apply, impossible = log_joint.graph.apply, _is_impossible(log_joint, keepdims=True)
    return apply("LogSoftmax", apply("Where", impossible, _log_prior(classifier), log_joint), axis=1)


def _log_evidence(log_joint: Value) -> Value:
    """Log p(x), (n,); -inf for samples whose densities are all zero, for which the operator alone may give NaN."""
    log_prob = log_joint.reduce("ReduceLogSumExp")
    return log_joint.graph.apply("Where", _is_impossible(log_joint, keepdims=False), -math.inf, log_prob)


def _is_impossible(log_joint: Value, keepdims: bool) -> Value:
    return log_joint.graph.apply("Equal", log_joint.reduce("ReduceMax", keepdims), -math.inf)


def _posterior(classifier: GenerativeClassifier, x: Value) -> Value:
    return x.graph.apply("Exp", _log_posterior(classifier, _log_joint(classifier, x)))


def _decide(classifier: GenerativeClassifier, x: Value) -> Value:
    """Positions (n,) among the `class_labels`. Comparisons with NaN are false, so it leads to the last one."""
    apply, log_joint = x.graph.apply, _log_joint(classifier, x)
    fraction, threshold = classifier.reject_fraction, classifier.reject_threshold
    threshold = threshold if fraction is None else classifier.reject_threshold_
    best = apply("ArgMax", _log_posterior(classifier, log_joint), axis=1, keepdims=0)
    accepted = apply("GreaterOrEqual", _log_evidence(log_joint), -math.inf if threshold is None else float(threshold))
    return apply("Where", accepted, best, np.int64(len(classifier.classes_)))


def _mixture(classifier: GenerativeClassifier, x: Value) -> Value:
    return _log_evidence(_log_joint(classifier, x))


def _excess(detector: LatentOutlierDetector, x: Value) -> Value:
    """Scores minus the threshold, (n,)."""
    return _scores(detector.estimator_, x) - float(detector.offset_)


def _is_inlier(detector: LatentOutlierDetector, x: Value) -> Value:
    """Positions (n,) among the `class_labels`. Comparisons with NaN are false, so it leads to the last one."""
    excess = _excess(detector, x) + _zero_or_nan(x).astype(np.float64)
    return x.graph.apply("Where", x.graph.apply("GreaterOrEqual", excess, 0.0), np.int64(0), np.int64(1))


# What can be exported. A subclass may compute something else, so it is not among them.
METHODS: dict[type, dict[str, Callable[[Any, Value], Value]]] = {
    PCAReducer: {"transform": _project, "inverse_transform": _reconstruct, "score_samples": _density},
    AutoencoderTransformer: {
        "transform": _encode,
        "inverse_transform": _decode,
        "score_samples": _residual_density,
    },
    VAETransformer: {"transform": _encode, "inverse_transform": _decode, "score_samples": _refuse_bound},
    GenerativeClassifier: {"predict": _decide, "predict_proba": _posterior, "score_samples": _mixture},
    LatentOutlierDetector: {
        "predict": _is_inlier,
        "decision_function": _excess,
        "score_samples": lambda detector, x: _scores(detector.estimator_, x),
    },
}
