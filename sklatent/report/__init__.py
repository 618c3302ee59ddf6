"""A report about a fitted model: one HTML file, in which one moves through the latent space and sees what it decodes.

The file needs no server and no network. It can be sent to a colleague who has a browser only.
"""

# `_arrays` packs numbers, `_decoders` says how the page decodes, `_content` collects what it shows, and `_page` joins
# this with the HTML, CSS and JavaScript in `_assets`.

__all__ = ["write_report"]

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from sklatent.plotting._models import check_count
from sklatent.report._content import collect
from sklatent.report._page import render

MAX_POINTS = 100_000


def write_report(
    estimator: Any,
    X: ArrayLike,
    path: str | os.PathLike[str],
    *,
    y: ArrayLike | None = None,
    image_shape: Sequence[int] | None = None,
    feature_names: Sequence[str] | None = None,
    max_points: int = 5000,
) -> Path:
    r"""Write a report about a fitted model: one HTML file that answers in the browser.

    At the top is the map of the latent codes of X, with a point that one drags, or moves with the arrow keys. The
    decoder runs in the page and shows E[x | z] at the point at once. Below are the contribution of each latent
    dimension, the losses of each epoch, loadings, traversals, the worst reconstructions, the samples with the lowest
    scores with the features that make them improbable, and the parameters and versions.

    The page computes multilayer perceptrons, the convolutional decoder, all decoders that are affine (such as PCA's),
    and affine steps of a Pipeline (such as scalers), in double precision with weights of float32. For other decoders,
    such as those of a callable `backbone` with other layers, samples are decoded in advance on a grid over the two
    latent dimensions of largest variance, and the page says so.

    Parameters
    ----------
    estimator : object
        Fitted transformer with `inverse_transform`, such as an estimator of this package or scikit-learn's PCA; a
        Pipeline of such transformers (a last step that predicts is left out); or a search over these.
    X : array-like of shape (n_samples, n_features)
        Samples to show. If they are not more than `max_points`, the explained variances of PCA are compared with those
        of the same samples without correlations (Horn's parallel analysis), so pass the training samples.
    path : str or path-like
        File to write. An earlier one is replaced.
    y : array-like of shape (n_samples,) or None, default=None
        Classes, or a quantity, to colour the samples. Labels, and whole numbers with at most 20 different values, are
        classes.
    image_shape : (height, width), (channels, height, width) or None, default=None
        Shape of a sample as an image, with one channel or three. None stands for the `image_shape` of the estimator,
        or else for a table.
    feature_names : list of str or None, default=None
        Names of the features. None stands for those seen during `fit`, or else x0, x1, ...
    max_points : int, default=5000
        Maximum number of samples on the page. More are thinned out evenly.

    Returns
    -------
    path : pathlib.Path
        The file.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    TypeError
        If the estimator has no `transform` or no `inverse_transform`.
    ValueError
        If X and y differ in length, or `image_shape` or `feature_names` do not fit the number of features.

    See Also
    --------
    sklatent.plotting : The same questions as figures of matplotlib.

    Notes
    -----
    The file contains samples of X, all of them if that is possible in about a megabyte, and the weights of the decoder.
    Do not send it to people who must not see these. Names, labels and values are shown as text: none of them can run
    anything in the browser of the reader.

    Scores are those of `score_samples` of the estimator, if it has it, and take the time of that method.

    References
    ----------
    Kingma & Welling (2014), "Auto-encoding variational Bayes", figure 4 (decoded latent codes). Horn (1965), "A
    rationale and test for the number of factors in factor analysis".

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> from sklatent import PCAReducer
    >>> from sklatent.report import write_report
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> path = write_report(PCAReducer(2).fit(X), X, Path(mkdtemp()) / "digits.html", y=y, image_shape=(8, 8))
    >>> path.stat().st_size < 1_000_000
    True
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be str or path-like, got {type(path).__name__}.")
    check_count("max_points", max_points, MAX_POINTS)
    content = collect(estimator, X, y=y, image_shape=image_shape, names=feature_names, max_points=max_points)
    file = Path(path)
    file.write_text(render(content), encoding="utf-8")
    return file
