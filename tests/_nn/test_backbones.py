from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from sklatent import VAETransformer
from sklatent._nn.backbones import ACTIVATIONS, build_backbone


def build(backbone, input_shape, nz=3, n_code=6, *, hidden_sizes=None, activation="relu", seed=0):
    return build_backbone(
        backbone, input_shape, nz, {"numbers": n_code}, hidden_sizes=hidden_sizes, activation=activation, seed=seed
    )


def layers(module, kind):
    return [layer for layer in module.modules() if isinstance(layer, kind)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "input_shape"),
    [("mlp", (7,)), ("mlp", (1, 4, 5))]
    + [("conv", shape) for shape in [(1, 32, 32), (1, 28, 28), (1, 8, 8), (3, 30, 17), (1, 1, 1), (2, 5, 64)]],
)
def test_shapes_for_any_input(backbone, input_shape):
    encoder, decoder = build(backbone, input_shape)
    assert encoder(torch.ones(4, *input_shape)).shape == (4, 6)
    assert decoder(torch.ones(4, 3)).flatten(1).shape == (4, torch.Size(input_shape).numel())


def test_conv_is_the_chapters_pair_on_its_own_images():
    """Sizes after each block, section 14.5, listings 14.2 and 14.3."""
    encoder, decoder = build("conv", (1, 32, 32), nz=10, n_code=10)
    x, sizes = torch.ones(1, 1, 32, 32), []
    for block in encoder[:4]:
        x = block(x)
        sizes.append(tuple(x.shape[1:]))
    assert sizes == [(1, 32, 32), (32, 16, 16), (128, 8, 8), (256, 4, 4)]
    assert [(layer.in_features, layer.out_features) for layer in layers(encoder, nn.Linear)] == [(4096, 10)]
    z, sizes = torch.ones(1, 10), []
    for layer in decoder:
        z = layer(z)
        sizes.append(tuple(z.shape[1:]))
    assert sizes == [(10, 1, 1), (256, 4, 4), (128, 8, 8), (32, 16, 16), (1, 32, 32), (1, 32, 32)]
    assert all(layer.bias is None for layer in layers(decoder, nn.ConvTranspose2d))


def test_conv_pads_and_crops_about_the_centre():
    encoder, decoder = build("conv", (1, 28, 28))
    corner = torch.zeros(1, 1, 28, 28)
    corner[..., 0, 0] = 1
    assert encoder[0](corner)[0, 0, 2, 2] == 1
    torch.testing.assert_close(decoder[-1](encoder[0](corner)), corner)


def test_mlp_is_the_chapters_linear_backbone():
    """d -> 512 -> ReLU -> nz and back, section 14.5."""
    encoder, decoder = build("mlp", (1024,), nz=2, n_code=2, hidden_sizes=(512,))
    sizes = lambda net: [(layer.in_features, layer.out_features) for layer in layers(net, nn.Linear)]  # noqa: E731
    assert sizes(encoder) == [(1024, 512), (512, 2)]
    assert sizes(decoder) == [(2, 512), (512, 1024)]
    assert len(layers(encoder, nn.ReLU)) == len(layers(decoder, nn.ReLU)) == 1


@pytest.mark.parametrize(
    ("n_features", "widths"), [(2, [64, 32]), (30, [128, 64]), (64, [256, 128]), (784, [512, 256, 128])]
)
def test_mlp_widths_follow_the_features(n_features, widths):
    encoder, decoder = build("mlp", (n_features,))
    assert [layer.out_features for layer in layers(encoder, nn.Linear)] == [*widths, 6]
    assert [layer.out_features for layer in layers(decoder, nn.Linear)] == [*widths[::-1], n_features]


@pytest.mark.parametrize(("n_features", "norm"), [(16, 4), (64, 8), (1024, 8)])
def test_mlp_bounds_the_norm_of_standardized_rows(n_features, norm):
    encoder, _ = build("mlp", (n_features,))
    first = next(number for number, layer in enumerate(encoder) if isinstance(layer, nn.Linear))
    seen = encoder[:first](torch.ones(1, n_features))  # what comes before the first layer with weights
    assert seen.norm().item() == pytest.approx(norm)


def test_no_hidden_layer_is_linear():
    encoder, decoder = build("mlp", (5,), hidden_sizes=())
    assert len(layers(encoder, nn.Linear)) == len(layers(decoder, nn.Linear)) == 1
    assert not layers(encoder, tuple(ACTIVATIONS.values()))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("backbone", ["mlp", "conv"])
def test_activation_is_used(activation, backbone):
    for net in build(backbone, (1, 8, 8), activation=activation):
        assert layers(net, ACTIVATIONS[activation])


def user_backbone(input_shape, nz, n_code):
    return nn.Linear(input_shape[0], n_code), nn.Linear(nz, input_shape[0])


@pytest.mark.parametrize("backbone", ["mlp", "conv", user_backbone], ids=["mlp", "conv", "callable"])
def test_weights_follow_the_seed_and_leave_the_global_generator(backbone):
    state = torch.get_rng_state()
    first, again, other = (
        nn.ModuleList(build(backbone, (1, 8, 8) if backbone == "conv" else (64,), seed=seed)).state_dict()
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if "weight" in name and first[name].ndim > 1)


@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv2d, nn.ConvTranspose2d])
def test_weights_have_pytorchs_initial_distribution(kind):
    """The same bound on the uniform distribution as the layer's own constructor."""
    backbone, shape = ("mlp", (400,)) if kind is nn.Linear else ("conv", (1, 32, 32))
    found = [layer for net in build(backbone, shape) for layer in layers(net, kind)]
    torch.manual_seed(0)  # of the layers by their own constructor
    for layer in found:
        if kind is nn.Linear:
            own = kind(layer.in_features, layer.out_features)
        else:
            own = kind(layer.in_channels, layer.out_channels, layer.kernel_size)
        for name in ("weight", "bias"):
            ours, theirs = getattr(layer, name), getattr(own, name)
            if ours is not None and ours.numel() > 500:
                # Of 500 uniform draws one is within 0.02 of the bound, but for once in 20,000 times; and 0.1 is five
                # standard errors of the standard deviation.
                torch.testing.assert_close(ours.abs().max(), theirs.abs().max(), rtol=0.02, atol=0)
                torch.testing.assert_close(ours.std(), theirs.std(), rtol=0.1, atol=0)
    assert found


class HalvingSequential(nn.Sequential):
    def forward(self, z):
        return super().forward(z) / 2


class HalvingLinear(nn.Linear):
    def forward(self, z):
        return super().forward(z) / 2


def halve(module, inputs, output):
    return output / 2


def with_hook(module):
    module.register_forward_hook(halve)
    return module


def with_forward(module):
    forward = module.forward
    module.forward = lambda z: forward(z) / 2
    return module


DECODERS = {
    "Linear": lambda: nn.Linear(2, 4),
    "Linear without bias": lambda: nn.Linear(2, 4, bias=False),
    "Sequential": lambda: nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 4)),
    "Sequential within": lambda: nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 4))),
    "Sequential that ends otherwise": lambda: nn.Sequential(nn.Linear(2, 4), nn.Unflatten(1, (2, 2))),
    "subclass of Sequential": lambda: HalvingSequential(nn.Linear(2, 4)),
    "subclass of Linear": lambda: HalvingLinear(2, 4),
    "subclass of Linear last": lambda: nn.Sequential(nn.Linear(2, 3), HalvingLinear(3, 4)),
    "hook on Sequential": lambda: with_hook(nn.Sequential(nn.Linear(2, 4))),
    "hook on Linear": lambda: with_hook(nn.Linear(2, 4)),
    "hook on the last": lambda: nn.Sequential(nn.Linear(2, 3), with_hook(nn.Linear(3, 4))),
    "forward of an instance": lambda: with_forward(nn.Sequential(nn.Linear(2, 4))),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(2, 4)),
}


@pytest.mark.parametrize("kind", DECODERS)
def test_a_decoder_of_ones_own_is_called_as_it_is(kind, rng):
    """Beside what it gives there is nothing but the constant that training starts with."""
    X, made = rng.uniform(0.2, 0.8, (20, 4)), []

    def backbone(input_shape, nz, n_code):
        decoder = DECODERS[kind]()
        made.append(deepcopy(decoder))
        return nn.Linear(4, n_code), decoder

    model = VAETransformer(2, backbone=backbone, likelihood="bernoulli", random_state=0)
    module, z = model._prepare(X).module, torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    start = torch.logit(torch.from_numpy(X.mean(axis=0))).float()
    torch.testing.assert_close(module.decode(z), made[0](z).flatten(1) + start)


@pytest.mark.slow
def test_forward_of_a_decoder_is_called_in_fit(rng):
    class Blank(nn.Sequential):
        def forward(self, z):
            return 0 * super().forward(z)

    X = rng.standard_normal((40, 3))
    backbone = lambda input_shape, nz, n_code: (nn.Linear(3, n_code), Blank(nn.Linear(nz, 3)))  # noqa: E731
    model = VAETransformer(2, backbone=backbone, max_epochs=2, kl_warmup=0, random_state=0).fit(X)
    np.testing.assert_allclose(model.inverse_transform(rng.standard_normal((5, 2))), np.tile(X.mean(axis=0), (5, 1)))
