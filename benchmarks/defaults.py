"""How the defaults of the networks were chosen: each beside its alternatives, on digits and a dozen tables.

Held-out nats of a VAE (`--model autoencoder`: of an autoencoder) on a quarter of the rows, nz=2 unless said otherwise;
the median of three seeds. A table holds the difference to the defaults: above zero, the alternative is better. Tables
are scaled by StandardScaler where the name says so, and raw otherwise.

    python benchmarks/defaults.py                     # about 12 minutes on two cores
    python benchmarks/defaults.py --model autoencoder
    python benchmarks/defaults.py --only lr batch_size
    python benchmarks/defaults.py --part hostile      # default fits of both networks on heavy tails and rare events
    python benchmarks/defaults.py --part tables       # the start at PCA beside a random one, and PCA: 6 minutes
    python benchmarks/defaults.py --part grid         # one default changed at a time, on 44 settings: 25 minutes
    python benchmarks/defaults.py --part wide         # what can be done where there are more features than samples

"tables" prints the held-out nats of `PCAReducer`, of both networks with init="random" and by default, and of linear
ones, on 38 settings. The defaults were chosen on the first 28; the other 10 were chosen and run afterwards. "grid" and
"wide" take six wide tables in addition.
"""

import argparse
import sys
import warnings
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from scipy.stats import ttest_1samp
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_iris,
    load_wine,
    make_blobs,
    make_circles,
    make_classification,
    make_friedman1,
    make_low_rank_matrix,
    make_moons,
    make_s_curve,
    make_swiss_roll,
)
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback

from sklatent import AutoencoderTransformer, PCAReducer, VAETransformer

N_SEEDS = 3


def tables():
    """Name, rows and number of codes."""
    digits = load_digits().data / 16
    yield "digits, 8 codes", digits, 8
    yield "digits", digits, 2
    raw = {"wine": load_wine(), "cancer": load_breast_cancer(), "diabetes": load_diabetes(), "iris": load_iris()}
    for name, bunch in raw.items():
        yield name, bunch.data, 2
        yield f"{name}, scaled", StandardScaler().fit_transform(bunch.data), 2
    yield "blobs", make_blobs(500, 10, centers=5, random_state=0)[0], 2
    yield "low rank", make_low_rank_matrix(1000, 40, effective_rank=5, random_state=0), 4
    yield "swiss roll", make_swiss_roll(1500, noise=0.3, random_state=0)[0], 2
    yield "S curve", make_s_curve(1500, noise=0.1, random_state=0)[0], 2
    yield "moons, 1 code", make_moons(1000, noise=0.05, random_state=0)[0], 1
    yield "ring, 1 code", make_circles(1000, noise=0.05, factor=0.99, random_state=0)[0], 1


def alternatives(n_features, n_samples):
    """For each parameter, what it might have been."""
    width = min(max(2 ** round(np.log2(4 * n_features)), 64), 512)
    return {
        "activation": ["relu", "tanh", "gelu"],
        "hidden_sizes": [(width,), (width, width // 2), (width, width // 2, width // 4), (2 * width, width)],
        "lr": [1e-3, 2.5e-3, 1e-2],
        "lr_schedule": ["constant"],
        "batch_size": [32, 128, 256],
        "max_epochs": [20, 100, 200],
        "kl_warmup": [0, 0.25, 0.75],
        "weight_decay": [0.1, 1.0],
    }


def main(estimator, only):
    """One line for each alternative, a column for each table."""
    sets = [(name, *train_test_split(X, random_state=0), nz) for name, X, nz in tables()]
    base = [score(estimator, nz, X_train, X_test) for _, X_train, X_test, nz in sets]
    for (name, X_train, _, _), nats in zip(sets, base, strict=True):
        print(f"{name:20}{len(X_train):6} x {X_train.shape[1]:<5}{nats:10.2f} nats by the defaults", flush=True)
    parameters = alternatives(64, 1347)
    for parameter in only or [name for name in parameters if name in estimator().get_params()]:
        print(f"\n{parameter:34}" + "".join(f"{name[:12]:>13}" for name, *_ in sets) + f"{'median':>9}")
        for number, value in enumerate(parameters[parameter]):
            differences = []
            for (_, X_train, X_test, nz), nats in zip(sets, base, strict=True):
                value = alternatives(X_train.shape[1], len(X_train))[parameter][number]
                differences.append(score(estimator, nz, X_train, X_test, **{parameter: value}) - nats)
            label = f"{number + 1} layers" if parameter == "hidden_sizes" and number < 3 else str(value)
            label = "2 layers, twice as wide" if parameter == "hidden_sizes" and number == 3 else label
            row = "".join(f"{difference:13.2f}" for difference in differences)
            print(f"{label:34}{row}{np.median(differences):9.2f}", flush=True)


def score(estimator, nz, X_train, X_test, **params):
    """Median over the seeds of the held-out nats."""
    return np.median([estimator(nz, random_state=seed, **params).fit(X_train).score(X_test) for seed in range(N_SEEDS)])


def halves(X, scaled=False):
    """Even and odd samples; scaled by the even ones."""
    train, test = X[::2], X[1::2]
    if not scaled:
        return train, test
    scaler = StandardScaler().fit(train)
    return scaler.transform(train), scaler.transform(test)


def first_settings():
    """Name, training and test samples and latent dimension: those on which the defaults were chosen."""
    raw = {"cancer": (load_breast_cancer(), (2, 4)), "wine": (load_wine(), (2, 4))}
    raw |= {"iris": (load_iris(), (1, 2)), "diabetes": (load_diabetes(), (2, 4))}
    for name, (bunch, dimensions) in raw.items():
        for nz in dimensions:
            yield f"{name}/{nz}", *halves(bunch.data), nz
            yield f"{name}, scaled/{nz}", *halves(bunch.data, scaled=True), nz
    yield "swiss roll/2", *halves(make_swiss_roll(1000, noise=0.5, random_state=0)[0]), 2
    yield "S curve/2", *halves(make_s_curve(1000, noise=0.1, random_state=0)[0]), 2
    blobs = make_blobs(1000, 10, centers=5, random_state=0)[0]
    yield "blobs/2", *halves(blobs), 2
    yield "blobs/4", *halves(blobs), 4
    yield "ring/1", *halves(make_circles(1000, noise=0.05, factor=0.999, random_state=0)[0]), 1
    normal = low_rank(1000, 30, [5, 4, 3, 2, 1], 0.5)
    yield "normal, rank 5/5", *halves(normal), 5
    yield "normal, rank 5/2", *halves(normal), 2
    few = low_rank(1060, 10, [4, 3, 2, 1], 0.3)
    yield "60 samples/2", few[:60], few[60:], 2
    yield "60 samples/4", few[:60], few[60:], 4
    X, y = load_digits(return_X_y=True)
    train, test = train_test_split(X / 16, random_state=0, stratify=y)
    for nz in (2, 8, 16):
        yield f"digits/{nz}", train, test, nz


def new_settings():
    """Those that were chosen afterwards."""
    rng = np.random.default_rng(1)
    yield "moons/1", *halves(make_moons(1000, noise=0.05, random_state=0)[0]), 1
    yield "low rank/4", *halves(make_low_rank_matrix(1000, 40, effective_rank=5, random_state=0)), 4
    yield "classification/5", *halves(make_classification(1000, random_state=0)[0]), 5
    yield "uniform/3", *halves(make_friedman1(1000, random_state=0)[0]), 3
    factors = rng.standard_t(3, (1000, 3)) @ rng.standard_normal((3, 10))
    yield "t(3)/3", *halves(factors + 0.3 * rng.standard_t(3, (1000, 10))), 3
    yield "log-normal/2", *halves(np.exp(low_rank(1000, 8, [1, 0.5], 0.2))), 2
    yield "mixed units/2", *halves(low_rank(1000, 6, [1, 0.5], 0.2) * [1, 1e4, 0.01, 10, 100, 1]), 2
    yield "digits of 0 to 16/4", *halves(load_digits().data), 4
    t = rng.uniform(0, 2 * np.pi, 1000)
    knot = np.stack([np.sin(t) + 2 * np.sin(2 * t), np.cos(t) - 2 * np.cos(2 * t), -np.sin(3 * t)], axis=1)
    yield "trefoil knot/1", *halves(knot + 0.05 * rng.standard_normal(knot.shape)), 1
    yield "wide/5", *halves(low_rank(160, 200, [5, 4, 3, 2, 1], 1.0)), 5


def wide_settings():
    """Five factors and noise in more features than samples."""
    for seed in (100, 101):
        for n_samples, n_features in ((80, 200), (40, 100), (100, 500)):
            samples = low_rank(2 * n_samples, n_features, [5, 4, 3, 2, 1], 1.0, seed)
            yield f"{n_samples} x {n_features}, {seed}/5", *halves(samples), 5


def low_rank(n_samples, n_features, deviations, noise, seed=0):
    """Normal samples: factors with these deviations, and noise."""
    rng = np.random.default_rng(seed)
    factors = rng.standard_normal((n_samples, len(deviations))) * deviations
    return factors @ rng.standard_normal((len(deviations), n_features)) + noise * rng.standard_normal(
        (n_samples, n_features)
    )


def compare_starts():
    """One line for each setting, and the means of the differences to a random start."""
    networks = {"VAE": VAETransformer, "AE": AutoencoderTransformer}
    variants = {"random": {"init": "random"}, "pca": {}, "linear": {"hidden_sizes": ()}}
    names = [f"{network} {variant}" for network in networks for variant in variants]
    for title, settings in (("First settings", first_settings()), ("New settings", new_settings())):
        print(f"\n{title:24}{'PCA':>10}" + "".join(f"{name:>12}" for name in names))
        lines = []
        for name, train, test, nz in settings:
            scores = [PCAReducer(nz).fit(train).score(test)]
            scores += [
                score(network, nz, train, test, **kw) for network in networks.values() for kw in variants.values()
            ]
            lines.append(scores)
            print(f"{name:24}{scores[0]:10.2f}" + "".join(f"{number:12.2f}" for number in scores[1:]), flush=True)
        table = np.array(lines)
        gains = table[:, [2, 5]] - table[:, [1, 4]]
        worst = table[:, [2, 5]] - np.maximum(table[:, [1, 4]], table[:, :1])
        linear = np.abs(table[:, [3, 6]] - table[:, :1])
        for network, gain, least, apart in zip(networks, gains.T, worst.T, linear.T, strict=True):
            print(
                f"{network}: mean gain {gain.mean():.2f}, least over the better of PCA and random {least.min():.2f}, "
                f"linear network and PCA apart by {apart.max():.2f} at most"
            )


def one_at_a_time(estimator, n_features, n_epochs):
    """Parameters beside the defaults: the learning rate, the length of the training, and so on."""
    width = max(2 ** round(np.log2(4 * n_features)), 64)
    sizes = np.array((width, width // 2) if width < 512 else (512, 256, 128))
    yield from ({"lr": lr} for lr in (2.5e-3, 1e-2))
    yield from ({"max_epochs": round(share * n_epochs)} for share in (0.5, 2))
    yield from ({"weight_decay": decay} for decay in (0.3, 1.0, 3.0))
    yield from ({"hidden_sizes": tuple(int(size) for size in share * sizes)} for share in (0.5, 2))
    if estimator is VAETransformer:
        yield from ({"kl_warmup": share} for share in (0.0, 0.25, 0.75))


def grid(estimator):
    """A line for each setting: nats by the defaults, and what each change adds; then means and extremes."""
    names = ["lr/2", "lr*2", "epochs/2", "epochs*2", "decay .3", "decay 1", "decay 3", "width/2", "width*2"]
    names += ["warmup 0", "warmup .25", "warmup .75"] if estimator is VAETransformer else []
    print(f"{estimator.__name__:24}{'defaults':>10}" + "".join(f"{name:>11}" for name in names), flush=True)
    lines = []
    for name, train, test, nz in (*first_settings(), *new_settings(), *wide_settings()):
        n_epochs = estimator(nz, random_state=0).fit(train).n_iter_
        base = score(estimator, nz, train, test)
        changes = one_at_a_time(estimator, train.shape[1], n_epochs)
        lines.append([score(estimator, nz, train, test, **kw) - base for kw in changes])
        print(f"{name:24}{base:10.2f}" + "".join(f"{change:11.2f}" for change in lines[-1]), flush=True)
    for name, summary in (("mean", np.mean), ("median", np.median), ("least", np.min), ("most", np.max)):
        print(f"{name:34}" + "".join(f"{change:11.2f}" for change in summary(lines, axis=0)), flush=True)


class States(Callback):
    """The network before training and after each epoch."""

    def on_train_begin(self, net, **kwargs):
        """Before the first epoch."""
        self.modules = [deepcopy(net.module_)]

    def on_epoch_end(self, net, **kwargs):
        """After each epoch."""
        self.modules.append(deepcopy(net.module_))


def ways(estimator):
    """A line for each setting: what the trained network gives, and what is gained by going back on the way to it.

    Each way takes the network of largest log-likelihood of the samples left out; where it says so, only if a t test at
    the level 0.1 does not put the difference to the trained network down to chance.
    """
    names = ["start", "best epoch", "epochs, t", "line, t", "start, t", "the best"]
    print(f"{estimator.__name__:24}{'PCA':>10}{'trained':>10}" + "".join(f"{name:>12}" for name in names), flush=True)
    for name, train, test, nz in (*first_settings(), *new_settings(), *wide_settings()):
        fits = [found for seed in range(N_SEEDS) for found in gains(estimator(nz, random_state=seed), train, test)]
        if fits:
            line = np.median(fits, axis=0)
            pca = PCAReducer(nz).fit(train).score(test)
            print(f"{name:24}{pca:10.2f}{line[0]:10.2f}" + "".join(f"{gain:12.2f}" for gain in line[1:]), flush=True)


def gains(model, train, test):
    """The score of the trained network, and what each way adds, of one fit; nothing where no samples are left out."""
    training, states = model._prepare(train), States()
    if training.baseline is None:
        return
    model.n_features_in_ = train.shape[1]
    model._net(training, [states], model._schedule(training)).train(training.train, training.valid)
    epochs = states.modules
    epochs[0] = training.baseline.module  # with the noise variance of the samples left out
    line = [between(epochs[0], epochs[-1], share) for share in (0.1, 0.25, 0.5, 0.75, 0.9)]

    def scores(module):
        found = model._learned(deepcopy(module), [], training, train).module
        return [model._log_likelihood(found, X, seed=0) for X in (training.left_out.X, test)]

    def chosen(found, level):
        best = max(found, key=lambda pair: pair[0].mean())
        difference = best[0] - last[0]
        is_sure = level is None or ttest_1samp(difference, 0, alternative="greater").pvalue < level
        return (best if is_sure and difference.any() else last)[1].mean()

    some = sorted({0, 1, 2, 3, 5, 7, 10, 14, 20, 28, 40} & set(range(len(epochs) - 1)))
    of_epochs, of_line, last = [scores(epochs[k]) for k in some], list(map(scores, line)), scores(epochs[-1])
    start, trained = of_epochs[0], last[1].mean()
    found = [start[1].mean(), chosen([*of_epochs, last], None), chosen([*of_epochs, last], 0.1)]
    found += [chosen([start, *of_line, last], 0.1), chosen([start, last], 0.1)]
    found += [max(pair[1].mean() for pair in (*of_epochs, *of_line, last))]
    yield [trained, *(nats - trained for nats in found)]


def between(start, end, share):
    """The network on the line from one to another."""
    module, ends = deepcopy(end), start.state_dict()
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            tensor.copy_(torch.lerp(ends[name], tensor, share))
    return module


def hostile(n_tables=8, n_seeds=2):
    """One line for each default fit: its loss in the first, the worst and the last epoch, and its worst score."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))  # where some of the tables are tested
    from hostile_tables import KINDS, fit_half, named_tables, synthetic_table

    sets = [(name, X, nz) for name, X in named_tables() for nz in (2, 4)]
    sets += [(f"{kind} {number}", synthetic_table(kind, number), 2) for kind in KINDS for number in range(n_tables)]
    n_fits = n_failed = 0
    for name, X, nz in sets:
        for estimator in (VAETransformer, AutoencoderTransformer):
            for seed in range(n_seeds):
                try:
                    outcome = fit_half(estimator(nz, random_state=seed), X)
                    failures, numbers = list(outcome.failures), vars(outcome).values()
                except FloatingPointError as error:
                    failures, numbers = [str(error)], []
                n_fits, n_failed = n_fits + 1, n_failed + bool(failures)
                line = f"{name:20}{X.shape[0]:5} x {X.shape[1]:<4}nz={nz} {estimator.__name__[:3]} {seed}"
                print(line + "".join(f"{number:12.4g}" for number in numbers), *failures, sep="  ", flush=True)
    print(f"{n_failed} of {n_fits} default fits went wrong")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["vae", "autoencoder"], default="vae")
    parser.add_argument("--only", nargs="+", help="parameters to vary (default: all)")
    parser.add_argument("--part", choices=["alternatives", "grid", "hostile", "tables", "wide"], default="alternatives")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # of collapsed posteriors
    if arguments.part == "hostile":
        sys.exit(hostile())
    if arguments.part == "tables":
        sys.exit(compare_starts())
    chosen = {"vae": VAETransformer, "autoencoder": AutoencoderTransformer}[arguments.model]
    if arguments.part in ("grid", "wide"):
        sys.exit({"grid": grid, "wide": ways}[arguments.part](chosen))
    main(chosen, arguments.only)
