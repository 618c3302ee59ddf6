"""How the page decodes: layers that it can compute itself, or else samples decoded in advance on a grid."""

__all__ = ["decoder_of"]

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklatent.plotting._models import as_array, decode, evenly_spaced, most_varied, steps_of
from sklatent.report._arrays import floats, pictures, value_range
from sklatent.report._layers import Layer, affine, linear, n_weights

# Largest number of weights that the page carries, which makes 21 MB.
MAX_WEIGHTS = 4_000_000
# Inputs of a linear map that is not known by its class, but found by decoding unit vectors.
MAX_PROBED = 512
# A map is affine if it agrees with the affine map through its values at unit vectors, relative to the largest value.
# float32 decoders round to 1e-7.
AFFINE_TOLERANCE = 1e-6
N_CHECKED = 64
# Values of the samples that are decoded in advance, and the largest number of latent codes along each axis of the grid.
MAX_GRID_VALUES = 400_000
MAX_SIDE = 41


def decoder_of(estimator: Any, Z: NDArray[Any], as_pictures: bool, caller: str) -> dict[str, Any]:
    """What the page needs to decode.

    Parameters
    ----------
    estimator : object
        Fitted transformer with `inverse_transform`, or a Pipeline of these.
    Z : ndarray of shape (n_samples, nz)
        Latent codes of samples.
    as_pictures : bool
        Whether samples are images, for which 255 levels will do.
    caller : str
        Name for error messages.

    Returns
    -------
    decoder : dict
        With the key "layers", or with "grid" and the reason.
    """
    layers = _layers(estimator, Z)
    if layers is None:
        return _grid(estimator, Z, as_pictures, caller) | {"reason": "The page cannot compute this decoder itself."}
    if sum(map(n_weights, layers)) > MAX_WEIGHTS:
        return _grid(estimator, Z, as_pictures, caller) | {"reason": "The decoder is too large for a page."}
    return {"layers": layers}


def _layers(estimator: Any, Z: NDArray[Any]) -> list[Layer] | None:
    """Layers of all steps, from the latent codes to the samples; None if one is not known."""
    layers: list[Layer] = []
    for step in reversed(_decoding_steps(estimator)):
        found = _step_layers(step, Z)
        if found is None:
            return None
        layers += found
        Z = as_array(step.inverse_transform(Z[evenly_spaced(len(Z), N_CHECKED)]))
    return layers


def _decoding_steps(estimator: Any) -> list[Any]:
    """The steps of which `inverse_transform` is composed: a last one that predicts has none."""
    steps = steps_of(estimator)
    return steps if hasattr(steps[-1], "inverse_transform") else steps[:-1]


def _step_layers(step: Any, Z: NDArray[Any]) -> list[Layer] | None:
    if not hasattr(step, "module_"):
        return _affine_layers(step.inverse_transform, Z)
    from sklatent.report._networks import network_layers  # loads PyTorch, which PCA does without

    return network_layers(step.module_, step.n_components_)


def _affine_layers(function: Callable[[NDArray[Any]], Any], Z: NDArray[Any]) -> list[Layer] | None:
    """Layers of a map of samples if it is affine: of each value by itself, such as a scaler's, or linear."""
    Z = Z[evenly_spaced(len(Z), N_CHECKED)]
    centre, spread = Z.mean(axis=0), Z.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    # The maps are compared at the samples, and also far from them.
    away = np.random.default_rng(0).standard_normal((N_CHECKED, len(centre)))
    points = np.concatenate([Z, centre + 3 * spread * away])
    with np.errstate(all="ignore"):  # another map, such as an exponential function, may overflow there
        values, origin = as_array(function(points)), as_array(function(centre[None]))[0]
        for make in (_scaling, _linear_map):
            layers, predicted = make(function, points, centre, spread, origin)
            if layers and np.abs(values - predicted).max() <= AFFINE_TOLERANCE * np.abs(values).max(initial=1e-300):
                return layers
    return None


def _scaling(
    function: Callable[..., Any], points: NDArray[Any], centre: NDArray[Any], spread: NDArray[Any], origin: NDArray[Any]
) -> tuple[list[Layer], NDArray[Any]]:
    if origin.shape != centre.shape:
        return [], points
    scale = (as_array(function((centre + spread)[None]))[0] - origin) / spread
    shift = origin - scale * centre
    return [affine(scale, shift)], points * scale + shift


def _linear_map(
    function: Callable[..., Any], points: NDArray[Any], centre: NDArray[Any], spread: NDArray[Any], origin: NDArray[Any]
) -> tuple[list[Layer], NDArray[Any]]:
    if len(centre) > MAX_PROBED:
        return [], points
    weight = ((as_array(function(centre + np.diag(spread))) - origin) / spread[:, None]).T
    shift = origin - weight @ centre
    return [linear(weight), affine(np.ones_like(shift), shift)], points @ weight.T + shift


def _grid(estimator: Any, Z: NDArray[Any], as_pictures: bool, caller: str) -> dict[str, Any]:
    """Latent codes decoded on a grid over the two dimensions of largest variance; the others stay at their means."""
    chosen = most_varied(Z, None, 2, caller)
    low, high = _reach(Z[:, chosen])
    n_features = decode(estimator, Z[:1], caller).shape[1]
    side = _side(n_features, len(chosen))
    axes = np.linspace(low, high, side).T  # (n_axes, side)
    codes = np.tile(Z.mean(axis=0), (side ** len(chosen), 1))
    codes[:, chosen] = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(chosen))
    X = decode(estimator, codes, caller)
    values = pictures(X, *value_range(X)) if as_pictures else floats(X)
    return {"grid": {"dimensions": chosen, "low": low.tolist(), "high": high.tolist(), "side": side, "values": values}}


def _reach(Z: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The range of the latent codes, with a margin."""
    margin = 0.05 * np.where(np.ptp(Z, axis=0) > 0, np.ptp(Z, axis=0), 1.0)
    return Z.min(axis=0) - margin, Z.max(axis=0) + margin


def _side(n_features: int, n_axes: int) -> int:
    """Number of latent codes along each axis of the grid, which is odd, so that there is one in the middle."""
    side = int((MAX_GRID_VALUES / n_features) ** (1 / n_axes))
    return int(np.clip(side, 5, MAX_SIDE)) // 2 * 2 + 1
