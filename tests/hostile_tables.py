"""Tables on which networks were seen to diverge, and others of their kind, with what a default fit has to hold."""

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sklatent import PCAReducer

# An epoch may be worse than the first, or than PCA is on all samples, by so many nats per sample: the first epoch is
# near PCA on the training samples, and the noise variance, which is that of samples left out, may raise the loss later.
# A score may be worse than PCA's by such a factor. The scores are taken as those of densities of unit scale where PCA's
# is above -n_features.
WORSE_EPOCH = 5
WORSE_SCORE = 100
KINDS = ("t1.5", "t2", "log-normal", "rare events", "one large column")


def named_tables():
    """Name and samples: real tables (with `SKLATENT_DATA`), and one made with rare events of 77 standard deviations."""
    path = Path(os.environ.get("SKLATENT_DATA", ".")) / "hard_tables.npz"
    if path.exists():
        with np.load(path) as file:
            yield from file.items()
    rng = np.random.default_rng(0)
    X = rng.standard_normal((6000, 78)) @ rng.standard_normal((78, 78))
    events = (rng.random((6000, 22)) < 2e-4) * 77.0
    yield "rare events", np.hstack([X / X.std(0), events + 0.01 * rng.standard_normal(events.shape)])


def synthetic_table(kind, number, n_samples=None):
    """Samples of one of `KINDS`: a few directions and noise, of random size."""
    rng = np.random.default_rng([number, KINDS.index(kind)])
    n = n_samples or int(rng.integers(200, 3000))
    d = int(rng.integers(3, 60))
    k = int(rng.integers(1, min(d, 8) + 1))
    draw = {"t1.5": lambda *shape: rng.standard_t(1.5, shape), "t2": lambda *shape: rng.standard_t(2, shape)}.get(
        kind, lambda *shape: rng.standard_normal(shape)
    )
    X = draw(n, k) @ rng.standard_normal((k, d)) + 0.3 * draw(n, d)
    if kind == "log-normal":
        return np.exp(X)
    if kind == "one large column":
        X[:, 0] *= 1e4
    if kind == "rare events":
        m = int(rng.integers(1, d + 1))
        X[:, :m] = (rng.random((n, m)) < 2e-3) * rng.uniform(10, 100) + 0.01 * rng.standard_normal((n, m))
    return X


@dataclass
class Outcome:
    """What became of a fit: all scores are of both halves of the table, of which the first was fitted."""

    first: float
    worst: float
    last: float
    least_ratio: float
    warned: bool

    @property
    def failures(self):
        """What is wrong, in words."""
        worse = self.worst - self.first
        if not worse <= WORSE_EPOCH:
            yield f"an epoch is {worse:.3g} nats worse than {self.first:.3g}, the last is {self.last:.3g}"
        if not self.least_ratio <= WORSE_SCORE:
            yield f"a score is {self.least_ratio:.3g} times as bad as that of PCA"
        if self.warned:
            yield "warned of a training that ended worse than it began"


def fit_half(estimator, X):
    """Fit to every other sample; FloatingPointError where the loss does not stay finite."""
    train = X[::2]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = estimator.fit(train)
    warned = any(issubclass(w.category, ConvergenceWarning) and "ended its training" in str(w.message) for w in caught)
    pca = PCAReducer(model.n_components_).fit(train)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = model.score_samples(X) / np.minimum(pca.score_samples(X), -X.shape[1])
    curve = np.array(model.loss_curve_)
    return Outcome(
        max(curve[0], -pca.score(X)), curve.max(), curve[-1], np.nan_to_num(ratios, nan=np.inf).max(), warned
    )
