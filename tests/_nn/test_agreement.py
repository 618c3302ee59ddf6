"""All tensors of a step are on one device: steps on the meta device, and fits beside another default device.

A tensor of the meta device has a shape and no values. So what copies a number to the host fails, and what makes a
tensor on the CPU is seen.
"""

import pickle
from itertools import product

import numpy as np
import pytest
import torch
from second_device import There, second_device
from sklearn.base import clone
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sklatent import AutoencoderTransformer, VAETransformer
from sklatent._nn.likelihoods import LIKELIHOODS
from sklatent._nn.modules import Noise
from sklatent._nn.objectives import importance_bound
from sklatent._nn.stack import Stack
from sklatent._nn.training import averages, clip_gradient
from sklatent.model_selection import FusedGridSearchCV

N_SAMPLES = 5
PRIORS = ("standard_normal", "mixture", "vamp")
IMAGES = {"backbone": "conv", "image_shape": (1, 2, 3), "hidden_sizes": (2, 3)}


class Elsewhere(TorchDispatchMode):
    """Operations whose results are not on a device, or in float64 where that is not allowed."""

    def __init__(self, device, float64=True):
        super().__init__()
        self.device, self.float64, self.found = device, float64, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        if function is torch.ops.aten._to_copy.default and not isinstance(args[0], torch.Tensor):
            return results  # a Python number, which a kernel takes as it is
        for tensor in results if isinstance(results, (tuple, list)) else [results]:
            if isinstance(tensor, torch.Tensor):
                strays = tensor.device.type != self.device or (tensor.dtype == torch.float64 and not self.float64)
                self.found += [f"{function}: {tensor.dtype} on {tensor.device}"] * strays
        return results


@pytest.fixture
def X(rng):
    return rng.random((40, 6)).round(1).astype(np.float32)


def built(X, estimator=VAETransformer, **parameters):
    """A module as it is before training."""
    return estimator(parameters.pop("nz", 2), random_state=0, **parameters)._prepare(X).module


def on_meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


def step(module, *shape, dtype=torch.float32, members=None, weighted=False, n_stack_dims=0):
    """What a step of training does between the choice of the samples and the optimizer."""
    x, noise = on_meta(*shape, 6, dtype=dtype), Noise(*(on_meta(*shape, width) for width in module.noise_widths))
    weight = on_meta(*shape) if weighted else None
    terms = module(x, noise) if not n_stack_dims else module(x, noise, members)
    loss = module.loss(terms, 0.5, weight) if not n_stack_dims else module.loss(terms, [0.5, 1.0], members, weight)
    loss.sum().backward()
    clip_gradient(module.parameters(), 1.0, n_stack_dims)
    averages(terms, weight)


NETWORKS = {
    "autoencoder": {"estimator": AutoencoderTransformer},
    "autoencoder, convolutions": {"estimator": AutoencoderTransformer, **IMAGES},
    "autoencoder, sigmoid": {"estimator": AutoencoderTransformer, "output_activation": "sigmoid"},
    "VAE, convolutions": IMAGES,
    "VAE, sigmoid": {"output_activation": "sigmoid"},
    "VAE, several draws": {"n_train_draws": 3, "prior": "mixture", "posterior": "full"},
    "VAE, masks": {"noise": 0.3, "noise_kind": "masking", "likelihood": "bernoulli"},
    "VAE, noise without a noise variance": {"noise": 0.3, "likelihood": "bernoulli"},
    **{f"VAE, {name}": {"likelihood": name} for name in LIKELIHOODS if name != "poisson"},
    **{
        f"VAE, {posterior}, {prior}": {"posterior": posterior, "prior": prior}
        for posterior, prior in product(("diagonal", "full"), PRIORS)
    },
}


@pytest.mark.parametrize("parameters", NETWORKS.values(), ids=NETWORKS.keys())
class TestStep:
    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_stays_on_the_device(self, X, parameters, dtype, weighted):
        module = built(X, **parameters).to("meta").train()
        with Elsewhere("meta") as elsewhere:
            step(module, N_SAMPLES, dtype=dtype, weighted=weighted)
        assert elsewhere.found == []
        assert {p.grad.device.type for p in module.parameters() if p.grad is not None} == {"meta"}

    def test_uses_no_float64_in_float32(self, X, parameters):
        module = built(X, **parameters).float().to("meta").train()
        with Elsewhere("meta", float64=False) as elsewhere:
            step(module, N_SAMPLES, weighted=True)
        assert elsewhere.found == []

    def test_with_missing_values(self, X, parameters):
        X[::2, 1] = np.nan
        module = built(X, **parameters).to("meta").train()
        with Elsewhere("meta") as elsewhere:
            step(module, N_SAMPLES)
        assert elsewhere.found == []

    @pytest.mark.parametrize("members", [None, [1]])
    def test_of_a_stack(self, X, parameters, members):
        pair = [built(X, nz=nz, **parameters).to("meta") for nz in (1, 2)]
        stack = Stack(pair, [1, 2]).train()
        stack.noise_widths = pair[1].noise_widths
        assert stack.inputs(0, on_meta(N_SAMPLES, 6)).shape == (N_SAMPLES, 6)
        n_members, numbers = (2, None) if members is None else (1, torch.tensor(members).to("meta"))
        rest = {"members": numbers, "weighted": True, "n_stack_dims": 1}
        step(stack, n_members, N_SAMPLES, **rest)  # copies the weights of the KL divergence, which are numbers
        with Elsewhere("meta") as elsewhere:
            step(stack, n_members, N_SAMPLES, **rest)
            stack.unstack(0)
        assert elsewhere.found == []


@pytest.mark.parametrize(("posterior", "prior"), list(product(("diagonal", "full"), PRIORS)))
def test_a_score_stays_on_the_device(X, posterior, prior):
    module = built(X, posterior=posterior, prior=prior).to("meta").eval()
    x, eps = on_meta(N_SAMPLES, 6), on_meta(4, N_SAMPLES, 2)
    with Elsewhere("meta") as elsewhere, torch.no_grad():
        scores = importance_bound(module.log_likelihood(x), module.posterior(x), module.prior_density(), eps)
        module.likelihood.mean(module.decode(module.encode(x)))
        module.prior_density().kl_per_dimension(module.posterior(x), eps[0])
    assert scores.shape == (N_SAMPLES,)
    assert elsewhere.found == []


def test_a_tensor_elsewhere_is_seen():
    with Elsewhere("meta") as elsewhere:
        torch.zeros(1)
        on_meta(1)
    assert elsewhere.found == ["aten.zeros.default: torch.float32 on cpu"]


FITS = {
    "autoencoder": AutoencoderTransformer(2, max_epochs=2, random_state=0),
    "autoencoder, residual": AutoencoderTransformer(2, max_epochs=2, density="residual", random_state=0),
    "autoencoder, Bernoulli": AutoencoderTransformer(2, likelihood="bernoulli", max_epochs=2, random_state=0),
    "VAE": VAETransformer(2, max_epochs=2, random_state=0),
    "VAE, mixture": VAETransformer(2, prior="mixture", posterior="full", n_train_draws=2, max_epochs=2, random_state=0),
    "VAE, vamp": VAETransformer(2, prior="vamp", likelihood="gaussian_diagonal", max_epochs=2, random_state=0),
    "VAE, Bernoulli": VAETransformer(2, likelihood="bernoulli", noise=0.2, max_epochs=2, random_state=0),
    "VAE, convolutions": VAETransformer(2, max_epochs=2, random_state=0, **IMAGES),
}


def everything(model, X):
    """All numbers of a fit and of its methods."""
    model.fit(X, sample_weight=1.0 + np.arange(len(X)) % 2)
    Z = model.transform(X)
    yield from (Z, model.inverse_transform(Z), model.score_samples(X), model.score_features(X), model.impute(X))
    yield from (model.sample(3, random_state=0), model.impute(X, sample=True, random_state=0))
    yield model.partial_fit(X).transform(X)


@pytest.mark.parametrize("has_missing", [False, True])
@pytest.mark.parametrize("model", FITS.values(), ids=FITS.keys())
def test_the_default_device_is_not_asked(model, X, has_missing):
    """Every tensor is made where its neighbours are, so that another default device changes nothing."""
    if has_missing:
        X[::3, 2] = np.nan
    expected = list(everything(model, X))
    with torch.device("meta"):
        found = list(everything(model, X))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def on_the_cpu(network, X, folder):
    """A memory map, a model and a search, and what both learn on the CPU."""
    np.save(folder / "X.npy", X)
    mapped = np.load(folder / "X.npy", mmap_mode="r")
    model = network(2, hidden_sizes=(8,), max_epochs=2, early_stopping=True, random_state=0)
    search = FusedGridSearchCV(model, {"nz": [1, 2]}, cv=2)
    return mapped, model, search, [clone(model).fit(mapped).transform(X), search.fit(X).cv_results_["mean_test_score"]]


def test_the_default_device_is_not_asked_by_what_is_kept(network, X, tmp_path):
    """A checkpoint, a pickle, a search that trains stacks, and a memory map."""
    mapped, model, search, expected = on_the_cpu(network, X, tmp_path)
    with torch.device("meta"):
        saved = clone(model).set_params(checkpoint=tmp_path / "fit.npz")
        found = [saved.fit(mapped).transform(X), search.fit(X).cv_results_["mean_test_score"]]
        again = saved.fit(mapped).transform(X)
        state = pickle.dumps(saved.set_params(early_stopping=False).partial_fit(X))
        kept = pickle.loads(state).transform(X)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(again, expected[0])
    np.testing.assert_array_equal(kept, saved.transform(X))


def with_dropout(input_shape, nz, n_code):
    encoder = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.3), nn.Linear(8, n_code))
    return encoder, nn.Sequential(nn.Linear(nz, 8), nn.Tanh(), nn.Linear(8, 6))


OF_THE_USER = {"VAE, dropout": VAETransformer(2, backbone=with_dropout, max_epochs=2, random_state=0)}


@pytest.mark.parametrize("has_missing", [False, True])
@pytest.mark.parametrize("model", (FITS | OF_THE_USER).values(), ids=(FITS | OF_THE_USER).keys())
def test_a_second_device_computes_the_same(model, X, has_missing):
    """Fits, scores and samples on a device that refuses the tensors of the CPU."""
    if has_missing:
        X[::3, 2] = np.nan
    expected = list(everything(model, X))
    with second_device():
        found = list(everything(model, X))
        assert isinstance(model.module_.standardizer.loc, There)
    for one, other in zip(found, expected, strict=True):  # sums of views may have another order
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_a_second_device_keeps_and_searches_as_well(network, X, tmp_path):
    """A checkpoint, a pickle, a search that trains stacks, a memory map, and going on."""
    mapped, model, search, expected = on_the_cpu(network, X, tmp_path)
    with second_device():
        saved = clone(model).set_params(checkpoint=tmp_path / "fit.npz").fit(mapped)
        found = [saved.transform(X), search.fit(X).cv_results_["mean_test_score"]]
        assert set(search.cv_results_["route"]) == {"stacked"}
        again = clone(saved).fit(mapped).transform(X)
        moved = pickle.loads(pickle.dumps(saved))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    np.testing.assert_array_equal(again, found[0])
    assert not isinstance(moved.module_.standardizer.loc, There)
    np.testing.assert_allclose(moved.transform(X), found[0], rtol=1e-6)
    np.testing.assert_allclose(clone(saved).fit(mapped).transform(X), found[0], rtol=1e-6)


def test_a_second_device_refuses_tensors_of_the_cpu():
    with second_device():
        there = torch.ones(2, device="meta")
        assert (there + torch.tensor(1.0)).tolist() == [2.0, 2.0]
        assert there.cpu().add(torch.ones(2)).tolist() == [2.0, 2.0]
        with pytest.raises(RuntimeError, match="all tensors on the second device"):
            there + torch.ones(2)
