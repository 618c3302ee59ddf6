"""Layers of a decoder, as the page takes them.

Each is a dict with the key "kind" and what `decoder.js` needs for it:

=============  =========================================================================================================
kind           output for an input x
=============  =========================================================================================================
linear         W x + b
affine         scale * x + shift, of which each pair holds for `block` values, such as the pixels of a channel
convolution    transposed convolution of the image x, with a kernel for each pair of channels
crop           the image x without its margins
function       an elementwise function by its name: an activation, or the mean of a likelihood
=============  =========================================================================================================
"""

__all__ = ["Layer", "affine", "convolution", "crop", "function", "linear", "n_weights"]

from typing import Any

from numpy.typing import NDArray

from sklatent.report._arrays import floats

Layer = dict[str, Any]


def linear(weight: NDArray[Any], bias: NDArray[Any] | None = None) -> Layer:
    """W x + b, with W of shape (n_outputs, n_inputs)."""
    layer: Layer = {"kind": "linear", "n_out": len(weight), "weight": floats(weight)}
    return layer if bias is None else layer | {"bias": floats(bias)}


def affine(scale: Any, shift: Any, block: int = 1) -> Layer:
    """The map scale * x + shift, in float64, since features may be far from the origin."""
    return {"kind": "affine", "block": block, "scale": floats(scale, 8), "shift": floats(shift, 8)}


def convolution(
    weight: NDArray[Any],
    bias: NDArray[Any] | None,
    stride: tuple[int, int],
    size: tuple[int, int],
    out: tuple[int, ...],
) -> Layer:
    """Transposed convolution of images (n_in, *size), with W (n_in, n_out, height, width), to images of shape `out`."""
    layer: Layer = {"kind": "convolution", "stride": list(stride), "size": list(size), "kernel": list(weight.shape)}
    layer |= {"out": list(out), "weight": floats(weight)}
    return layer if bias is None else layer | {"bias": floats(bias)}


def crop(shape: tuple[int, ...], left: int, top: int, size: tuple[int, int]) -> Layer:
    """The part of images (channels, height, width) from a corner on, of this size."""
    return {"kind": "crop", "shape": list(shape), "left": left, "top": top, "size": list(size)}


def function(name: str) -> Layer:
    """A key of `functions` in `decoder.js`."""
    return {"kind": "function", "name": name}


def n_weights(layer: Layer) -> int:
    """Number of float32 numbers that take as many bytes as those of the layer."""
    parts = [part for part in layer.values() if isinstance(part, dict)]
    return sum(len(part["data"]) for part in parts) * 3 // 16  # base64 has 4 characters for 3 bytes
