import math

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback, EarlyStopping
from torch import nn

from sklatent._nn.data import Rows
from sklatent._nn.modules import ParameterGroup
from sklatent._nn.objectives import Terms
from sklatent._nn.schedules import SCHEDULES, Schedule
from sklatent._nn.training import LatentNet


class Mean(nn.Module):
    """The mean of the rows, by least squares: small enough to train by hand beside the net."""

    noise_widths = 0, 0
    n_train_draws = 1

    def __init__(self, n_features=2):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(n_features))

    def forward(self, x, noise):
        squares = (x - self.mean).square().sum(-1)
        return Terms(-squares, torch.zeros_like(squares))

    def loss(self, terms, kl_weight=1.0, weight=None):
        return -(terms.log_prob if weight is None else weight * terms.log_prob).mean()

    def update_noise_variance(self, log_prob, factor, observed=None):
        return math.nan

    def parameter_groups(self):
        return [ParameterGroup(["mean"])]


class Noisy(Mean):
    noise_widths = 1, 2

    def forward(self, x, noise):
        assert [part.shape[1] for part in noise] == [1, 2]
        eps = torch.cat(noise, dim=1)
        self.seen = [*getattr(self, "seen", []), (self.training, eps)]
        return super().forward(x, noise)


@pytest.fixture
def X(rng):
    return (rng.standard_normal((10, 2)) + 3).astype(np.float32)


def net_of(module, **kwargs):
    return LatentNet(module, **{"seeds": (0, 1, 2), "lr": 0.1, "max_epochs": 5, "batch_size": 4, "verbose": 0} | kwargs)


def test_training_equals_a_loop_by_hand(X):
    net = net_of(Mean(), batch_size=5).train(Rows(X))
    module, order = Mean(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    for epoch in range(5):
        losses = []
        for index in torch.randperm(10, generator=order).split(5):
            optimizer.zero_grad()
            loss = module.loss(module(torch.from_numpy(X)[index], None))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert net.history[epoch, "train_loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    torch.testing.assert_close(net.module_.mean, module.mean, rtol=1e-6, atol=1e-7)


def test_history_weighs_batches_by_their_rows(X):
    net = net_of(Mean(), lr=1e-30, max_epochs=1).train(Rows(X))
    assert net.history[0, "train_loss"] == pytest.approx((X.astype(float) ** 2).sum(1).mean(), rel=1e-6)
    assert net.history[0, "train_kl"] == 0


def test_noise_is_new_in_each_epoch_and_the_same_in_each_validation(X):
    module = Noisy()
    net_of(module, max_epochs=2, batch_size=10).train(Rows(X), Rows(X))
    (train, train_later), (valid, valid_later) = (
        [eps for training, eps in module.seen if training is kind] for kind in (True, False)
    )
    assert train.shape == (10, 3)
    assert not torch.equal(train, train_later)
    assert torch.equal(valid, valid_later)
    assert not torch.equal(train, valid)


def test_global_generator_is_untouched(X):
    state = torch.get_rng_state()
    net_of(Noisy()).train(Rows(X))
    assert torch.equal(torch.get_rng_state(), state)


def test_early_stopping_restores_the_best_weights(X):
    """Training rows pull the mean away from the validation rows, so the first epochs are the best."""
    stop = EarlyStopping(patience=3, threshold=0, threshold_mode="abs", load_best=True)
    net = net_of(Mean(), max_epochs=50, callbacks=[("stop", stop)]).train(Rows(X), Rows(0.1 * X))
    losses = net.history[:, "valid_loss"]
    assert len(losses) == int(np.argmin(losses)) + 4 < 50
    best = (0.1 * X.astype(float) - net.module_.mean.detach().numpy()) ** 2
    assert best.sum(1).mean() == pytest.approx(min(losses), rel=1e-6)


class Interrupt(Callback):
    def on_epoch_end(self, net, **kwargs):
        raise KeyboardInterrupt


def test_ctrl_c_raises(X):
    with pytest.raises(KeyboardInterrupt):
        net_of(Mean(), callbacks=[("interrupt", Interrupt())]).train(Rows(X))


def test_ctrl_c_during_early_stopping_raises(X, monkeypatch):
    def interrupted(self, net, **kwargs):
        raise KeyboardInterrupt

    stop = EarlyStopping(patience=3)
    monkeypatch.setattr("skorch.callbacks.EarlyStopping.on_epoch_end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        net_of(Mean(), callbacks=[("stop", stop)]).train(Rows(X), Rows(X))


def test_a_loss_that_is_not_finite_names_epoch_and_lr(X):
    X[3, 0] = np.inf
    with pytest.raises(FloatingPointError, match=r"The loss became nan in epoch 1 with lr=0\.1"):
        net_of(Mean()).train(Rows(X))


@pytest.mark.parametrize("n_steps", [1, 2, 5, 100])
def test_cosine_schedule_rises_and_falls(n_steps):
    rates = np.array([SCHEDULES["cosine"](step, n_steps) for step in range(n_steps)])
    assert (rates > 0).all()
    assert rates.max() <= 1
    assert np.argmax(rates) <= n_steps / 10
    for step in range(math.ceil(n_steps / 10), n_steps):
        assert rates[step] == pytest.approx(0.5 * (1 + math.cos(math.pi * step / n_steps)))


def test_schedule_is_used_at_each_step(X):
    """As PyTorch's own LambdaLR would have it."""
    net = net_of(Mean(), max_epochs=5, schedule=Schedule(15, "cosine")).train(Rows(X))
    module, order = Mean(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: SCHEDULES["cosine"](step, 15))
    for _ in range(5):
        for index in torch.randperm(10, generator=order).split(4):
            optimizer.zero_grad()
            module.loss(module(torch.from_numpy(X)[index], None)).backward()
            optimizer.step()
            scheduler.step()
    torch.testing.assert_close(net.module_.mean, module.mean, rtol=1e-6, atol=1e-7)


def test_verbose_prints_a_line_an_epoch(X, capsys):
    net_of(Mean(), verbose=1).train(Rows(X))
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 2 + 5  # a header and its rule
    assert {"epoch", "train_loss", "train_reconstruction", "train_kl", "dur"} <= set(lines[0].split())
    net_of(Mean()).train(Rows(X))
    assert capsys.readouterr().out == ""
