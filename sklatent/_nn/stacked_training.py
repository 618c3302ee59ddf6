"""Training of stacked networks: each is trained as by itself, and all at the same time."""

__all__ = ["Follow", "StackedNet"]

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from skorch.callbacks import Callback, EarlyStopping
from torch import Tensor, nn
from torch.utils.data import Dataset

from sklatent._nn.data import Draws, Rows, batch_sizes
from sklatent._nn.devices import sum_dtype
from sklatent._nn.modules import Noise
from sklatent._nn.schedules import Schedule
from sklatent._nn.stack import Stack, stack_noise
from sklatent._nn.training import EarlyStop, LatentNet, averages


class StackedRows(Dataset[Any]):
    """Samples of several networks. Samples that several networks share are stored once.

    Parameters
    ----------
    rows : sequence of Rows
    stack : Stack
    """

    def __init__(self, rows: Sequence[Rows], stack: Stack):
        keys = [(part.X.data_ptr(), len(part), id(part.weights)) for part in rows]
        distinct = {key: keys.index(key) for key in keys}  # the first network with these samples
        inputs = [stack.inputs(k, rows[k].X) for k in distinct.values()]
        starts = dict(zip(distinct, accumulate(map(len, inputs), initial=0)))  # noqa: B905
        self.X = torch.cat(inputs) if len(inputs) > 1 else inputs[0]
        self.relative = _joined_weights([rows[k] for k in distinct.values()])
        self.starts = [starts[key] for key in keys]
        self.lengths = [len(part) for part in rows]
        self.observed = [part.observed for part in rows]

    def __len__(self) -> int:
        return max(self.lengths)


class Part(NamedTuple):
    """Batches of the same size, one for each of some networks."""

    x: Tensor
    """Samples (m, n, n_features)."""
    noise: Noise
    """Noise of the samples, with tensors of shape (m, n, width)."""
    members: Tensor | None
    """Indices of the networks, (m,); None for all of them."""
    weight: Tensor | None
    """Weights of the samples (m, n), as in `Samples`."""


class StackedBatches:
    """The batches of several networks, each as in a training by itself.

    Each step is a list of parts. Networks whose batches differ in size, as the last ones may, are in different parts,
    since the sums over a padded batch would be rounded differently.

    Parameters
    ----------
    rows : StackedRows
    nets : sequence of LatentNet
        The nets, with their generators.
    training : bool
    """

    def __init__(self, rows: StackedRows, nets: Sequence[LatentNet], training: bool):
        self.rows = rows
        self.nets = nets
        self.training = training
        self.sizes = [batch_sizes(n_samples, nets[0].batch_size) for n_samples in rows.lengths]
        sources = [(net.seeds, net.module_.noise_widths, n) for net, n in zip(nets, rows.lengths, strict=True)]
        self.twins = [sources.index(source) for source in sources]  # the first net with the same random numbers

    def __iter__(self) -> Iterator[list[Part]]:
        orders = {k: self._order(k) for k in set(self.twins)}
        draws = {k: self._draws(k) for k in set(self.twins)}
        order = torch.stack([start + orders[k] for start, k in zip(self.rows.starts, self.twins, strict=True)])
        noise = stack_noise([draws[k] for k in self.twins])
        start = 0
        for sizes in zip(*self.sizes, strict=True):
            yield [self._part(order, noise, start, size, members) for size, members in self._parts(sizes)]
            start += sizes[0]

    def _part(self, order: Tensor, noise: Noise, start: int, size: int, members: Tensor | None) -> Part:
        chosen = slice(None) if members is None else members
        stop = start + size
        numbers = order[chosen, start:stop]
        weight = None if self.rows.relative is None else _gathered(self.rows.relative, numbers)
        noise = Noise(*(tensor[chosen, start:stop] for tensor in noise))
        return Part(_gathered(self.rows.X, numbers), noise, members, weight)

    def _order(self, k: int) -> Tensor:
        """Indices of the samples of a network in the order of its generator, padded to the largest number."""
        n_samples, device = self.rows.lengths[k], self.rows.X.device
        if self.training:
            order = torch.randperm(n_samples, generator=self.nets[k].order, device=device)
        else:
            order = torch.arange(n_samples, device=device)
        return nn.functional.pad(order, (0, max(self.rows.lengths) - n_samples))

    def _draws(self, k: int) -> Noise:
        """Noise of a network for one epoch."""
        net = self.nets[k]
        generator = net.noise if self.training else torch.Generator(net.device).manual_seed(net.seeds[2])
        draws = Draws(net.module_.noise_widths, generator, self.rows.lengths[k])
        parts = [draws.take(size) for size in self.sizes[k]]
        return Noise(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

    def _parts(self, sizes: Sequence[int]) -> Iterator[tuple[int, Tensor | None]]:
        """Each batch size, and the networks whose next batch has it."""
        if len(set(sizes)) == 1:
            yield sizes[0], None
            return
        numbers = torch.tensor(sizes, device=self.rows.X.device)
        for size in sorted(set(sizes)):
            yield size, torch.nonzero(numbers == size)[:, 0]


class StackedNet(LatentNet):
    """Train nets of one architecture as one: the loop of `LatentNet`, over their modules stacked.

    Each net keeps its generators, callbacks and history, and the result is that of training it by itself. If a net
    stops early, or its loss is not finite, the training of the others continues.

    Parameters
    ----------
    nets : sequence of LatentNet
        Not yet initialized. They may differ in the weights and the latent dimension of their modules, in their seeds,
        in the warm-up of their schedules, and in the early stopping among their callbacks.
    widths : sequence of int
        Latent dimension of each net.
    callbacks : list of Callback, default=()
        Callbacks of the stack, beside those of each net.

    Attributes
    ----------
    failures_ : dict of int to FloatingPointError
        Errors of the nets whose loss became infinite or NaN, by their index.
    """

    n_stack_dims = 1

    def __init__(self, nets: Sequence[LatentNet], widths: Sequence[int], callbacks: Sequence[Callback] = ()):
        first = nets[0]
        self.nets = nets
        super().__init__(
            Stack([net.module for net in nets], widths),
            seeds=first.seeds,
            max_epochs=first.max_epochs,
            batch_size=first.batch_size,
            lr=first.lr,
            weight_decay=first.weight_decay,
            max_gradient_norm=first.max_gradient_norm,
            precision=first.precision,
            schedule=StackedSchedule([net.schedule for net in nets]),
            device=first.device,
            verbose=0,
            callbacks=list(callbacks),
        )

    def train_each(self, rows: Sequence[Rows], valid: Sequence[Rows] | None) -> "StackedNet":
        """Train every net on its own samples."""
        for net, part in zip(self.nets, rows, strict=True):
            net.initialize()
            net.notify("on_train_begin", X=part, y=None)
        _keep_freed_memory()
        self.failures_: dict[int, FloatingPointError] = {}
        self.running_ = dict(enumerate(self.nets))
        self.train(StackedRows(rows, self.module), None if valid is None else StackedRows(valid, self.module))
        for k in list(self.running_):
            self._leave(k)
        return self

    def product_size(self, n_samples: int) -> int:
        """Number of multiply-adds of the largest layer of all nets for a batch."""
        return sum(net.product_size(n_samples) for net in self.nets)

    def get_iterator(self, dataset: StackedRows, training: bool = False) -> StackedBatches:
        """The batches of all nets."""
        return StackedBatches(dataset, self.nets, training)

    def notify(self, method_name: str, **kwargs: Any) -> None:
        """Call the callbacks, and at the beginning and the end of an epoch also those of each net."""
        super().notify(method_name, **kwargs)
        if method_name not in ("on_epoch_begin", "on_epoch_end"):
            return
        for k, net in list(self.running_.items()):
            if any(isinstance(callback, EarlyStopping) for _, callback in net.callbacks_):  # it keeps the best weights
                self.module_.unstack(k)
            try:
                net.notify(method_name, **kwargs)
            except EarlyStop:
                self._leave(k)
        if not self.running_:
            raise EarlyStop

    def run_single_epoch(self, iterator: Any, training: bool, prefix: str, step_fn: Any, **fit_params: Any) -> None:
        """Run one epoch of every net."""
        if iterator is None:
            return
        losses, reconstruction, kl = [], [], []
        for parts in iterator:
            self.notify("on_batch_begin", batch=parts, training=training)
            step = step_fn(parts, **fit_params)
            self.notify("on_batch_end", batch=parts, training=training, **step)
            losses.append(step["losses"])
            reconstruction.append(step["reconstruction"])
            kl.append(step["kl"])
        dtype = sum_dtype(losses[0].device)
        totals = [torch.cat(sums, dim=1).sum(1, dtype=dtype).tolist() for sums in (losses, reconstruction, kl)]
        for k, net in list(self.running_.items()):
            try:
                means = [total[k] / iterator.rows.lengths[k] for total in totals]
                net.record(prefix, means)
                if (factor := net.noise_factor(prefix)) is not None:
                    observed = iterator.rows.observed[k]
                    net.record_noise_variance(self.module_.update_noise_variance(k, -means[1], factor, observed))
            except FloatingPointError as error:
                self.failures_[k] = error
                del self.running_[k]

    def _evaluate(self, batch: Any, kl_weight: Any) -> dict[str, Any]:
        with self._precision():
            terms = [self.module_(part.x, part.noise, part.members) for part in batch]
            losses = [
                self.module_.loss(found, kl_weight, part.members, part.weight)
                for found, part in zip(terms, batch, strict=True)
            ]
        sizes = [part.x.shape[1] for part in batch]
        means = [averages(found, part.weight) for found, part in zip(terms, batch, strict=True)]
        spread = partial(_spread, members=[part.members for part in batch], n_members=len(self.nets))
        return {
            "loss": torch.stack([values.sum() for values in losses]).sum(),
            "losses": spread([values.detach()[:, None] * n for values, n in zip(losses, sizes, strict=True)]),
            "reconstruction": spread([-part.log_prob for part in means]),
            "kl": spread([part.kl for part in means]),
        }

    def _backward(self, loss: Tensor, batch: Any) -> None:
        loss.backward()

    def _submodules(self) -> Any:
        return self.module_.layers()

    def _leave(self, k: int) -> None:
        """Finish the training of a net."""
        self.module_.unstack(k)
        self.running_.pop(k).notify("on_train_end", X=None, y=None)


class Follow(Callback):
    """Tell somebody of the epochs of a stack, and stop the training if a callback asks for it.

    Parameters
    ----------
    progress : Progress
    """

    def __init__(self, progress: Any):
        self.progress = progress

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        self.progress.begin_epoch()

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        if self.progress.end_epoch():
            raise EarlyStop


class StackedSchedule(Schedule):
    """Common learning rate of all networks, and weight of the KL divergence of each.

    Parameters
    ----------
    schedules : sequence of Schedule
        Schedules of the nets, which differ only in their warm-up.
    """

    def __init__(self, schedules: Sequence[Schedule]):
        super().__init__(schedules[0].n_steps, schedules[0].lr_schedule)
        self.schedules = schedules

    def kl_weight(self, step: int) -> Any:
        """List of the weights of the KL divergence of the networks after the given number of steps."""
        return [schedule.kl_weight(step) for schedule in self.schedules]


def _joined_weights(rows: Sequence[Rows]) -> Tensor | None:
    """Relative weights of all samples, which are one for those without; None if none has any."""
    if all(part.relative is None for part in rows):
        return None
    ones = (torch.ones(len(part), device=part.X.device) for part in rows)
    return torch.cat([one if part.relative is None else part.relative for part, one in zip(rows, ones, strict=True)])


def _gathered(values: Tensor, numbers: Tensor) -> Tensor:
    """Values of the samples with these numbers (m, n)."""
    return values.index_select(0, numbers.flatten()).unflatten(0, numbers.shape)


def _keep_freed_memory() -> None:
    """Make glibc keep up to 64 MB of freed memory instead of returning it to the system.

    glibc keeps up to twice the size of the largest freed block of at most 32 MB. Without this, page faults take a
    quarter of the time of a step of 80 networks.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


def _spread(values: Sequence[Tensor], members: Sequence[Tensor | None], n_members: int) -> Tensor:
    """Values (m, n) of all parts in one tensor for all networks, padded with zeros."""
    if members[0] is None:
        return values[0]
    spread = values[0].new_zeros(n_members, max(part.shape[1] for part in values))
    for part, numbers in zip(values, members, strict=True):
        spread[numbers, : part.shape[1]] = part
    return spread
