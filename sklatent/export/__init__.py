"""Fitted estimators in files for other programs, and in files that run no code.

ONNX runs without Python, scikit-learn and PyTorch. It needs onnx, onnxscript, onnxruntime and skl2onnx, which
`pip install "sklatent[onnx]"` installs. Files of skops hold numbers, and `TRUSTED_TYPES` is what to trust in them:

>>> import skops.io
>>> from sklatent import PCAReducer
>>> from sklatent.export import TRUSTED_TYPES
>>> from sklearn.datasets import load_iris
>>> X = load_iris().data
>>> file = skops.io.dumps(PCAReducer(2).fit(X))
>>> skops.io.loads(file, trusted=TRUSTED_TYPES).transform(X).shape
(150, 2)
"""

# `_methods` says what each method computes, in PyTorch and on the functions that the estimators use themselves,
# `_networks` makes ONNX graphs of the networks, and `_converters` teaches skl2onnx to put graphs into those of whole
# Pipelines.

__all__ = ["TRUSTED_TYPES", "to_onnx"]

import json
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import sklearn
from sklearn.base import BaseEstimator
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.utils.validation import check_is_fitted

import sklatent

if TYPE_CHECKING:
    from onnx import ModelProto

Method = Literal["transform", "inverse_transform", "score_samples", "predict", "predict_proba", "decision_function"]

TRUSTED_TYPES: list[str] = [
    "sklatent._autoencoder.AutoencoderTransformer",
    "sklatent._classification.GenerativeClassifier",
    "sklatent._imputation.LatentImputer",
    "sklatent._outliers.LatentOutlierDetector",
    "sklatent._pca.PCAReducer",
    "sklatent._ppca.moments.FactoredMoments",
    "sklatent._ppca.moments.Moments",
    "sklatent._search.crossfit.KnownScores",
    "sklatent._vae.VAETransformer",
    "sklatent.model_selection.FusedGridSearchCV",
    "sklatent.model_selection.FusedRandomizedSearchCV",
    # What scikit-learn's searches hold, and skops does not trust by itself: splitters, and the scorer of scoring=None.
    "sklearn.metrics._scorer._PassthroughScorer",
    "sklearn.model_selection._split.KFold",
    "sklearn.model_selection._split.StratifiedKFold",
    # `cv_results_` has masked arrays, which skops 0.13 does not trust by itself.
    "numpy.ma.MaskedArray",
    # The scorer of scikit-learn 1.6 holds what it requests of metadata.
    "sklearn.utils._metadata_requests.MetadataRequest",
    "sklearn.utils._metadata_requests.MethodMetadataRequest",
]
"""Types that `skops.io.load` has to trust for the estimators of this package.

None of them runs code of the file: they check the numbers and the text that the file holds for them.
"""


def to_onnx(estimator: Any, *, method: Method = "transform") -> "ModelProto":
    """Export a method of a fitted estimator as an ONNX model.

    The model contains all that the method does, such as the standardization of the samples and the link of the
    likelihood. It has one input of float32 values, `X` of shape (n_samples, n_features), or `Z` of shape (n_samples,
    n_components) for "inverse_transform", and one output with the name of the method. The number of samples is free.
    The operators are those of ONNX opset 18, which ONNX Runtime reads from version 1.14 on.

    Parameters
    ----------
    estimator : object
        A fitted estimator of this package, or a Pipeline or another estimator of scikit-learn that contains some. Its
        other steps are converted by skl2onnx. For a search it is the `best_estimator_`.
    method : str, default="transform"
        What to export:

        - "transform", "inverse_transform" or "score_samples" of :class:`~sklatent.PCAReducer`,
        - the same of :class:`~sklatent.AutoencoderTransformer`, but "score_samples" only with `density="residual"`,
        - "transform" or "inverse_transform" of :class:`~sklatent.VAETransformer`,
        - "predict", "predict_proba" or "score_samples" of :class:`~sklatent.GenerativeClassifier`,
        - "predict", "decision_function" or "score_samples" of :class:`~sklatent.LatentOutlierDetector`,
        - "transform", "predict" or "predict_proba" of scikit-learn's estimators that skl2onnx converts.

        For a Pipeline it is that of its last step, except for "inverse_transform". The two meta-estimators can be
        exported if "score_samples" of their densities can.

    Returns
    -------
    model : onnx.ModelProto
        ``onnx.save(model, path)`` writes it to a file. Its `metadata_props` are the class of the estimator, the method,
        the parameters, the names of the features and the versions of the packages.

    Raises
    ------
    ImportError
        If a package of the extra `onnx` is not installed.
    ValueError
        If the method cannot be exported: importance-weighted bounds and Laplace's approximation need algorithms that
        ONNX does not have, and `inverse_transform` of a Pipeline is not known to skl2onnx. Nor can classifiers that
        calibrate another one or set its threshold, of which skl2onnx makes models of other numbers.

    See Also
    --------
    sklatent.PCAReducer : All of its methods can be exported.

    Notes
    -----
    Results are float32, and those of PCAReducer and the meta-estimators are computed in float64. They equal those of
    the estimator to a relative error of 1e-5, or 1e-4 for the scores of a network of features whose spreads differ
    widely.

    A graph cannot refuse a sample. Results are NaN for samples that contain NaN or infinite values, missing values
    included; predicted labels are the label of rejected samples, or -1 for outliers. Values outside the support of a
    likelihood are not detected. The scores of LatentOutlierDetector are those of new samples: training samples are not
    recognized.

    Examples
    --------
    >>> import onnxruntime
    >>> from sklatent import PCAReducer
    >>> from sklatent.export import to_onnx
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data.astype("float32")
    >>> pca = PCAReducer(2).fit(X)
    >>> session = onnxruntime.InferenceSession(to_onnx(pca).SerializeToString())
    >>> (Z,) = session.run(None, {"X": X[:3]})
    >>> bool(abs(Z - pca.transform(X[:3])).max() < 1e-5)
    True
    """
    if isinstance(estimator, (GridSearchCV, RandomizedSearchCV)):
        check_is_fitted(estimator)
        estimator = estimator.best_estimator_
    if not isinstance(estimator, BaseEstimator):
        raise TypeError(f"estimator must be a fitted estimator. Got {estimator!r} instead.")
    check_is_fitted(estimator)

    from sklatent.export._converters import exportable_methods, pipeline_model, without_passthrough
    from sklatent.export._methods import method_model, method_names

    working = without_passthrough(estimator)
    allowed = exportable_methods(working)
    if method not in allowed:
        raise ValueError(f"method must be one of {allowed} for {type(estimator).__name__}. Got {method!r} instead.")
    build = method_model if method_names(estimator) else pipeline_model
    return _described(build(working, method), estimator, method)


def _described(model: Any, estimator: Any, method: str) -> Any:
    """The model with the names of its parts, and what an auditor wants to know among its metadata."""
    import onnx
    import torch

    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "n_samples"
    model.graph.name = f"{type(estimator).__name__}.{method}"
    model.producer_name, model.producer_version = "sklatent", sklatent.__version__
    names = getattr(estimator, "feature_names_in_", np.array([], dtype=object))
    versions = {"sklatent": sklatent.__version__, "scikit-learn": sklearn.__version__, "torch": torch.__version__}
    facts = {
        "estimator": type(estimator).__name__,
        "method": method,
        "parameters": json.dumps({name: repr(value) for name, value in estimator.get_params(deep=False).items()}),
        "feature_names": json.dumps(names.tolist()),
        "versions": json.dumps(versions),
    }
    onnx.helper.set_model_props(model, facts)
    onnx.checker.check_model(model)
    return model
