"""Pictures of latent models: latent maps, scree plots, loadings, reconstructions, traversals, losses and scores.

Each follows scikit-learn's Display convention: `from_estimator` computes and shows, `__init__` keeps arrays, `plot`
shows them again, and the attributes `ax_` and `figure_` are matplotlib's. They need matplotlib, which
`pip install "sklatent[plot]"` installs.
"""

__all__ = [
    "LatentDisplay",
    "LoadingsDisplay",
    "LossCurveDisplay",
    "RateDistortionDisplay",
    "ReconstructionDisplay",
    "ScoreDisplay",
    "ScreeDisplay",
    "TraversalDisplay",
]

from sklatent._plotting.curves import LossCurveDisplay, ScoreDisplay
from sklatent._plotting.latent import LatentDisplay
from sklatent._plotting.loadings import LoadingsDisplay
from sklatent._plotting.reconstruction import ReconstructionDisplay
from sklatent._plotting.scree import ScreeDisplay
from sklatent._plotting.tradeoff import RateDistortionDisplay
from sklatent._plotting.traversal import TraversalDisplay
