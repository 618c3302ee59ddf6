"""Expansions of a decoder against PyTorch's own Jacobian and Hessian, a sample at a time."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from sklatent._nn import derivatives
from sklatent._nn.derivatives import is_plain, linearize, taylor_expansion


class Subclass(nn.Sequential):
    """May do anything in its `forward`."""

    def forward(self, z):
        return super().forward(z).square()


class Model:
    def __init__(self, decoder):
        self.decoder = decoder.double()

    def decode(self, z):
        return self.decoder(z).flatten(1)


def layers(*activations, nz=3, width=7, d=5):
    """A perceptron with these activations between its layers."""
    sizes = [nz, *[width] * len(activations), d]
    linear = [nn.Linear(n_in, n_out) for n_in, n_out in pairwise(sizes)]
    return [layer for pair in zip(linear, activations, strict=False) for layer in pair] + linear[-1:]


DECODERS = {
    "linear": lambda: layers(),
    "relu": lambda: layers(nn.ReLU(), nn.ReLU()),
    "silu": lambda: layers(nn.SiLU(), nn.SiLU()),
    "tanh": lambda: layers(nn.Tanh(), nn.Tanh(), nn.Tanh()),
    "gelu": lambda: layers(nn.GELU(), nn.GELU()),
    "the other gelu": lambda: layers(nn.GELU(approximate="tanh")),
    "all kinds": lambda: layers(nn.SiLU(), nn.Tanh(), nn.GELU(), nn.ReLU()),
    "activations at both ends": lambda: [nn.Tanh(), *layers(nn.SiLU()), nn.GELU()],
    "in place": lambda: [*layers(), nn.SiLU(inplace=True), nn.Linear(5, 4, bias=False)],
    "another activation": lambda: layers(nn.Softplus(), nn.SiLU()),
    "a nested network": lambda: [nn.Sequential(*layers(nn.SiLU()))],
    "an image": lambda: [*layers(nn.SiLU(), d=8), nn.Unflatten(1, (2, 2, 2))],
}


def assert_right(decoder, n=4, n_directions=3):
    torch.manual_seed(1)
    model, z = Model(decoder), torch.randn(n, 3, dtype=torch.float64)
    directions = torch.randn(n_directions, 3, dtype=torch.float64)
    found = taylor_expansion(model, z, directions, lambda eta: eta.sin() + 1)
    assert not any(field.requires_grad for field in found)
    for one, other in zip(linearize(model, z, directions), (found.eta, found.tangents), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    for i in range(n):

        def values(way, i=i):
            return model.decode((z[i] + way @ directions)[None])[0]

        start = torch.zeros(n_directions, dtype=torch.float64)
        r = values(start).detach().sin() + 1
        jacobian = torch.autograd.functional.jacobian(values, start)
        hessian = torch.autograd.functional.hessian(lambda way, r=r, f=values: f(way) @ r, start)
        expected = values(start), r @ jacobian, jacobian.mT, hessian
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one[i], other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("n_directions", [1, 3])
def test_expansion_is_that_of_the_jacobian_and_the_hessian(name, n_directions):
    torch.manual_seed(0)
    assert_right(nn.Sequential(*DECODERS[name]()), n_directions=n_directions)


def test_what_may_do_anything_is_differentiated_as_it_is():
    torch.manual_seed(0)
    hooked = nn.Sequential(*layers(nn.SiLU()))
    hooked[0].register_forward_hook(lambda module, args, output: output.sin())
    for decoder in (Subclass(*layers(nn.SiLU())), hooked, nn.utils.parametrizations.weight_norm(nn.Linear(3, 5))):
        assert_right(decoder)


@pytest.mark.parametrize("name", ["relu", "silu", "tanh", "gelu", "all kinds"])
def test_perceptrons_take_the_layers_and_others_do_not(name, monkeypatch):
    """Both roads give the same, so only a decoder that is sent the wrong way would tell them apart."""
    monkeypatch.setattr(derivatives, "_differentiate", None)
    assert_right(nn.Sequential(*DECODERS[name]()))
    with pytest.raises(TypeError):
        assert_right(nn.Sequential(*DECODERS["another activation"]()))


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.SiLU(), nn.Tanh(), nn.GELU()], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_derivatives_of_activations_are_finite_far_out(activation, dtype):
    """Where PyTorch's own may not be."""
    h = torch.tensor([-1e15, -1e3, -40.0, 0.0, 40.0, 1e3, 1e15], dtype=dtype)
    value, first, second = derivatives._ACTIVATIONS[type(activation)](h)
    torch.testing.assert_close(value, activation(h))
    assert first.isfinite().all()
    assert first[-1] in (0, 1)
    assert second[[0, 1, -2, -1]].abs().max() == 0


def test_a_module_of_another_class_or_with_a_forward_of_its_own_is_not_plain():
    layer = nn.Linear(2, 2)
    assert is_plain(layer, nn.Linear)
    assert not is_plain(layer, nn.Module)
    layer.forward = lambda h: h
    assert not is_plain(layer, nn.Linear)
