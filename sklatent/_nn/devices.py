"""Devices: which one a name stands for, what it cannot do, and whether an accelerator pays, by a rule on sizes."""

__all__ = ["fitting_to", "free_memory", "has_float64", "pays", "resolve_device", "sum_dtype"]

import math
import os
from copy import deepcopy

import torch
from torch import nn

# Kinds of accelerators that networks are trained on.
ACCELERATORS = ("cuda", "mps", "xpu")

# The rule for "auto" compares nominal times in seconds. It has not been measured on an accelerator. It depends on sizes
# only, and not on timings or on what was computed before, so that equal fits give equal results.
# A CPU does this many multiply-adds in a second: three to four times as many as the two cores of the benchmarks do in a
# training on MNIST (3e10), since an accelerator must not lose beside many cores either.
PRODUCTS_PER_SECOND = 1e11
# A step on an accelerator: the launches of about 100 operations (73 to 107 were counted, with one to three hidden
# layers), each of about 10 us whatever its size. The arithmetic counts as nothing.
STEP = 1e-3
# The first use of an accelerator in a process; copies to it.
FIRST_USE = 2.0
BYTES_PER_SECOND = 1e10


def resolve_device(device: str) -> str:
    """The device that the parameter `device` stands for.

    "auto" is the accelerator of this machine if it does everything that the CPU does, and the CPU otherwise.

    Raises
    ------
    ValueError
        If this machine has no such device.
    """
    if device == "auto":
        kind = _accelerator()
        return "cpu" if kind is None or not has_float64(kind) else kind
    if device not in (found := _devices()):
        here = ", ".join(map(repr, found))
        raise ValueError(f"device={device!r} must be 'auto' or a device that PyTorch finds on this machine: {here}.")
    return device


def pays(n_products: float, n_steps: int = 0, n_bytes: int = 0) -> bool:
    """Whether an accelerator is worth it, by the nominal times above.

    Parameters
    ----------
    n_products : float
        Number of multiply-adds of all matrix products.
    n_steps : int, default=0
        Number of training steps.
    n_bytes : int, default=0
        Size of the data that are copied.
    """
    return n_products / PRODUCTS_PER_SECOND > n_steps * STEP + n_bytes / BYTES_PER_SECOND + FIRST_USE


def has_float64(device: str | torch.device) -> bool:
    """Whether a device computes in float64: those of Apple do not, and not all of Intel."""
    kind = torch.device(device).type
    return bool(torch.xpu.get_device_properties(device).has_fp64) if kind == "xpu" else kind != "mps"


def sum_dtype(device: str | torch.device) -> torch.dtype:
    """The precision in which many numbers are added up on a device."""
    return torch.float64 if has_float64(device) else torch.float32


def fitting_to(device: str | torch.device, module: nn.Module) -> nn.Module:
    """A module, or a copy in float32 for a device that cannot hold the constants that it has in float64."""
    fits = has_float64(device) or torch.float64 not in {tensor.dtype for tensor in module.state_dict().values()}
    return module if fits else deepcopy(module).float()


def free_memory(device: str | torch.device) -> float:
    """Free memory of a device in bytes; infinity if it is not known."""
    kind = torch.device(device).type
    if kind == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    if kind != "cpu":
        return float(torch.get_device_module(device).mem_get_info(device)[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return math.inf


def _accelerator() -> str | None:
    """Kind of the accelerator of this machine, of which PyTorch knows one at most; None without one of ours."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found.type if found is not None and found.type in ACCELERATORS else None


def _devices() -> list[str]:
    """Names of all devices of this machine: of an accelerator by itself, and with each number."""
    kind = _accelerator()
    if kind is None:
        return ["cpu"]
    return ["cpu", kind, *(f"{kind}:{number}" for number in range(torch.accelerator.device_count()))]
