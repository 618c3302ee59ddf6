"""Random searches, each to be run by the fused search and by scikit-learn's, and how to compare what they give."""

import warnings

import numpy as np
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, UndefinedMetricWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sklatent import (
    AutoencoderTransformer,
    GenerativeClassifier,
    LatentOutlierDetector,
    PCAReducer,
    VAETransformer,
)
from sklatent.metrics import reconstruction_scorer
from sklatent.model_selection import FusedGridSearchCV

# Weights of a stack agree with those of single fits to some 1e-6, by the order in which padded products add up.
TOLERANCE = 1e-5

N_FEATURES = 5


class HalvedScore(VAETransformer):
    """Scores in another unit, and learns as ever."""

    def score_samples(self, X):
        return 0.5 * super().score_samples(X)


class HalvedComponentsScore(PCAReducer):
    """Scores in another unit, and learns as ever."""

    def score_samples(self, X):
        return 0.5 * super().score_samples(X)


class HalvedRows(AutoencoderTransformer):
    """Learns from half of the samples."""

    def fit(self, X, y=None):
        return super().fit(X[::2])


class PositiveAxes(PCAReducer):
    """Turns its axes after the fit."""

    def _publish(self, learned):
        super()._publish(learned)
        self.components_ = np.abs(self.components_)


class ShiftedTransform(PCAReducer):
    """Transforms to shifted latent codes."""

    def transform(self, X):
        return super().transform(X) + 1.0


def mean_score(estimator, X, y=None):
    return float(np.mean(estimator.score_samples(X)))


def score_beyond_pca(estimator, X, y=None):
    """Fits a latent model of its own."""
    return mean_score(estimator, X) - PCAReducer(1).fit(X).score(X)


def score_of_refit(estimator, X, y=None):
    """Fits the candidate anew on what it is to score."""
    return mean_score(clone(estimator).fit(X, y), X)


class SearchCase:
    """A search drawn at random: data, an estimator, a grid and the parameters of the search.

    Parameters
    ----------
    number : int
    seed : int, default=0
    """

    def __init__(self, number, seed=0):
        self.rng = np.random.default_rng([seed, number])
        self.batch_size = self.choose(4, 8, 16)
        self.likelihood = self.choose("gaussian", "gaussian", "gaussian_diagonal", "bernoulli", "poisson")
        self.cv = self.choose(2, 2, 2, 3)
        latent, self.grid = self.network() if self.chance(0.75) else self.components()
        n_samples = self.draw_n_samples()
        self.X, self.y = self.draw_data(n_samples)
        self.estimator = self.wrapped(latent)
        self.nest()
        if self.chance(0.2):  # a list of grids
            first, *others = [dict([item]) for item in self.grid.items()]
            self.grid = [first, *others]
        self.params = self.draw_params()

    def __repr__(self):
        shape = f"X of shape {self.X.shape}, {self.X.dtype}"
        text = " ".join(repr(self.estimator).split())
        return f"{text}\n    {self.grid}\n    {self.params}\n    {shape}, batches of {self.batch_size}"

    def difference(self):
        """How far scores are apart, relative beyond 1; infinity where the best candidates are not the same."""
        return search_difference(self.search(FusedGridSearchCV), self.search(GridSearchCV))

    def search(self, kind):
        cv = KFold(self.cv, shuffle=True, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", UndefinedMetricWarning)
            return kind(clone(self.estimator), self.grid, cv=cv, **self.params).fit(self.X, self.y)

    def choose(self, *values):
        return values[self.rng.integers(len(values))]

    def chance(self, probability):
        return self.rng.random() < probability

    def network(self):
        """A network of some kind, and a grid of what networks that are trained as one may differ in, and lr."""
        params = {
            "likelihood": self.likelihood,
            "noise": self.choose(0.0, 0.0, 0.2),
            "noise_kind": self.choose("gaussian", "masking"),
            "early_stopping": self.chance(0.3),
            "validation_fraction": self.choose(0.2, 0.3),
            "n_iter_no_change": self.choose(1, 2),
            "lr_schedule": self.choose("cosine", "constant"),
            "weight_decay": self.choose(0.0, 0.1),
            "hidden_sizes": self.choose((4,), (5, 3)),
            "max_epochs": self.choose(1, 1, 1, 2, 3),
            "batch_size": self.batch_size,
            "random_state": self.choose(0, 1, np.random.RandomState(2)),
        }
        grid = {
            "nz": self.choose([1], [2], [1, 2]),
            "noise": [0.0, 0.3],
            "random_state": [0, 1],
            "lr": [1e-3, 5e-3],
        }
        if self.chance(0.3):
            grid = {name: grid[name] for name in ("nz", self.choose("noise", "random_state", "lr"))}
            return self.choose(AutoencoderTransformer, AutoencoderTransformer, HalvedRows)(**params), grid
        params["prior"] = self.choose("standard_normal", "standard_normal", "mixture", "vamp")
        params |= {"posterior": self.choose("diagonal", "diagonal", "full"), "n_prior_components": 3, "n_draws": 4}
        params["kl_warmup"] = self.choose(0.0, 0.5, 1.0)
        grid |= {"beta": [0.5, 2.0], "kl_warmup": [0.0, 0.7], "n_draws": [2, 5], "validation_fraction": [0.2, 0.3]}
        grid = {name: grid[name] for name in ("nz", self.choose(*list(grid)[1:]))}
        return self.choose(VAETransformer, VAETransformer, VAETransformer, HalvedScore)(**params), grid

    def components(self):
        params = {"solver": self.choose("auto", "full", "covariance"), "whiten": self.chance(0.3)}
        grid = {"nz": self.choose([1, 3], [None, 2], [0.5, 2, 4], ["mle", 1]), "whiten": [False, True]}
        kinds = (PCAReducer, PCAReducer, PCAReducer, HalvedComponentsScore, PositiveAxes, ShiftedTransform)
        return self.choose(*kinds)(**params), dict(list(grid.items())[: self.choose(1, 2)])

    def draw_n_samples(self):
        """So that training folds lie about a multiple of the batch size."""
        n_train = self.choose(1, 2, 3) * self.batch_size + self.choose(0, 1, 2, self.batch_size - 1)
        return max(int(np.ceil(n_train * self.cv / (self.cv - 1))) + self.choose(0, 1), 24)

    def draw_data(self, n_samples):
        """Latent codes of two classes, and samples in the support of the likelihood, which PCA takes too."""
        y = self.rng.permutation(np.arange(n_samples) % 2)
        Z = self.rng.standard_normal((n_samples, 2)) + y[:, None]
        X = Z @ self.rng.standard_normal((2, N_FEATURES)) + 0.3 * self.rng.standard_normal((n_samples, N_FEATURES))
        X = {
            "gaussian": lambda X: self.choose(1.0, 100.0) * X + self.choose(0.0, 10.0),
            "gaussian_diagonal": lambda X: X * np.arange(1, N_FEATURES + 1),
            "bernoulli": lambda X: (X > 0).astype(float),
            "poisson": lambda X: self.rng.poisson(np.exp(np.clip(X, -3, 3))).astype(float),
        }[self.likelihood](X)
        return X.astype(self.choose(np.float32, np.float64)), y

    def wrapped(self, latent):
        """The model by itself, in a classifier or a detector, and any of them in a Pipeline."""
        kinds = {"itself": lambda model: model, "classifier": GenerativeClassifier, "detector": LatentOutlierDetector}
        self.kind = self.choose("itself", "itself", *kinds)
        estimator = kinds[self.kind](latent)
        if self.kind != "itself":
            self.grid = {f"estimator__{name}": values for name, values in self.grid.items()}
        if self.chance(0.6):
            return estimator
        keeps_support = self.likelihood.startswith("gaussian") and self.chance(0.7)
        steps = [("scale", StandardScaler() if keeps_support else FunctionTransformer()), ("latent", estimator)]
        self.grid = {f"latent__{name}": values for name, values in self.grid.items()}
        if self.kind == "itself" and self.chance(0.6):
            self.kind = "features"
            steps.append(("classify", LogisticRegression()))
        return Pipeline(steps)

    def nest(self):
        """Put another latent step before, and all of it in a Pipeline of its own."""
        if not self.likelihood.startswith("gaussian") or self.kind == "itself" or self.chance(0.6):
            return
        network = AutoencoderTransformer(4, max_epochs=1, batch_size=self.batch_size, random_state=self.choose(0, 1))
        # The Monte Carlo samples of a VAE are tied to what it is given, to the last bit: a network before it that is
        # trained in a stack, and so is another by 1e-6, leads to others.
        is_tied = "n_draws" in "".join(self.estimator.get_params())
        first = self.choose(PCAReducer(4), PCAReducer(4, whiten=True), *([] if is_tied else [network]))
        self.estimator = Pipeline([("first", first), ("rest", self.estimator)])
        self.grid = {f"rest__{name}": values for name, values in self.grid.items()}
        if self.chance(0.5) and len(self.grid) < 2:
            self.grid["first__nz"] = [4, 5]

    def draw_params(self):
        """Scorers that suit the estimator, one or several."""
        scorers = {
            "itself": [None, None, mean_score, mean_score, score_beyond_pca, score_of_refit, reconstruction_scorer],
            "classifier": [None, "accuracy", "neg_log_loss", mean_score, score_beyond_pca, score_of_refit],
            "detector": [mean_score, mean_score, mean_score, score_beyond_pca, score_of_refit],
            "features": [None, "neg_log_loss", ["neg_log_loss", "accuracy"]],
        }[self.kind]
        scoring = self.choose(*scorers)
        if scoring is reconstruction_scorer and isinstance(self.estimator, Pipeline):
            scoring = None
        if callable(scoring) and self.chance(0.3):
            scoring = {"first": scoring, "second": mean_score}
        names = list(scoring) if isinstance(scoring, (dict, list)) else [True]
        return {
            "scoring": scoring,
            "refit": names[0] if self.chance(0.2) else False,
            "return_train_score": self.chance(0.2),
        }


def search_difference(ours, theirs):
    """How far scores are apart, relative beyond 1; infinity where the best candidate is another, and no tie."""
    worst = 0.0
    for key, expected in theirs.cv_results_.items():
        if "_test_" in key or "_train_" in key:
            found = ours.cv_results_[key]
            if "rank" in key:
                means = theirs.cv_results_[key.replace("rank", "mean")]
                best = np.nanmax(means)
                differences = best - means[np.argmin(found)]
                worst = max(worst, 0.0 if differences <= TOLERANCE * max(abs(best), 1) else np.inf)
            else:
                failed = np.isnan(expected)  # a candidate that fails in both
                differences = np.abs(found - expected) / np.maximum(np.abs(expected), 1)
                differences[failed] = np.where(np.isnan(found[failed]), 0.0, np.inf)
                worst = max(worst, np.inf if np.isnan(differences).any() else differences.max())
    return worst
