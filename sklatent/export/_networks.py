"""Functions of trained networks as ONNX models, by PyTorch's exporter."""

__all__ = ["network_model"]

import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from sklatent.export._arrays import OPSET, require

# Number of samples to trace with. One would be taken for a constant.
N_TRACED = 2
# Packages that the export runs through, and that speak of their own affairs.
TALKATIVE = ["torch", "onnxscript", "onnx_ir", "onnx"]


class _Function(nn.Module):
    """A function of a module, as a module. The exporter does not find the weights of others."""

    def __init__(self, module: nn.Module, function: Callable[[Any, Tensor], Tensor]):
        super().__init__()
        self.module = deepcopy(module).cpu().eval()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.module, x)


def network_model(module: nn.Module, function: Callable[[Any, Tensor], Tensor], width: int) -> Any:
    """An ONNX model of function(module, x), for float32 samples or latent codes x of shape (n, width).

    Raises
    ------
    ValueError
        If PyTorch cannot export the layers of the module for any number of samples.
    """
    require("onnxscript")  # PyTorch's exporter is written in it
    example = torch.zeros(N_TRACED, width, device="cpu")
    try:
        with torch.no_grad(), _quiet():
            # Given the module itself, `torch.onnx.export` would fall back to a graph for N_TRACED samples alone where
            # the module depends on their number.
            program = torch.export.export(
                _Function(module, function).eval(),
                (example,),
                dynamic_shapes=({0: torch.export.Dim("n_samples")},),
                strict=False,
            )
            converted: Any = torch.onnx.export(program, (), opset_version=OPSET, dynamo=True, verbose=False)
    except (RuntimeError, ValueError) as error:  # by which PyTorch says what it does not support
        raise ValueError(
            "The networks of this estimator cannot be exported: PyTorch's exporter does not accept what its backbone "
            f"computes. {error}"
        ) from error
    return _bare(converted.model_proto)


def _bare(model: Any) -> Any:
    """The model without the notes of the exporter, which contain program text and the paths of files."""
    graph = model.graph
    for noted in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        noted.ClearField("metadata_props")
        noted.ClearField("doc_string")
    graph.ClearField("value_info")
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks on its own affairs, such as a missing torchvision, from the user.

    Those of other packages, and of a backbone of the user's own, are heard as ever.
    """
    loggers = [logging.getLogger(name) for name in TALKATIVE]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="copyreg")  # of copies that PyTorch makes
            for logger in loggers:
                warnings.filterwarnings("ignore", module=rf"{re.escape(logger.name)}(\.|$)")
                logger.setLevel(logging.ERROR)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
