"""Networks of one architecture as one module, with stacked weights and padded latent dimensions."""

__all__ = ["Stack", "can_stack", "n_activations", "stack_noise"]

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import vmap

from sklatent._nn.data import Draws
from sklatent._nn.modules import Noise, ParameterGroup
from sklatent._nn.objectives import ImportanceTerms, Terms
from sklatent._nn.priors import StandardNormal


class Stack(nn.Module):
    """Networks of one architecture as one module, whose tensors have a leading dimension for the network.

    Smaller latent dimensions are padded to the largest one with zero weights and zero noise. The padding has no effect:
    its posterior is N(0, 1), which equals the prior, so its KL divergence and the gradient of that are zero, and no
    gradient passes through zero weights. If the KL divergence is estimated from samples its gradient is not zero, so
    the gradient of the padding is then masked.

    Parameters
    ----------
    modules : sequence of Autoencoder
        They keep their own weights until `unstack`.
    widths : sequence of int
        Latent dimension of each module.
    """

    def __init__(self, modules: Sequence[Any], widths: Sequence[int]):
        super().__init__()
        template = deepcopy(modules[widths.index(max(widths))])
        template.corrupt = deepcopy(next((module.corrupt for module in modules if module.corrupt is not None), None))
        # In tuples, so that PyTorch does not register their parameters as those of the stack.
        self._members, self._template = tuple(modules), (template,)
        self._places = [_code_places(template, width, max(widths)) for width in widths]
        self._slots = _slots(template)
        # Weights of the KL divergences, and their products with beta as a tensor, which is only rebuilt if they change.
        self._kl_factors: tuple[Sequence[float], Tensor] | None = None
        states = [_state(module) for module in modules]
        for name, like in _state(template).items():
            stacked = _stack([state.get(name) for state in states], like, self._places)
            # Directly into the dicts, since register_parameter refuses names with dots.
            if isinstance(like, nn.Parameter):
                self._parameters[name] = nn.Parameter(_flip(stacked).contiguous())
            else:
                self._buffers[name] = stacked
        if not isinstance(template.prior, StandardNormal) or template.n_train_draws > 1:
            self._hold_padding(states)

    def forward(self, x: Tensor, noise: Noise, members: Tensor | None = None) -> Terms | ImportanceTerms:
        """Loss terms of each sample of each network, (..., m, n)."""
        state = self._stacked_state()
        if members is not None:
            state = {name: tensor[members] for name, tensor in state.items()}
        terms = vmap(self._call, out_dims=-2)(tuple(state.values()), x, noise)
        if members is not None:
            for name, buffer in self.named_buffers():  # batch norm has updated the copies
                buffer[members] = state[name]
        return terms

    def loss(
        self,
        terms: Terms | ImportanceTerms,
        kl_weights: Sequence[float],
        members: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Mean loss of the samples of each network, (m,), with a weight of the KL divergence for each.

        The loss of each sample is multiplied by its weight (m, n), as by `Autoencoder.loss`.
        """
        if self._kl_factors is None or self._kl_factors[0] != kl_weights:
            factors = [module.beta * weight for module, weight in zip(self._members, kl_weights, strict=True)]
            self._kl_factors = kl_weights, terms.log_prob.new_tensor(factors)
        factor = self._kl_factors[1]
        losses = terms.weighted((factor if members is None else factor[members])[:, None])
        return (losses if weight is None else losses * weight).mean(1)

    def train(self, mode: bool = True) -> "Stack":
        """Train or evaluate the networks."""
        self._template[0].train(mode)
        return super().train(mode)

    def parameter_groups(self) -> list[ParameterGroup]:
        """The parameters, by how they are trained: like those with the same names in each network."""
        return self._members[0].parameter_groups()

    def layers(self) -> Iterator[nn.Module]:
        """Layers of the template, which hold the tensors of one network at a time."""
        return self._template[0].modules()

    @torch.no_grad()
    def unstack(self, member: int) -> None:
        """Copy the weights of a network from the stack to the network."""
        stacked = self._stacked_state()
        for name, tensor in _state(self._members[member]).items():
            tensor.copy_(_narrow(stacked[name][member], tensor, self._places[member]))

    def update_noise_variance(
        self, member: int, log_prob: float, factor: Callable[[float], float], observed: Tensor | None = None
    ) -> float:
        """Update the noise variance of a network in the stack, and return it."""
        likelihood = self._members[member].likelihood
        stacked = self._buffers.get("likelihood.log_variance")
        if stacked is not None:
            likelihood.log_variance.copy_(stacked[member])
        variance = self._members[member].update_noise_variance(log_prob, factor, observed)
        if stacked is not None:
            stacked[member] = likelihood.log_variance
        return variance

    def inputs(self, member: int, x: Tensor) -> Tensor:
        """Samples of a network as the stack takes them: standardized once for all steps if its likelihood allows it."""
        return self._members[member].target(x)

    def _call(self, tensors: Sequence[Tensor], x: Tensor, noise: Noise) -> Terms | ImportanceTerms:
        # Like functional_call, but without its lookup of names and tied weights, which takes a tenth of a small step.
        for places, tensor in zip(self._slots, tensors, strict=True):
            for tensors_of_layer, leaf in places:
                tensors_of_layer[leaf] = tensor
        template = self._template[0]
        return template.terms(x if template.likelihood.is_standardized else template.standardizer(x), x, noise)

    def _stacked_state(self) -> dict[str, Tensor]:
        return {name: _flip(tensor) for name, tensor in self.named_parameters()} | dict(self.named_buffers())

    def _hold_padding(self, states: Sequence[dict[str, Tensor]]) -> None:
        """Mask the gradient of the padding."""
        for name, parameter in self.named_parameters():
            ones = [torch.ones_like(state[name]) for state in states]
            if len({tensor.shape for tensor in ones}) > 1:
                mask = _flip(_stack(ones, _flip(parameter)[0], self._places))
                parameter.register_hook(lambda gradient, mask=mask: gradient * mask.to(gradient.device))


def stack_noise(parts: Sequence[Noise]) -> Noise:
    """Noise of several networks as a stack takes it, padded with zeros."""
    stacked = []
    for tensors in zip(*parts, strict=True):
        n_rows, width = (max(sizes) for sizes in zip(*(tensor.shape for tensor in tensors), strict=True))
        stacked.append(tensors[0].new_zeros(len(tensors), n_rows, width))
        for tensor, out in zip(tensors, stacked[-1], strict=True):
            out[: len(tensor), : tensor.shape[1]] = tensor
    return Noise(*stacked)


def can_stack(modules: Sequence[Any], widths: Sequence[int], x: Tensor) -> bool:
    """Whether a stack gives the loss terms of its modules, tried with the smallest and the largest latent dimension."""
    extremes = [int(np.argmin(widths)), len(widths) - 1 - int(np.argmax(widths[::-1]))]
    pair = [deepcopy(modules[k]).to(x.device).train() for k in extremes]
    generator = torch.Generator(x.device).manual_seed(0)
    noise = [Draws(module.noise_widths, generator, len(x)).take(len(x)) for module in pair]
    try:
        stack = Stack(pair, [widths[k] for k in extremes]).train()
        together = stack(torch.stack([stack.inputs(k, x) for k in range(2)]), stack_noise(noise))
        stack.loss(together, [1.0, 1.0]).sum().backward()
    except Exception:  # a user's network may raise anything
        return False
    apart = [module(x, own).averages() for module, own in zip(pair, noise, strict=True)]
    return all(
        torch.allclose(ours, torch.stack(theirs), rtol=1e-3, atol=1e-3)
        for ours, theirs in zip(together.averages(), zip(*apart, strict=True), strict=True)
    )


def n_activations(module: Any, x: Tensor) -> int:
    """Number of activations of a network for each sample."""
    counts: list[int] = []
    twin = deepcopy(module).to(x.device)
    for layer in twin.modules():
        if not list(layer.children()):
            layer.register_forward_hook(lambda layer, inputs, output: counts.append(_size(output)))
    with torch.no_grad():
        twin(x, Draws(module.noise_widths, torch.Generator(x.device), len(x)).take(len(x)))
    return sum(counts) // len(x)


def _size(output: Any) -> int:
    return output.numel() if isinstance(output, Tensor) else 0


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _slots(module: nn.Module) -> list[list[tuple[dict[str, Any], str]]]:
    """Dicts and names under which the layers hold each tensor of the state; several if layers share it."""
    state = _state(module)
    slots: dict[int, list[tuple[dict[str, Any], str]]] = {id(tensor): [] for tensor in state.values()}
    for layer in module.modules():
        for home in (layer._parameters, layer._buffers):
            for leaf, tensor in home.items():
                if tensor is not None:
                    slots[id(tensor)].append((home, leaf))
    return [slots[id(tensor)] for tensor in state.values()]


def _code_places(module: Any, width: int, widest: int) -> dict[int, Tensor]:
    """Positions of the latent dimensions, and of the encoder's outputs, among the padded ones, by their number."""
    starts = accumulate(module.code_blocks(widest), initial=0)
    places = [start + torch.arange(n, device="cpu") for start, n in zip(starts, module.code_blocks(width))]  # noqa: B905
    return {width: torch.arange(width, device="cpu"), sum(map(len, places)): torch.cat(places)}


def _stack(tensors: Sequence[Tensor | None], like: Tensor, places: Sequence[dict[int, Tensor]]) -> Tensor:
    """Stack tensors with the same name, padded to the shape of `like`; zeros for a network without it."""
    padded = []
    for tensor, place in zip(tensors, places, strict=True):
        wide = torch.zeros_like(like) if tensor is None else tensor.detach()
        for dim, n in enumerate(like.shape):
            if wide.shape[dim] != n:
                shape = [*wide.shape[:dim], n, *wide.shape[dim + 1 :]]
                wide = wide.new_zeros(shape).index_copy(dim, place[wide.shape[dim]].to(wide.device), wide)
        padded.append(wide)
    return torch.stack(padded)


def _flip(stacked: Tensor) -> Tensor:
    """Transpose matrices: the gradients of a batched product have this layout, so they need no copy."""
    return stacked.mT if stacked.ndim == 3 else stacked


def _narrow(tensor: Tensor, like: Tensor, places: dict[int, Tensor]) -> Tensor:
    """Remove the padding of a tensor, down to the shape of `like`."""
    for dim, n in enumerate(like.shape):
        if tensor.shape[dim] != n:
            tensor = tensor.index_select(dim, places[n].to(tensor.device))
    return tensor
