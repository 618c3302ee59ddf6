"""Latent-space models as scikit-learn estimators: PCA, autoencoder and variational autoencoder."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sklatent._autoencoder import AutoencoderTransformer
    from sklatent._classification import GenerativeClassifier
    from sklatent._imputation import LatentImputer
    from sklatent._outliers import LatentOutlierDetector
    from sklatent._pca import PCAReducer
    from sklatent._vae import VAETransformer

__version__ = "0.1.0"

__all__ = [
    "AutoencoderTransformer",
    "GenerativeClassifier",
    "LatentImputer",
    "LatentOutlierDetector",
    "PCAReducer",
    "VAETransformer",
]

# The estimators are imported on first use, so that `import sklatent` and `PCAReducer` do not load PyTorch.
_MODULES = {
    "AutoencoderTransformer": "sklatent._autoencoder",
    "GenerativeClassifier": "sklatent._classification",
    "LatentImputer": "sklatent._imputation",
    "LatentOutlierDetector": "sklatent._outliers",
    "PCAReducer": "sklatent._pca",
    "VAETransformer": "sklatent._vae",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
