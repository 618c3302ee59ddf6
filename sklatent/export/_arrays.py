"""Arrays whose operations become the nodes of an ONNX graph."""

__all__ = ["OPSET", "Graph", "Value", "require"]

from importlib import import_module
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

# The version of ONNX's standard operators. ONNX Runtime reads it from 1.14 on.
OPSET = 18
# The version of the format of the file, which says what a reader has to understand.
IR_VERSION = 9


def require(package: str) -> Any:
    """Import a package of the extra `onnx`; raise ImportError that says how to install it."""
    try:
        return import_module(package)
    except ImportError as error:
        raise ImportError(f'sklatent.export.to_onnx needs {package}: pip install "sklatent[onnx]"') from error


class Graph:
    """The nodes and constants of an ONNX graph."""

    def __init__(self) -> None:
        self.onnx = require("onnx")
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._numbers = count()

    def constant(self, value: Any) -> "Value":
        """An array of constants; numbers are in float64."""
        array = np.asarray(value)
        array = array.astype(object) if array.dtype.kind == "U" else array
        self.constants.append(self.onnx.numpy_helper.from_array(array, self._name()))
        return Value(self, self.constants[-1].name)

    def apply(self, operator: str, *inputs: Any, **attributes: Any) -> "Value":
        """The result of an operator for values and constants."""
        names = [(each if isinstance(each, Value) else self.constant(each)).name for each in inputs]
        result = Value(self, self._name())
        self.nodes.append(self.onnx.helper.make_node(operator, names, [result.name], **attributes))
        return result

    def include(self, model: Any, value: "Value") -> "Value":
        """The output of a model with one input, for a value."""
        graph = self.onnx.compose.add_prefix_graph(model.graph, f"{self._name()}_")
        self.nodes.append(self.onnx.helper.make_node("Identity", [value.name], [graph.input[0].name]))
        self.nodes.extend(graph.node)
        self.constants.extend(graph.initializer)
        return Value(self, graph.output[0].name)

    def model(
        self, inputs: tuple[str, int], result: "Value", name: str, dtype: DTypeLike, shape: tuple[int, ...]
    ) -> Any:
        """The graph as a model that gives a result of this type and shape for each sample."""
        info, types = self.onnx.helper.make_tensor_value_info, self.onnx.helper.np_dtype_to_tensor_dtype
        last = self.onnx.helper.make_node("Identity", [result.name], [name])
        graph = self.onnx.helper.make_graph(
            [*self.nodes, last],
            name,
            [info(inputs[0], types(np.dtype(np.float32)), ["n_samples", inputs[1]])],
            [info(name, types(np.dtype(dtype)), ["n_samples", *shape])],
            self.constants,
        )
        opset = self.onnx.helper.make_opsetid("", OPSET)
        return self.onnx.helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)

    def _name(self) -> str:
        return f"v{next(self._numbers)}"


class Value:
    """An array in a graph, with what the functions of `_ppca.density` need of the Array API.

    Parameters
    ----------
    graph : Graph
    name : str
    """

    __array_ufunc__ = None  # so that NumPy leaves operations with its arrays and numbers to the methods below

    def __init__(self, graph: Graph, name: str):
        self.graph = graph
        self.name = name

    def __array_namespace__(self, api_version: str | None = None) -> "type[Namespace]":
        return Namespace

    def astype(self, dtype: DTypeLike) -> "Value":
        """The values in another type."""
        return self.graph.apply("Cast", self, to=self.graph.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def vecdot(self, other: "Value") -> "Value":
        """Inner products over the last axis."""
        return (self * other).reduce("ReduceSum")

    def reduce(self, operator: str, keepdims: bool = False) -> "Value":
        """The result of a reduction over the last axis."""
        return self.graph.apply(operator, self, np.array([-1]), keepdims=int(keepdims))

    def __add__(self, other: Any) -> "Value":
        return self.graph.apply("Add", self, other)

    def __sub__(self, other: Any) -> "Value":
        return self.graph.apply("Sub", self, other)

    def __mul__(self, other: Any) -> "Value":
        return self.graph.apply("Mul", self, other)

    def __truediv__(self, other: Any) -> "Value":
        return self.graph.apply("Div", self, other)

    def __pow__(self, other: Any) -> "Value":
        return self.graph.apply("Pow", self, float(other))

    def __matmul__(self, other: NDArray[Any]) -> "Value":
        return self.graph.apply("MatMul", self, other)

    __radd__ = __add__
    __rmul__ = __mul__


class Namespace:
    """What the functions of `_ppca.density` need of the namespace of an Array API."""

    float64 = np.float64
    astype = Value.astype
    vecdot = Value.vecdot
