"""A second device without an accelerator: it calls itself "meta", computes on the CPU, and refuses tensors of the CPU.

As on an accelerator, an operation with tensors of both devices raises RuntimeError, unless those of the CPU are single
numbers, indices, or what is copied. So a training on it, and all that follows, finds tensors on the wrong device, and
its numbers are those of the CPU. What it does not find is what only other kernels do, and generators of the CPU.
"""

from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from unittest import mock

import torch
from torch.optim import optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "meta"
DEVICE = torch.device(NAME)
COPIES = ("aten::copy_", "aten::_to_copy")
INDEXED = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
# What `torch.cuda` is for "cuda". Layers with random numbers take them from the generator of the CPU.
MODULE = SimpleNamespace(
    get_rng_state=lambda device: torch.get_rng_state(),
    set_rng_state=lambda state, device: torch.set_rng_state(state),
    mem_get_info=lambda device: (2**33, 2**33),
)
_tensor = torch.tensor


class There(torch.Tensor):
    """A tensor on the second device.

    Parameters
    ----------
    here : Tensor
        Its values, on the CPU.
    """

    is_meta = False  # modules would load nothing into it

    @staticmethod
    def __new__(cls, here):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            here.size(),
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=DEVICE,
            requires_grad=here.requires_grad,
        )

    def __init__(self, here):
        self.here = here

    def data_ptr(self):
        return self.here.data_ptr()

    def new_tensor(self, data):
        return tensor(data, dtype=self.dtype, device=DEVICE)

    def tolist(self):
        return self.here.tolist()

    def __repr__(self, **kwargs):
        return f"There({self.here!r})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return call(function, args, kwargs or {})


class SecondDevice(TorchDispatchMode):
    """Makes tensors on the second device where it is named."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return call(function, args, kwargs or {})


class Generator(torch.Generator):
    """A generator of either device; that of the second gives the numbers of the CPU's."""

    def __new__(cls, device="cpu"):
        generator = super().__new__(cls)
        generator.where = torch.device(device)
        return generator

    @property
    def device(self):
        return self.where


def call(function, args, kwargs):
    """The results of an operation, on the device of its arguments."""
    tensors = tensors_of(args, kwargs)
    is_there, device = any(isinstance(tensor, There) for tensor in tensors), kwargs.get("device")
    goes_there = is_there if device is None else torch.device(device) == DEVICE
    if is_there:
        check(function, tensors)
    if device is not None and goes_there:
        kwargs = kwargs | {"device": torch.device("cpu")}
    here = function(*tree_map(to_here, args), **tree_map(to_here, kwargs))
    return returned(function, args, kwargs, here, goes_there)


def check(function, tensors):
    """Raise RuntimeError where a device does not find all that it needs."""
    name = function._schema.name
    needed = [] if name in COPIES else tensors[:1] if name in INDEXED else tensors
    strays = [tensor.shape for tensor in needed if not isinstance(tensor, There) and tensor.ndim > 0]
    if strays:
        raise RuntimeError(f"{function} expects all tensors on the second device, got {strays} on the CPU.")


def tensors_of(*values):
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def to_here(value):
    return value.here if isinstance(value, There) else value


def returned(function, args, kwargs, here, goes_there):
    """Results as tensors of their device; those in place are the arguments themselves."""
    changed = {id(to_here(leaf)): leaf for leaf in tensors_of(args, kwargs)}

    def wrap(value):
        if not isinstance(value, torch.Tensor):
            return value
        return changed[id(value)] if id(value) in changed else There(value) if goes_there else value

    return tree_map(wrap, here)


@contextmanager
def second_device():
    """Within the block there is a second device, and networks whose device is "auto" train on it."""
    from sklatent._nn import base

    kinds = [*optimizer._get_fused_kernels_supported_devices(), NAME]
    with ExitStack() as stack:
        stack.enter_context(SecondDevice())
        for owner, name, value in (
            (torch, "Generator", Generator),
            (torch, "tensor", tensor),
            (torch, "get_device_module", lambda device: MODULE),
            (optimizer, "_get_fused_kernels_supported_devices", lambda: kinds),
            (base, "resolve_device", lambda name: NAME if name == "auto" else name),
            (base, "pays", lambda *sizes: True),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        # Modules that are converted get new parameters: those that they have could not hold their values.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, False)
        yield


def tensor(data, *, device="cpu", **kwargs):
    """As `torch.tensor`, which gives the meta device nothing to copy."""
    return _tensor(data, device="cpu", **kwargs).to(device)
