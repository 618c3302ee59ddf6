"""Point clouds from Chaudhury (2024), chapter 14, and MNIST."""

__all__ = ["fetch_mnist", "make_curve_cloud", "make_plane_cloud"]

import os
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import fetch_openml
from sklearn.utils import check_random_state

from sklatent._sklearn_compat import Interval, StrOptions, validate_params


@validate_params(
    {"n_samples": [Interval(Integral, 1, None, closed="left")], "random_state": ["random_state"]},
    prefer_skip_nested_validation=True,
)
def make_plane_cloud(n_samples: int = 1000, *, random_state: Any = None) -> NDArray[np.float64]:
    """Generate points near the plane x0 = x2, which two principal components describe.

    x0 is uniform on [0, 100), x1 is uniform on [0, 90), and x2 is x0 plus an integer that is uniform on -5 to 4.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of points.
    random_state : int, RandomState instance or None, default=None
        Controls the generated points. Pass an int for reproducible results.

    Returns
    -------
    X : ndarray of shape (n_samples, 3)
        The points.

    See Also
    --------
    make_curve_cloud : Points near a curve.

    References
    ----------
    Chaudhury (2024), "Math and Architectures of Deep Learning", section 14.4 and figure 14.3.

    Examples
    --------
    >>> from sklatent.datasets import make_plane_cloud
    >>> make_plane_cloud(random_state=0).shape
    (1000, 3)
    """
    rng = check_random_state(random_state)
    x0, x1 = rng.uniform(0, 100, n_samples), rng.uniform(0, 90, n_samples)
    return np.column_stack([x0, x1, x0 + rng.randint(-5, 5, n_samples)])


@validate_params(
    {
        "n_samples": [Interval(Integral, 1, None, closed="left")],
        "noise": [Interval(Real, 0, None, closed="left")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def make_curve_cloud(n_samples: int = 1000, *, noise: float = 0.05, random_state: Any = None) -> NDArray[np.float64]:
    """Generate points near a parabola, which one latent dimension can describe but one principal component cannot.

    x0 is uniform on [-1, 1) and x1 is x0 squared. Normally distributed noise is added to both.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of points.
    noise : float, default=0.05
        Standard deviation of the noise.
    random_state : int, RandomState instance or None, default=None
        Controls the generated points. Pass an int for reproducible results.

    Returns
    -------
    X : ndarray of shape (n_samples, 2)
        The points.

    See Also
    --------
    make_plane_cloud : Points near a plane.

    References
    ----------
    Chaudhury (2024), "Math and Architectures of Deep Learning", section 14.4 and figure 14.4.

    Examples
    --------
    >>> from sklatent.datasets import make_curve_cloud
    >>> make_curve_cloud(random_state=0).shape
    (1000, 2)
    """
    rng = check_random_state(random_state)
    x0 = rng.uniform(-1, 1, n_samples)
    return np.column_stack([x0, x0**2]) + noise * rng.standard_normal((n_samples, 2))


@validate_params(
    {
        "subset": [StrOptions({"train", "test", "all"})],
        "image_size": [Interval(Integral, 1, None, closed="left")],
        "data_home": [str, os.PathLike, None],
    },
    prefer_skip_nested_validation=True,
)
def fetch_mnist(
    *, subset: Literal["train", "test", "all"] = "train", image_size: int = 28, data_home: Any = None
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Load the MNIST digits as flattened images with pixels in [0, 1].

    If the environment variable SKLATENT_DATA names a folder with a file `mnist.npz`, the images are read from it
    (arrays `X_train`, `y_train`, `X_test`, `y_test` with 28 x 28 uint8 images in the original order). Otherwise they
    are downloaded by :func:`sklearn.datasets.fetch_openml` and cached in scikit-learn's data folder.

    Parameters
    ----------
    subset : {"train", "test", "all"}, default="train"
        Images to load: the 60,000 training images, the 10,000 test images, or both, in this order.
    image_size : int, default=28
        Height and width of the images. Images are resized by bilinear interpolation if it is not 28. Chaudhury (2024),
        chapter 14, uses 32.
    data_home : str, path or None, default=None
        Folder for the downloaded data, as in `fetch_openml`.

    Returns
    -------
    X : ndarray of shape (n_samples, image_size ** 2), float32
        The images.
    y : ndarray of shape (n_samples,), uint8
        Labels from 0 to 9.

    See Also
    --------
    sklearn.datasets.load_digits : Smaller digits, which need no download.

    References
    ----------
    LeCun, Bottou, Bengio & Haffner (1998), "Gradient-based learning applied to document recognition".

    Examples
    --------
    >>> from sklatent.datasets import fetch_mnist
    >>> X, y = fetch_mnist(subset="test", image_size=32)  # doctest: +SKIP
    >>> X.shape  # doctest: +SKIP
    (10000, 1024)
    """
    pixels, y = _read_mnist(data_home)
    rows = {"train": slice(60_000), "test": slice(60_000, None), "all": slice(None)}[subset]
    images = pixels[rows].reshape(-1, 28, 28).astype(np.float32) / np.float32(255)
    if image_size != 28:
        images = _resize(images, image_size)
    return images.reshape(len(images), -1), y[rows]


def _read_mnist(data_home: Any) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """All 70,000 images and labels, training images first."""
    folder = os.environ.get("SKLATENT_DATA")
    if folder and (path := Path(folder) / "mnist.npz").is_file():
        with np.load(path) as arrays:
            X, y = (np.concatenate([arrays[f"{kind}_train"], arrays[f"{kind}_test"]]) for kind in "Xy")
            return X, y
    X, y = fetch_openml("mnist_784", version=1, return_X_y=True, as_frame=False, parser="auto", data_home=data_home)
    return X, y.astype(np.uint8)


def _resize(images: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    from torch import from_numpy
    from torch.nn.functional import interpolate

    resized = interpolate(from_numpy(images)[:, None], size=(size, size), mode="bilinear", antialias=True)
    return resized[:, 0].numpy()
