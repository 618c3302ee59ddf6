"""Converters for skl2onnx, which puts the estimators of this package into the graphs of Pipelines."""

__all__ = ["exportable_methods", "pipeline_model", "without_passthrough"]

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.model_selection import FixedThresholdClassifier, TunedThresholdClassifierCV
from sklearn.pipeline import Pipeline

from sklatent._imputation import LatentImputer
from sklatent._jacobians import unroll
from sklatent.export._arrays import OPSET, require
from sklatent.export._methods import METHODS, class_labels, method_model, method_names, output_shape

# The version of ONNX's operators for scikit-learn's models.
ML_OPSET = 3
# What skl2onnx 1.20 converts without an error to other numbers: around a Pipeline, and isotonic calibration.
MISCONVERTED = CalibratedClassifierCV, FixedThresholdClassifier, TunedThresholdClassifierCV
# For each method of scikit-learn's own estimators that can be exported, its position among skl2onnx's outputs.
OUTPUTS = {"transform": 0, "predict": 0, "predict_proba": 1}


def without_passthrough(estimator: Any) -> Any:
    """A Pipeline without the steps that do nothing, which skl2onnx does not take first or last; others as they are.

    Raises
    ------
    ValueError
        If a Pipeline has no other step.
    """
    if not isinstance(estimator, Pipeline):
        return estimator
    steps = [(name, without_passthrough(step)) for name, step in estimator.steps if step not in (None, "passthrough")]
    if not steps:
        raise ValueError("A Pipeline cannot be exported if all of its steps are 'passthrough'.")
    return Pipeline(steps)


def exportable_methods(estimator: Any) -> list[str]:
    """The methods of a fitted estimator that can be exported."""
    last = _last_step(estimator)
    names = method_names(last) or [method for method in OUTPUTS if hasattr(last, method)]
    return names if last is estimator else [name for name in names if name != "inverse_transform"]


def pipeline_model(estimator: Any, method: str) -> Any:
    """A method of a fitted Pipeline or another estimator of scikit-learn as an ONNX model.

    Raises
    ------
    ValueError
        If skl2onnx cannot convert it.
    """
    _check_steps(estimator)
    skl2onnx, last = require("skl2onnx"), _last_step(estimator)
    _register(skl2onnx)
    options: dict[str, Any] = {"zipmap": False} if is_classifier(last) and hasattr(last, "predict_proba") else {}
    is_own = bool(method_names(last))
    try:
        model = skl2onnx.to_onnx(
            estimator,
            initial_types=[("X", skl2onnx.common.data_types.FloatTensorType([None, estimator.n_features_in_]))],
            target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET},
            options={id(last): options | ({"method": method} if is_own else {})},
        )
    except (RuntimeError, NotImplementedError) as error:  # what skl2onnx raises for whatever it cannot convert
        raise ValueError(f"{type(estimator).__name__} cannot be exported: {error}") from error
    position = _outputs(last, method).index(method) if is_own else OUTPUTS[method]
    return _with_one_output(model, position, method)


def _check_steps(estimator: Any) -> None:
    """Refuse steps that skl2onnx refuses in words about its own functions, or converts to other numbers."""
    for step in unroll(estimator):
        if isinstance(step, MISCONVERTED):
            raise ValueError(
                f"{type(step).__name__} cannot be exported: skl2onnx leaves the calibration or the threshold of some "
                "such classifiers out. Export the estimator within it."
            )
        if isinstance(step, LatentImputer):
            raise ValueError(
                "LatentImputer cannot be exported, since each sample has another conditional density of its missing "
                "values. Export the steps after it, and pass samples without missing values to them."
            )
        if isinstance(step, ColumnTransformer) and any(_has_names(columns) for _, _, columns in step.transformers_):
            raise ValueError(
                "ColumnTransformer cannot be exported if it selects columns by name: an exported model has one array "
                "of numbers as its input, without names. Select columns by position, or export the steps after it."
            )


def _has_names(columns: Any) -> bool:
    return any(isinstance(column, str) for column in np.ravel(np.asarray(columns, dtype=object)))


def _last_step(estimator: Any) -> Any:
    """The last step of a Pipeline, or of one within it; another estimator itself."""
    return _last_step(estimator.steps[-1][1]) if isinstance(estimator, Pipeline) else estimator


def _register(skl2onnx: Any) -> None:
    """Make the estimators of this package known to skl2onnx."""
    for kind, methods in METHODS.items():
        options: dict[str, list[Any]] = {"method": [None, *methods]}
        if issubclass(kind, ClassifierMixin):
            options["zipmap"] = [False, True, "columns"]
        name = f"Sklatent{kind.__name__}"
        skl2onnx.update_registered_converter(kind, name, _set_types, _add_nodes, options=options)


def _outputs(estimator: Any, method: str | None) -> list[str]:
    """The methods whose results skl2onnx asks for: one of a transformer, `predict` and one more of the others."""
    first, second, *_ = method_names(estimator)
    if first != "predict":
        return [method or first]
    return [first, second if method in (None, first) else method]


def _chosen(operator: Any, holder: Any) -> list[str]:
    options = holder.get_options(operator.raw_operator, {"method": None})
    return _outputs(operator.raw_operator, options["method"])


def _set_types(operator: Any) -> None:
    """Set the types and shapes of the outputs of an operator."""
    types, estimator = require("skl2onnx.common.data_types"), operator.raw_operator
    kinds = {"U": types.StringTensorType, "i": types.Int64TensorType, "f": types.DoubleTensorType}
    for method, output in zip(_chosen(operator, operator.scope_inst), operator.outputs, strict=True):
        is_label = method == "predict"
        kind = kinds[class_labels(estimator).dtype.kind] if is_label else types.FloatTensorType
        output.type = kind([None, *output_shape(estimator, method)])


def _add_nodes(scope: Any, operator: Any, container: Any) -> None:
    """Put the graphs of the methods of an estimator into that of a Pipeline."""
    onnx, inputs = require("onnx"), [variable.onnx_name for variable in operator.inputs]
    for method, output in zip(_chosen(operator, container), operator.outputs, strict=True):
        prefix = f"{scope.get_unique_variable_name(operator.type)}_"
        graph = onnx.compose.add_prefix_graph(method_model(operator.raw_operator, method).graph, prefix)
        joined = f"{prefix}joined"
        container.add_node("Concat", inputs, joined, axis=1, op_version=OPSET)
        container.add_node("Cast", joined, graph.input[0].name, to=onnx.TensorProto.FLOAT, op_version=OPSET)
        container.initializers.extend(graph.initializer)
        container.nodes.extend(graph.node)
        container.add_node("Identity", graph.output[0].name, output.onnx_name, op_version=OPSET)


def _with_one_output(model: Any, position: int, name: str) -> Any:
    """The model with one of its outputs alone, under another name, and what that one needs."""
    onnx, graph = require("onnx"), model.graph
    output = graph.output[position]
    nodes, needed = [], {output.name}
    for node in reversed(graph.node):
        if needed & set(node.output):
            nodes.append(node)
            needed.update(_names_read(node))
    nodes.insert(0, onnx.helper.make_node("Identity", [output.name], [name]))
    output.name = name
    constants = [constant for constant in graph.initializer if constant.name in needed]
    graph = onnx.helper.make_graph(nodes[::-1], name, graph.input, [output], constants)
    model.graph.CopyFrom(graph)
    return model


def _names_read(node: Any) -> Iterator[str]:
    """The names that a node takes from its graph, those within the bodies of its loops included."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _names_read(inner)
