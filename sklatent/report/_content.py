"""What the page shows, as one dict of texts, numbers and packed arrays."""

__all__ = ["collect"]

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklatent._sklearn_compat import safe_indexing
from sklatent.plotting._canvas import CLASS_COLOURS
from sklatent.plotting._curves import losses_of
from sklatent.plotting._models import (
    apply,
    as_array,
    classes_or_quantity,
    decode,
    encode,
    evenly_spaced,
    feature_names,
    find_step,
    image_shape_of,
    latent_names,
    mean_loadings,
    most_varied,
    steps_of,
    through,
    transformer_of,
)
from sklatent.plotting._scree import PERCENTILE, noise_variances, retained
from sklatent.plotting._traversal import traverse
from sklatent.report._arrays import floats, integers, pictures, value_range
from sklatent.report._decoders import decoder_of

CALLER = "write_report"
# Samples carry their values until the data of the page have so many bytes, which leaves a page of less than a megabyte.
# Some are carried in any case.
PAGE_BYTES, MIN_SAMPLE_BYTES = 920_000, 30_000
# Latent dimensions, features and samples of a figure.
MAX_DIMENSIONS, MAX_FEATURES, N_SHOWN, N_REASONS = 8, 20, 8, 4
N_STEPS = 11
CURVES = ("train_loss", "train_reconstruction", "valid_loss")
# The surprise of a value is less its mean over so many samples, since features have densities in different units.
N_REFERENCE = 100
# Images are scored in float32 if that moves no pixel by more than this fraction of a standard deviation of all pixels.
ROUNDING = 1e-6
# Parallel analysis is left out if the permuted samples ask for more operations.
N_PERMUTATIONS, MAX_PERMUTED = 20, 2e9
MAX_TEXT = 120
PACKAGES = {"sklatent": "sklatent", "scikit-learn": "sklearn", "NumPy": "numpy", "PyTorch": "torch"}


@dataclass(frozen=True)
class Subject:
    """The model and the samples on the page.

    Attributes
    ----------
    estimator : object
    X : array-like of shape (n_samples, n_features)
        Samples, as the estimator takes them to score them.
    values, reconstructed : ndarray of shape (n_samples, n_features)
        The same in float64, and what their latent codes decode to.
    Z : ndarray of shape (n_samples, nz)
        Latent codes.
    indices : ndarray of shape (n_samples,)
        Their places among all samples.
    is_whole : bool
        Whether these are all samples.
    image_shape : (channels, height, width) or None
    names : list of str
        Names of the features.
    """

    estimator: Any
    X: Any
    values: NDArray[Any]
    reconstructed: NDArray[Any]
    Z: NDArray[Any]
    indices: NDArray[Any]
    is_whole: bool
    image_shape: tuple[int, ...] | None
    names: list[str]

    @property
    def loc(self) -> NDArray[Any]:
        """Means of the observed values of the features."""
        return np.ma.masked_invalid(self.values).mean(axis=0).filled(0.0)

    @property
    def spread(self) -> NDArray[Any]:
        """Standard deviations of the features, or 1 if it is 0."""
        spread = np.ma.masked_invalid(self.values).std(axis=0).filled(0.0)
        return np.where(spread > 0, spread, 1.0)

    @property
    def residuals(self) -> NDArray[Any]:
        """Differences of samples and reconstructions: of images as they are, else in standard deviations."""
        difference = self.values - self.reconstructed
        return difference if self.image_shape else difference / self.spread

    @property
    def dimensions(self) -> list[int]:
        """Latent dimensions that figures show."""
        return most_varied(self.Z, None, MAX_DIMENSIONS, CALLER)


def collect(
    estimator: Any,
    X: Any,
    *,
    y: ArrayLike | None,
    image_shape: Sequence[int] | None,
    names: Sequence[str] | None,
    max_points: int,
) -> dict[str, Any]:
    """Compute what the page shows. The values of samples come last, and take the bytes that are left."""
    n_samples = X.shape[0] if hasattr(X, "shape") else len(X)
    indices = evenly_spaced(n_samples, max_points)
    colouring = None if y is None else _colouring(y, n_samples, indices)
    subject = _subject(estimator, safe_indexing(X, indices), indices, len(indices) == n_samples, image_shape, names)
    scores = _scores(subject)
    content = {
        **_overview(subject, n_samples),
        "colouring": colouring,
        "scores": None if scores is None else floats(scores),
        "decoder": decoder_of(estimator, subject.Z, subject.image_shape is not None, CALLER),
        "scree": _scree(subject),
        "losses": _losses(subject),
        "loadings": _loadings(subject),
        "traversals": _traversals(subject),
        "worst": _worst(subject),
        "surprising": None if scores is None else _surprising(subject, scores),
        "parameters": _parameters(estimator),
        "versions": [[name, sys.modules[key].__version__] for name, key in PACKAGES.items() if key in sys.modules],
    }
    left = PAGE_BYTES - len(json.dumps(content))
    return content | {"samples": _samples(subject, max(left, MIN_SAMPLE_BYTES))}


def _subject(
    estimator: Any,
    X: Any,
    indices: NDArray[Any],
    is_whole: bool,
    image_shape: Sequence[int] | None,
    names: Sequence[str] | None,
) -> Subject:
    Z = encode(estimator, X, CALLER)
    reconstructed = decode(estimator, Z, CALLER)
    n_features = reconstructed.shape[1]
    shape = image_shape_of(estimator, image_shape, n_features)
    names = feature_names(estimator, n_features) if names is None else [str(name) for name in names]
    if len(names) != n_features:
        raise ValueError(f"feature_names must have n_features={n_features} elements, got {len(names)}.")
    scored = X if shape is None else _in_single_precision(X)
    return Subject(estimator, scored, as_array(X), reconstructed, Z, indices, is_whole, shape, names)


def _in_single_precision(X: Any) -> Any:
    """Images in float32, in which convolutions take a third of the time, if that is all the same for what they show."""
    if not isinstance(X, np.ndarray) or X.dtype != np.float64:
        return X
    single = X.astype(np.float32)
    return single if np.nanmax(np.abs(single - X), initial=0) <= ROUNDING * np.nanstd(X) else X


def _overview(subject: Subject, n_samples: int) -> dict[str, Any]:
    low, high = value_range(subject.values)
    model = steps_of(subject.estimator)
    return {
        "title": " → ".join(type(step).__name__ for step in model),
        "n_samples": n_samples,
        "n_features": len(subject.names),
        "nz": subject.Z.shape[1],
        "image_shape": subject.image_shape,
        "range": [low, high],
        "feature_names": subject.names,
        "latent_names": latent_names(subject.estimator, subject.Z.shape[1], "z%d"),
        "prior": any(getattr(step, "prior", None) == "standard_normal" for step in model),
        "indices": integers(subject.indices),
        "codes": floats(subject.Z),
        "loc": _numbers(subject.loc),
        "spread": _numbers(subject.spread),
        "colours": CLASS_COLOURS,
    }


def _colouring(y: ArrayLike, n_samples: int, indices: NDArray[Any]) -> dict[str, Any]:
    """Classes with the index of each sample's class, or a quantity; both of the samples on the page."""
    classes, members, quantity = classes_or_quantity(y, n_samples)
    if quantity is not None:
        return {"quantity": floats(quantity[indices])}
    assert classes is not None
    assert members is not None
    return {"classes": [str(label) for label in classes], "members": integers(members[indices])}


def _scores(subject: Subject) -> NDArray[Any] | None:
    """Log-likelihoods of the samples, in nats, if the estimator has them."""
    density = transformer_of(subject.estimator, CALLER, "transform")
    if not hasattr(density, "score_samples"):
        return None
    try:
        return np.asarray(density.score_samples(subject.X), dtype=float)
    except np.linalg.LinAlgError:
        # scikit-learn's PCA has no density if the data vary in no more dimensions than there are components, and finds
        # this out only here.
        return None


def _samples(subject: Subject, n_bytes: int) -> dict[str, Any]:
    """Values of as many samples as these bytes hold, with their places among those on the page."""
    is_image = subject.image_shape is not None
    n_carried = int(n_bytes * 3 / 4 / (len(subject.names) * (1 if is_image else 4)))
    carried = evenly_spaced(len(subject.values), max(1, n_carried))
    values = subject.values[carried]
    return {"places": integers(carried), "values": _pictures(subject, values) if is_image else floats(values)}


def _pictures(subject: Subject, X: NDArray[Any]) -> dict[str, Any]:
    """Images on the grey scale of the samples, which shows all of them alike."""
    return pictures(X, *value_range(subject.values))


def _scree(subject: Subject) -> dict[str, Any]:
    """What each latent dimension contributes: nats, explained variance, or the variance of the latent codes."""
    found = find_step(subject.estimator, "kl_per_dimension_", "explained_variance_")
    if found is None:
        return {"label": "variance of the latent codes", "values": _numbers(subject.Z.var(axis=0))}
    model, before = found
    if hasattr(model, "kl_per_dimension_"):
        return {
            "label": "KL divergence (nats per sample)",
            "values": _numbers(model.kl_per_dimension_),
            "active": np.asarray(model.active_units_).tolist(),
        }
    fractions = _numbers(getattr(model, "explained_variance_ratio_", ()))
    variances = _numbers(model.explained_variance_)
    return {"label": "explained variance", "values": variances, "fractions": fractions} | _noise(subject, model, before)


def _noise(subject: Subject, model: Any, before: list[Any]) -> dict[str, Any]:
    """Horn's parallel analysis, whose reference is a permutation of all samples."""
    X = apply(before, subject.X)
    n_samples, n_features = X.shape
    n_operations = N_PERMUTATIONS * n_samples * n_features * min(n_samples, n_features)
    if not subject.is_whole or n_samples < 2 or n_operations > MAX_PERMUTED or not np.isfinite(X).all():
        return {}
    noise = noise_variances(model, X, N_PERMUTATIONS, 0)
    active = retained(np.asarray(model.explained_variance_), noise)
    return {"noise": _numbers(np.percentile(noise, PERCENTILE, axis=0)), "active": active.tolist()}


def _losses(subject: Subject) -> dict[str, Any] | None:
    """Losses of each epoch of the training of a network, in nats per sample; None for a model without epochs."""
    found = find_step(subject.estimator, "history_")
    if found is None:
        return None
    losses, n_warmup = losses_of(found[0])
    return {"curves": [[name, _numbers(losses[name])] for name in CURVES if name in losses], "warmup": n_warmup}


def _loadings(subject: Subject) -> dict[str, Any] | None:
    """Loadings of the latent dimensions that figures show, as pictures or for the features with the largest."""
    if len(subject.Z) < 2:
        return None
    is_image = subject.image_shape is not None
    chosen = subject.dimensions
    loadings = mean_loadings(subject.estimator, subject.values, subject.Z, not is_image, CALLER)[:, chosen].T
    found = {"dimensions": chosen}
    if is_image:
        limit = float(np.nanmax(np.abs(loadings), initial=0))
        return found | {"pictures": pictures(loadings, -limit, limit)}
    features = _largest(np.linalg.norm(loadings, axis=0))
    return found | {"features": features.tolist(), "values": [_numbers(line) for line in loadings[:, features]]}


def _traversals(subject: Subject) -> dict[str, Any] | None:
    """Decoded samples along each latent dimension; a grid for two dimensions of images."""
    if len(subject.Z) < 2:
        return None
    is_image = subject.image_shape is not None
    chosen, moments = subject.dimensions, (subject.Z.mean(axis=0), subject.Z.std(axis=0))
    grid = is_image and len(chosen) == 2
    values, X = traverse(subject.estimator, *moments, chosen, N_STEPS, grid=grid, caller=CALLER)
    found = {"dimensions": chosen, "grid": grid, "codes": [_numbers(line) for line in values]}
    if is_image:
        return found | {"pictures": _pictures(subject, X)}
    features = _largest(np.ptp(X / subject.spread, axis=1).max(axis=0))
    return found | {"features": features.tolist(), "values": floats(X[..., features])}


def _worst(subject: Subject) -> dict[str, Any]:
    """The samples with the largest squared errors."""
    errors = np.nansum(subject.residuals**2, axis=1)
    worst = np.argsort(-errors, kind="stable")[:N_SHOWN]
    return _cases(subject, worst, errors[worst], subject.residuals[worst])


def _surprising(subject: Subject, scores: NDArray[Any]) -> dict[str, Any]:
    """The samples with the lowest scores."""
    lowest = np.argsort(np.nan_to_num(scores, nan=np.inf), kind="stable")[:N_SHOWN]
    nats = _feature_scores(subject, lowest)
    amounts = subject.residuals[lowest] if nats is None else nats
    return _cases(subject, lowest, scores[lowest], amounts) | {"in_nats": nats is not None}


def _feature_scores(subject: Subject, places: NDArray[Any]) -> NDArray[Any] | None:
    """Log-likelihood of each value given the others of its sample, less the mean of the feature; None without any.

    A Pipeline tells them if its last steps are a density whose features are those that it is given.
    """
    found = find_step(subject.estimator, "score_features")
    if found is None:
        return None
    model, before = found
    reference = evenly_spaced(len(subject.values), N_REFERENCE)
    scores, usual = (
        model.score_features(through(before, safe_indexing(subject.X, part))) for part in (places, reference)
    )
    if scores.shape[1] != len(subject.names):
        return None
    return scores - np.ma.masked_invalid(usual).mean(axis=0).filled(0.0)


def _cases(subject: Subject, places: NDArray[Any], figures: NDArray[Any], amounts: NDArray[Any]) -> dict[str, Any]:
    """Samples with a figure each, and with the features that make it, or all of them for images."""
    found = {"places": places.tolist(), "figures": _numbers(figures)}
    if subject.image_shape is not None:
        limit = float(np.nanmax(np.abs(amounts), initial=1e-300))
        return found | {
            "samples": _pictures(subject, subject.values[places]),
            "reconstructions": _pictures(subject, subject.reconstructed[places]),
            "amounts": pictures(amounts, -limit, limit),
        }
    return found | {"reasons": [_reasons(subject, place, line) for place, line in zip(places, amounts, strict=True)]}


def _reasons(subject: Subject, place: int, amounts: NDArray[Any]) -> list[list[Any]]:
    """For the features with the largest amounts: feature, value, reconstruction and amount."""
    largest = np.argsort(-np.abs(np.nan_to_num(amounts)), kind="stable")[:N_REASONS]
    columns = subject.values[place], subject.reconstructed[place], amounts
    return [[int(j), *_numbers(column[j] for column in columns)] for j in largest]


def _parameters(estimator: Any) -> list[list[str]]:
    """Names and values of the parameters that are not estimators themselves."""
    params = getattr(estimator, "best_estimator_", estimator).get_params()
    plain = {name: value for name, value in params.items() if not hasattr(value, "get_params")}
    return [[name, _shortened(repr(value))] for name, value in sorted(plain.items()) if name not in ("steps", "memory")]


def _largest(sizes: NDArray[Any]) -> NDArray[Any]:
    """The features of the largest sizes, in their order."""
    return np.sort(np.argsort(-sizes, kind="stable")[:MAX_FEATURES])


def _numbers(values: Any) -> list[float | None]:
    """Numbers of six digits; None for those that are not finite, which JSON has no word for."""
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values]


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"
