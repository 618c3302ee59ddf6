from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import nn

from sklatent import AutoencoderTransformer, VAETransformer
from sklatent._nn.base import BaseAutoencoder
from sklatent._nn.data import split
from sklatent._nn.modules import Noise
from sklatent._nn.stack import Stack, can_stack, stack_noise
from sklatent._nn.stacked_training import StackedNet
from sklatent._nn.start import leading_components
from sklatent._nn.summaries import tail_weight

# Adam divides by the root of a running square, so that what rounding leaves of a vanishing gradient may be passed on
# in full. A few epochs keep the two apart by no more than this.
TOLERANCE = {"rtol": 1e-5, "atol": 2e-6}
# A loss adds up 64 features.
LOSS_TOLERANCE = {"rtol": 1e-5, "atol": 2e-5}


def make(network, n=4, **params):
    """Networks that differ in all that a stack allows."""
    models = []
    for k in range(n):
        own = {"beta": [0.5, 2.0][k % 2], "kl_warmup": [0.0, 0.5][k // 2 % 2]} if network is VAETransformer else {}
        shared = {"hidden_sizes": (16,), "max_epochs": 4, "batch_size": 32}
        models.append(network([2, 5, 3][k % 3], random_state=k, **(shared | own | params)))
    return models


def train_stacked(models, rows):
    """The nets of models after training as one, and what trained them."""
    trainings = [model._prepare(X) for model, X in zip(models, rows, strict=True)]
    nets = [
        model._net(training, model._early_stopping(), model._schedule(training))
        for model, training in zip(models, trainings, strict=True)
    ]
    valid = [training.valid for training in trainings]
    stacked = StackedNet(nets, [model.nz for model in models])
    stacked.train_each([training.train for training in trainings], None if valid[0] is None else valid)
    return nets, stacked


def assert_equal_to_fits(models, rows):
    """Of what training gives, before `fit` may go back to the linear model of its start."""
    nets, _ = train_stacked(models, rows)
    for model, net, X in zip(models, nets, rows, strict=True):
        with patch.object(BaseAutoencoder, "_better_of_both", lambda self, learned, *_: learned):
            model.fit(X)
        learned_after = ("prior.", "likelihood.log_") if model.__class__ is AutoencoderTransformer else ()
        if model.likelihood == "gaussian_diagonal":
            learned_after += ("likelihood.log_",)
        for name, tensor in net.module_.state_dict().items():
            if not name.startswith(learned_after):
                torch.testing.assert_close(tensor, model.module_.state_dict()[name], **TOLERANCE)
        np.testing.assert_allclose(net.history[:, "train_loss"], model.loss_curve_, **LOSS_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"likelihood": "bernoulli"},
        {"likelihood": "continuous_bernoulli"},
        {"likelihood": "poisson"},
        {"likelihood": "gaussian_diagonal"},
        {"output_activation": "sigmoid", "activation": "tanh"},
        {"posterior": "full"},
        {"prior": "mixture"},
        {"prior": "vamp"},
        {"weight_decay": 0.1, "lr_schedule": "constant"},
        {"hidden_sizes": ()},
    ],
    ids=str,
)
def test_stacked_vae_equals_its_own_fit(params, digits):
    X = digits[0][:200]
    X = np.floor(4 * X) if params.get("likelihood") == "poisson" else X
    assert_equal_to_fits(make(VAETransformer, **params), [X] * 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"likelihood": "bernoulli", "posterior": "full"},
        {"likelihood": "gaussian_diagonal"},
        {"prior": "mixture"},
        {"prior": "vamp"},
        {"noise": 0.1},
    ],
    ids=str,
)
def test_stacked_importance_weighted_vae_equals_its_own_fit(params, digits):
    """Latent dimensions of padding have no importance samples of their own, and no gradient."""
    # From the start at PCA some gradients vanish but for rounding, which Adam passes on.
    models = make(VAETransformer, beta=1.0, n_train_draws=3, **({"init": "random"} | params))
    assert_equal_to_fits(models, [digits[0][:200]] * 4)


def test_stacked_autoencoder_equals_its_own_fit(digits):
    assert_equal_to_fits(make(AutoencoderTransformer), [digits[0][:200]] * 4)


@pytest.mark.slow
@pytest.mark.parametrize("network", [AutoencoderTransformer, VAETransformer])
def test_stacked_variances_of_blank_pixels_equal_their_own_fit(network, digits):
    """Each network has samples of its own, and so has units and variances of its own for the features."""
    rows = [digits[0][10 * k : 10 * k + 200 + k % 2] for k in range(4)]
    assert_equal_to_fits(make(network, likelihood="gaussian_diagonal"), rows)


def test_stacked_convolutions_equal_their_own_fit(digits):
    """With the running statistics of batch norm, for the odd last batches too."""
    rows = [digits[0][k : k + 70 + k % 2] for k in range(3)]
    assert_equal_to_fits(make(VAETransformer, 3, backbone="conv", hidden_sizes=(4, 8), max_epochs=2), rows)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gaussian", "masking"])
def test_corruptions_of_different_strength_are_stacked(kind, digits):
    models = make(VAETransformer, noise_kind=kind)
    for model, noise in zip(models, [0.0, 0.1, 0.3, 0.0], strict=True):
        model.set_params(noise=noise)
    assert_equal_to_fits(models, [digits[0][:200]] * 4)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_of_unequal_number_are_batched_as_by_themselves(dtype, digits):
    # From the start at PCA some gradients vanish but for rounding, which Adam passes on.
    assert_equal_to_fits(
        make(VAETransformer, init="random"), [digits[0][10 * k : 10 * k + 200 + k % 2].astype(dtype) for k in range(4)]
    )


@pytest.mark.slow
def test_each_stops_early_by_itself(digits):
    models = make(VAETransformer, early_stopping=True, max_epochs=30, n_iter_no_change=2, kl_warmup=0.1, lr=0.02)
    rows = [digits[0][:300]] * 4
    nets, _ = train_stacked(models, rows)
    n_epochs = [len(net.history) for net in nets]
    assert n_epochs == [model.fit(X).n_iter_ for model, X in zip(models, rows, strict=True)]
    assert len(set(n_epochs)) > 1
    for net, model in zip(nets, models, strict=True):  # longer training, and its rounding with it
        expected = [epoch["valid_loss"] for epoch in model.history_]
        assert net.history[:, "valid_loss"] == pytest.approx(expected, abs=2e-4)
        for ours, own in zip(net.module_.parameters(), model.module_.parameters(), strict=True):
            torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prior", ["standard_normal", "mixture", "vamp"])
def test_padding_stays_zero(prior, digits):
    models = make(VAETransformer, 2, prior=prior, posterior="full")  # of 2 and of 5 codes
    _, stacked = train_stacked(models, [digits[0][:100]] * 2)
    state = stacked.module_._stacked_state()
    first_layer = state["decoder.0.weight"]
    assert first_layer[0, :, :2].all()
    assert not first_layer[0, :, 2:].any()
    head = state["encoder.2.weight"][0]
    assert head.shape[0] == 5 + 5 + 10
    own = [0, 1, 5, 6, 10]  # means, variances and the one entry below the diagonal
    assert head[own].any(dim=1).all()
    assert not np.delete(head.detach().numpy(), own, axis=0).any()


def test_a_loss_that_is_not_finite_ends_one_training(digits):
    models = make(VAETransformer)
    models[1].set_params(beta=1e39)
    nets, stacked = train_stacked(models, [digits[0][:200]] * 4)
    assert set(stacked.failures_) == {1}
    with pytest.raises(FloatingPointError) as own:
        models[1].fit(digits[0][:200])
    assert str(stacked.failures_[1]) == str(own.value)
    assert nets[0].history[:, "train_loss"] == pytest.approx(models[0].fit(digits[0][:200]).loss_curve_, rel=1e-6)


def test_ctrl_c_raises(digits, monkeypatch):
    def interrupted(self, batch):
        raise KeyboardInterrupt

    monkeypatch.setattr(StackedNet, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_stacked(make(VAETransformer, 2), [digits[0][:100]] * 2)


def test_global_generator_is_untouched(digits):
    state = torch.get_rng_state()
    train_stacked(make(VAETransformer, 2), [digits[0][:100]] * 2)
    assert torch.equal(torch.get_rng_state(), state)


class ReadsItsInput(nn.Linear):
    """Control flow that depends on the data, which vmap refuses."""

    def forward(self, x):
        return super().forward(x) if x.sum().item() else x


class CountsItsCalls(nn.Linear):
    """Does not depend on its weights alone."""

    n_calls = 0

    def forward(self, x):
        CountsItsCalls.n_calls += 1
        return super().forward(x) + CountsItsCalls.n_calls


@pytest.mark.parametrize(("layer", "stacks"), [(nn.Linear, True), (ReadsItsInput, False), (CountsItsCalls, False)])
def test_a_network_that_cannot_be_stacked_is_found_out(layer, stacks, digits):
    def backbone(input_shape, nz, n_code):
        return layer(64, n_code), nn.Linear(nz, 64)

    modules = [VAETransformer(2, backbone=backbone, random_state=k)._prepare(digits[0]).module for k in range(3)]
    assert can_stack(modules, [2, 2, 2], torch.from_numpy(digits[0][:2].copy())) is stacks


def test_stack_is_built_of_the_weights_of_its_members(digits):
    models = make(VAETransformer, 3)
    modules = [model._prepare(digits[0]).module for model in models]
    before = [{name: tensor.clone() for name, tensor in module.state_dict().items()} for module in modules]
    stack = Stack(modules, [model.nz for model in models])
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.add_(1)
    for k, (module, state) in enumerate(zip(modules, before, strict=True)):
        for name, tensor in module.state_dict().items():
            assert torch.equal(tensor, state[name])
        stack.unstack(k)
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(parameter.detach(), state[name] + 1)


def test_noise_is_padded_at_the_end_of_each_kind():
    narrow, wide = (Noise(torch.ones(n, nz), torch.ones(n, n_corrupt)) for n, nz, n_corrupt in [(3, 1, 4), (2, 2, 0)])
    stacked = stack_noise([narrow, wide])
    assert stacked.latent.tolist() == [[[1, 0]] * 3, [[1, 1]] * 2 + [[0, 0]]]
    assert stacked.corruption.tolist() == [[[1] * 4] * 3, [[0] * 4] * 3]


def test_what_depends_on_the_samples_alone_is_computed_once(digits, monkeypatch):
    """A spectrum for each nz and each array, whatever beta is, and tails for each array."""
    calls = []
    for function in (leading_components, split, tail_weight):

        def counted(*args, function=function):
            calls.append(function.__name__)
            return function(*args)

        monkeypatch.setattr(f"sklatent._nn.base.{function.__name__}", counted)
    models = [VAETransformer(nz, beta=beta, max_epochs=1, random_state=0) for nz in (2, 3) for beta in (0.5, 1, 2)]
    Xs = [digits[0], digits[0][::2]]
    learned = VAETransformer._learn_many([model for model in models for _ in Xs], Xs * len(models))
    assert all(learned)
    assert {name: calls.count(name) for name in set(calls)} == {"leading_components": 4, "split": 2, "tail_weight": 2}
