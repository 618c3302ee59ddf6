"""Pictures of latent models: latent maps, scree plots, loadings, reconstructions, traversals, losses and scores.

Each follows scikit-learn's Display convention: `from_estimator` computes and shows, `__init__` keeps arrays, `plot`
shows them again, and the attributes `ax_` and `figure_` are matplotlib's. They need matplotlib, which
`pip install "sklatent[plot]"` installs.
"""

# `_canvas` knows matplotlib and no estimator, `_models` knows estimators and no matplotlib. The other modules have
# one topic each.

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

from sklatent.plotting._curves import LossCurveDisplay, ScoreDisplay
from sklatent.plotting._latent import LatentDisplay
from sklatent.plotting._loadings import LoadingsDisplay
from sklatent.plotting._reconstruction import ReconstructionDisplay
from sklatent.plotting._scree import ScreeDisplay
from sklatent.plotting._tradeoff import RateDistortionDisplay
from sklatent.plotting._traversal import TraversalDisplay
