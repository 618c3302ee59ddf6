"""Networks of one architecture as one module, with their weights stacked and their codes padded."""

__all__ = ["Stack", "can_stack", "n_activations", "stack_noise"]

from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import vmap

from sklatent._nn.data import Draws
from sklatent._nn.modules import Noise, ParameterGroup
from sklatent._nn.objectives import Terms
from sklatent._nn.priors import StandardNormal


class Stack(nn.Module):
    """Networks of one architecture as one, whose tensors have a leading dimension for the network.

    Narrower codes are padded to the widest by weights of zero and draws of zero. The padding takes no part: its
    posterior is N(0, 1), the prior, where the closed divergence and its slope are zero, and nothing comes back through
    weights of zero. Where the divergence is estimated by draws its slope is not zero, so there the padding is held.

    Parameters
    ----------
    modules : sequence of Autoencoder
        They keep their own weights until `unstack`.
    widths : sequence of int
        Numbers in a code of each.
    """

    def __init__(self, modules: Sequence[Any], widths: Sequence[int]):
        super().__init__()
        template = deepcopy(modules[widths.index(max(widths))])
        template.corrupt = deepcopy(next((module.corrupt for module in modules if module.corrupt is not None), None))
        # In tuples, which hide their parameters: they are none of the stack's own.
        self._members, self._template = tuple(modules), (template,)
        self._places = [_code_places(template, width, max(widths)) for width in widths]
        self._slots = _slots(template)
        # Weights of the KL divergences, and as a tensor their products with beta, made anew only where they change.
        self._kl_factors: tuple[Sequence[float], Tensor] | None = None
        states = [_state(module) for module in modules]
        for name, like in _state(template).items():
            stacked = _stack([state.get(name) for state in states], like, self._places)
            # Straight into the dicts, which take the dotted names.
            if isinstance(like, nn.Parameter):
                self._parameters[name] = nn.Parameter(_flip(stacked).contiguous())
            else:
                self._buffers[name] = stacked
        if not isinstance(template.prior, StandardNormal):
            self._hold_padding(states)

    def forward(self, x: Tensor, noise: Noise, members: Tensor | None = None) -> Terms:
        """Parts of the loss of each row of each network, (m, n)."""
        state = self._stacked_state()
        if members is not None:
            state = {name: tensor[members] for name, tensor in state.items()}
        terms = vmap(self._call)(tuple(state.values()), x, noise)
        if members is not None:
            for name, buffer in self.named_buffers():  # batch norm has moved those of its copies
                buffer[members] = state[name]
        return terms

    def loss(self, terms: Terms, kl_weights: Sequence[float], members: Tensor | None = None) -> Tensor:
        """Mean loss of the samples of each network, (m,), with a weight of the KL divergence for each."""
        if self._kl_factors is None or self._kl_factors[0] != kl_weights:
            factors = [module.beta * weight for module, weight in zip(self._members, kl_weights, strict=True)]
            self._kl_factors = kl_weights, terms.kl.new_tensor(factors)
        factor = self._kl_factors[1]
        return terms.weighted((factor if members is None else factor[members])[:, None]).mean(1)

    def train(self, mode: bool = True) -> "Stack":
        """Train or evaluate the networks."""
        self._template[0].train(mode)
        return super().train(mode)

    def parameter_groups(self) -> list[ParameterGroup]:
        """The parameters, by how they are trained: as those of the same names in each network."""
        return self._members[0].parameter_groups()

    def layers(self) -> Iterator[nn.Module]:
        """Those that all networks share, which hold the tensors of one network at a time."""
        return self._template[0].modules()

    @torch.no_grad()
    def unstack(self, member: int) -> None:
        """Give a network the weights that it has here."""
        stacked = self._stacked_state()
        for name, tensor in _state(self._members[member]).items():
            tensor.copy_(_narrow(stacked[name][member], tensor, self._places[member]))

    def inputs(self, member: int, x: Tensor) -> Tensor:
        """Samples of a network as the stack takes them, which is as its likelihood does: standardized once for all."""
        return self._members[member].target(x)

    def _call(self, tensors: Sequence[Tensor], x: Tensor, noise: Noise) -> Terms:
        # What functional_call does, without its search for names and tied weights, which costs a tenth of a small step.
        for places, tensor in zip(self._slots, tensors, strict=True):
            for tensors_of_layer, leaf in places:
                tensors_of_layer[leaf] = tensor
        template = self._template[0]
        return template.terms(x if template.likelihood.is_standardized else template.standardizer(x), x, noise)

    def _stacked_state(self) -> dict[str, Tensor]:
        return {name: _flip(tensor) for name, tensor in self.named_parameters()} | dict(self.named_buffers())

    def _hold_padding(self, states: Sequence[dict[str, Tensor]]) -> None:
        """Give the padding no gradient."""
        for name, parameter in self.named_parameters():
            ones = [torch.ones_like(state[name]) for state in states]
            if len({tensor.shape for tensor in ones}) > 1:
                mask = _flip(_stack(ones, _flip(parameter)[0], self._places))
                parameter.register_hook(lambda gradient, mask=mask: gradient * mask.to(gradient.device))


def stack_noise(parts: Sequence[Noise]) -> Noise:
    """The noise of each of some networks as a stack takes it, padded with zeros."""
    stacked = []
    for tensors in zip(*parts, strict=True):
        n_rows, width = (max(sizes) for sizes in zip(*(tensor.shape for tensor in tensors), strict=True))
        stacked.append(tensors[0].new_zeros(len(tensors), n_rows, width))
        for tensor, out in zip(tensors, stacked[-1], strict=True):
            out[: len(tensor), : tensor.shape[1]] = tensor
    return Noise(*stacked)


def can_stack(modules: Sequence[Any], widths: Sequence[int], x: Tensor) -> bool:
    """Whether modules do together what they do apart, tried on some rows with the narrowest and the widest."""
    extremes = [int(np.argmin(widths)), len(widths) - 1 - int(np.argmax(widths[::-1]))]
    pair = [deepcopy(modules[k]).to(x.device).train() for k in extremes]
    generator = torch.Generator(x.device).manual_seed(0)
    noise = [Draws(module.noise_widths, generator, len(x)).take(len(x)) for module in pair]
    try:
        stack = Stack(pair, [widths[k] for k in extremes]).train()
        together = stack(torch.stack([stack.inputs(k, x) for k in range(2)]), stack_noise(noise))
        stack.loss(together, [1.0, 1.0]).sum().backward()
    except Exception:  # whatever a network of the user's own makes of it
        return False
    apart = [module(x, own) for module, own in zip(pair, noise, strict=True)]
    return all(
        torch.allclose(ours, torch.stack(theirs), rtol=1e-3, atol=1e-3)
        for ours, theirs in zip(together, zip(*apart, strict=True), strict=True)
    )


def n_activations(module: Any, x: Tensor) -> int:
    """Numbers that the layers of a network give for each row."""
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
    """Where each tensor of the state is held; in several layers, if they share it."""
    state = _state(module)
    slots: dict[int, list[tuple[dict[str, Any], str]]] = {id(tensor): [] for tensor in state.values()}
    for layer in module.modules():
        for home in (layer._parameters, layer._buffers):
            for leaf, tensor in home.items():
                if tensor is not None:
                    slots[id(tensor)].append((home, leaf))
    return [slots[id(tensor)] for tensor in state.values()]


def _code_places(module: Any, width: int, widest: int) -> dict[int, Tensor]:
    """Where the entries of a dimension that counts codes, or numbers of the encoder, lie in the padded one."""
    starts = accumulate(module.code_blocks(widest), initial=0)
    places = [start + torch.arange(n) for start, n in zip(starts, module.code_blocks(width))]  # noqa: B905
    return {width: torch.arange(width), sum(map(len, places)): torch.cat(places)}


def _stack(tensors: Sequence[Tensor | None], like: Tensor, places: Sequence[dict[int, Tensor]]) -> Tensor:
    """Tensors of one name as one, padded to the shape of `like`; zeros for a network that has none."""
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
    """Matrices transposed: so come the gradients of a batched product, which then need no copy."""
    return stacked.mT if stacked.ndim == 3 else stacked


def _narrow(tensor: Tensor, like: Tensor, places: dict[int, Tensor]) -> Tensor:
    """A tensor without its padding, in the shape of `like`."""
    for dim, n in enumerate(like.shape):
        if tensor.shape[dim] != n:
            tensor = tensor.index_select(dim, places[n].to(tensor.device))
    return tensor
