"""Groups of networks that can be trained as one stack, limited by the available memory."""

__all__ = ["Trainee", "train_together"]

import math
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from sklatent._nn.data import Rows, batch_sizes
from sklatent._nn.devices import free_memory
from sklatent._nn.stack import can_stack, n_activations
from sklatent._nn.stacked_training import Follow, StackedNet
from sklatent._nn.training import LatentNet

# Fraction of the free memory that a stack may take.
MEMORY_FRACTION = 0.5


@dataclass(eq=False)
class Trainee:
    """A network about to be trained.

    Attributes
    ----------
    net : LatentNet
        Not yet initialized.
    train, valid : Rows or MappedRows
        Samples to train on, and those left out for early stopping or None.
    nz : int
        Latent dimension.
    kind : hashable
        Equal for networks of one architecture that are trained alike.
    """

    net: LatentNet
    train: Any
    valid: Any
    nz: int
    kind: Hashable


def train_together(
    trainees: Sequence[Trainee], max_models: int | None = None, n_beside: int = 0, progress: Any = None
) -> list[LatentNet | Exception | None]:
    """Train networks of one architecture as one.

    Parameters
    ----------
    trainees : sequence of Trainee
    max_models : int or None, default=None
        Networks to train as one, at most; None for as many as the free memory holds.
    n_beside : int, default=0
        Number of processes or threads that train other networks at the same time, and need memory too.
    progress : Progress or None, default=None
        Told of each stack and of its epochs.

    Returns
    -------
    outcomes : list
        For each network, the trained net, the exception that ended its training, or None if it was not trained
        because no other network is like it or PyTorch cannot stack it.
    """
    outcomes: dict[Trainee, Any] = {}
    for group in _groups(trainees):
        modules, widths = [trainee.net.module for trainee in group], [trainee.nz for trainee in group]
        if can_stack(modules, widths, group[0].train.X[:2]):
            for part in _parts(group, max_models, n_beside):
                outcomes |= _train_stack(part, progress)
    return [outcomes.get(trainee) for trainee in trainees]


def _groups(trainees: Sequence[Trainee]) -> Iterator[list[Trainee]]:
    """Groups of at least two networks that are trained alike."""
    groups = defaultdict(list)
    for trainee in trainees:
        # Batches of one sample need batch norm in evaluation mode, which all networks of a stack share.
        if isinstance(trainee.train, Rows) and 1 not in batch_sizes(len(trainee.train), trainee.net.batch_size):
            groups[_key(trainee)].append(trainee)
    yield from (group for group in groups.values() if len(group) > 1)


def _key(trainee: Trainee) -> Hashable:
    net, X = trainee.net, trainee.train.X
    loop = (net.batch_size, net.max_epochs, net.lr, net.max_gradient_norm, net.device)
    batches = (_batches(trainee.train, net.batch_size), _batches(trainee.valid, net.batch_size))
    return trainee.kind, X.shape[1], X.dtype, loop, batches


def _batches(rows: Any, batch_size: int) -> tuple[int, int]:
    """Number of batches, and size of all but the last."""
    sizes = [] if rows is None else batch_sizes(len(rows), batch_size)
    return len(sizes), sizes[0] if len(sizes) > 1 else 0


def _parts(group: Sequence[Trainee], max_models: int | None, n_beside: int) -> Iterator[list[Trainee]]:
    """The whole group, or parts of about the same size if the memory is too small."""
    largest = min(max_models or len(group), _n_that_fit(group[0], n_beside))
    ordered = sorted(group, key=lambda trainee: trainee.nz)  # so that there is less padding
    for numbers in np.array_split(np.arange(len(group)), math.ceil(len(group) / largest)):
        if len(numbers) > 1:
            yield [ordered[k] for k in numbers]


def _train_stack(part: Sequence[Trainee], progress: Any) -> dict[Trainee, Any]:
    nets = [trainee.net for trainee in part]
    stack = StackedNet(nets, [trainee.nz for trainee in part], [] if progress is None else [Follow(progress)])
    valid = None if part[0].valid is None else [trainee.valid for trainee in part]
    with nullcontext() if progress is None else progress.stack(len(part), nets[0].max_epochs):
        stack.train_each([trainee.train for trainee in part], valid)
    return {trainee: stack.failures_.get(k, trainee.net) for k, trainee in enumerate(part)}


def _n_that_fit(trainee: Trainee, n_beside: int) -> int:
    """Number of networks like this one that fit into the memory."""
    net, module = trainee.net, trainee.net.module
    n_weights = sum(parameter.numel() for parameter in module.parameters())
    n_numbers = 4 * n_weights  # with gradients and the two moments of the optimizer
    n_numbers += len(trainee.train) * (sum(module.noise_widths) + 2)  # noise and order of an epoch
    n_numbers += 4 * net.batch_size * n_activations(module, trainee.train.X[:2])  # and their gradients
    return max(1, int(MEMORY_FRACTION * free_memory(net.device) / (1 + n_beside) / (4 * n_numbers)))
