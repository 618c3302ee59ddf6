"""Every private name of scikit-learn that is used here, with the reason, so that a new release fails in one place.

Tested with scikit-learn 1.6.0 to 1.9.1. `tests/test_sklearn_compat.py` has a test of what is expected of each; when a
new release breaks one, adapt it here and nowhere else.

==========================  ==========================================================================================
name                        why, and what breaks without it
==========================  ==========================================================================================
_fit_context                Validates the parameters before `fit`, as in every estimator of scikit-learn. Without it
                            `check_estimator` fails, and wrong values reach NumPy and PyTorch.
HasMethods, Interval,       The vocabulary of `_parameter_constraints`, and the decorator for functions. Without them
RealNotInt, StrOptions,     the messages of wrong parameters differ from scikit-learn's.
validate_params
validate_parameters         Validates the parameters of an estimator outside its `fit`. Without it a search would train
                            networks whose fits are then refused.
_check_sample_weight        Checks `sample_weight` as scikit-learn's own estimators do (device, precision, sign).
get_namespace               The Array API namespace under scikit-learn's own switch, `array_api_dispatch`.
get_container_adapter       Makes the DataFrame that `set_output` asks for, in `inverse_transform` too.
safe_split                  Takes the training samples of a fold as scikit-learn's searches do. Without it the fused
                            searches would learn from other samples than their fits ask for.
check_method_params         Takes the training samples' part of the parameters of a fit as scikit-learn's searches do.
                            Without it the fused searches would learn with other weights than their fits.
checked_cv, keeps_cv        The splitter of a search, once scikit-learn has checked it; it keeps it from 1.9 on. Without
                            it the fused searches could not see the folds before the first fit.
callback_context            Starts to report a fit to callbacks of scikit-learn 1.9. Without it they see no epochs.
callback_state              What callbacks keep on an estimator, which a fit that fails must leave there for them.
safe_indexing               Takes some samples or columns of an array, a sparse array or a DataFrame. Without it a score
                            could not leave out the samples of a DataFrame that have no density.
column_indices              The columns that each part of a ColumnTransformer takes, as numbers. Without it names, masks
                            and slices would have to be resolved once more.
power_scaler                The scaler that a PowerTransformer applies last. Without it the units of its output, and so
                            the densities of its input, are not known.
has_callbacks               Whether callbacks of scikit-learn 1.9 follow an estimator, which must then fit by itself.
CallbackSupportMixin,       Callbacks of scikit-learn 1.9 on; before, there are none to support.
with_callbacks
StagedSearchMixin           A search with one task more for callbacks (`_init_callback_context`), in which the fused
                            searches report the epochs of their stacks. Without it there is no room for that task.
DocLinkMixin                The link from the box of an estimator in a notebook to its page (`_doc_link_module`,
                            `_doc_link_template`). Without it there are no descriptions of parameters in that box.
==========================  ==========================================================================================
"""

__all__ = [
    "CallbackSupportMixin",
    "DocLinkMixin",
    "HasMethods",
    "Interval",
    "RealNotInt",
    "StagedSearchMixin",
    "StrOptions",
    "callback_context",
    "callback_state",
    "check_method_params",
    "check_sample_weight",
    "checked_cv",
    "column_indices",
    "fit_context",
    "get_container_adapter",
    "get_namespace",
    "has_callbacks",
    "keeps_cv",
    "power_scaler",
    "safe_indexing",
    "safe_split",
    "validate_parameters",
    "validate_params",
    "with_callbacks",
]

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any, TypeVar

from sklearn.base import _fit_context, is_classifier
from sklearn.model_selection import check_cv
from sklearn.utils import _safe_indexing as safe_indexing
from sklearn.utils._array_api import get_namespace
from sklearn.utils._param_validation import HasMethods, Interval, RealNotInt, StrOptions, validate_params
from sklearn.utils._set_output import _get_container_adapter as get_container_adapter
from sklearn.utils.metaestimators import _safe_split as safe_split
from sklearn.utils.validation import _check_method_params as check_method_params
from sklearn.utils.validation import _check_sample_weight as check_sample_weight

Method = TypeVar("Method", bound=Callable[..., Any])

try:
    from sklearn.callback import CallbackSupportMixin
    from sklearn.callback import with_callbacks as _with_callbacks
except ImportError:  # scikit-learn before 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in for scikit-learn's."""

    def _with_callbacks(method: Method) -> Method:
        return method


# Scikit-learn has no types. Under its own decorators `fit` would have none either, and whatever follows it.
def fit_context(*, prefer_skip_nested_validation: bool) -> Callable[[Method], Method]:
    """Validate the parameters before a method, which keeps its type."""
    decorate: Callable[[Method], Method] = _fit_context(prefer_skip_nested_validation=prefer_skip_nested_validation)
    return decorate


def with_callbacks(method: Method) -> Method:
    """The method with callbacks of scikit-learn 1.9, and with its type."""
    decorated: Method = _with_callbacks(method)
    return decorated


class StagedSearchMixin:
    """A search with one task more than scikit-learn's, before the candidates are fitted one by one."""

    def _init_callback_context(self, *, max_subtasks: int = 0, **details: Any) -> Any:
        return super()._init_callback_context(max_subtasks=max_subtasks + 1, **details)  # type: ignore[misc]


class DocLinkMixin:
    """Links from the box of an estimator in a notebook to its page, and the descriptions that go with them."""

    _doc_link_module = "sklatent"

    @property
    def _doc_link_template(self) -> str:
        address = _documentation_address()
        return address and f"{address}/api/generated/{{estimator_module}}.{{estimator_name}}.html"


def checked_cv(search: Any, y: Any) -> Any:
    """The splitter that a search has made of its `cv`; made once more where scikit-learn keeps it to itself."""
    return getattr(search, "_checked_cv_orig", None) or check_cv(
        search.cv, y, classifier=is_classifier(search.estimator)
    )


def validate_parameters(estimator: Any) -> None:
    """Raise ValueError if a parameter of an estimator is not one that its `_parameter_constraints` allow."""
    estimator._validate_params()


def keeps_cv(search: Any) -> bool:
    """Whether `checked_cv` gives the splits of a search: not where an iterator is exhausted once they were checked."""
    return hasattr(search, "_checked_cv_orig") or not hasattr(search.cv, "__next__")


def column_indices(transformer: Any) -> dict[str, Any]:
    """Indices of the columns that each part of a fitted ColumnTransformer takes, by its name."""
    return transformer._transformer_to_input_indices


def power_scaler(transformer: Any) -> Any:
    """The fitted StandardScaler that a PowerTransformer applies last; None where it does not standardize."""
    return transformer._scaler if transformer.standardize else None


def has_callbacks(estimator: Any) -> bool:
    """Whether callbacks of scikit-learn follow the fits of an estimator."""
    return bool(getattr(estimator, "_skl_callbacks", None))


def callback_context(estimator: Any, max_subtasks: int) -> Any:
    """The context in which a fit is reported to callbacks; None before scikit-learn 1.9."""
    if not hasattr(estimator, "_init_callback_context"):
        return None
    return estimator._init_callback_context(max_subtasks=max_subtasks)


def callback_state(estimator: Any) -> dict[str, Any]:
    """The attributes of an estimator that callbacks need for their teardown."""
    return {name: value for name, value in vars(estimator).items() if name.startswith(("_callback", "_skl_"))}


def _documentation_address() -> str:
    """Where the package's metadata say that its pages are; else the pages built in a checkout; "" without either."""
    try:
        addresses = dict(line.split(", ", 1) for line in metadata("sklatent").get_all("Project-URL", []))
    except PackageNotFoundError:  # used from a folder, without an installation
        addresses = {}
    pages = Path(__file__).parents[1] / "docs" / "_build" / "html"
    built = pages.as_uri() if (pages / "index.html").exists() else ""
    return addresses.get("Documentation", built).rstrip("/")
