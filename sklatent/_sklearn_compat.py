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
_check_sample_weight        Checks `sample_weight` as scikit-learn's own estimators do (device, precision, sign).
get_namespace               The Array API namespace under scikit-learn's own switch, `array_api_dispatch`.
get_container_adapter       Makes the DataFrame that `set_output` asks for, in `inverse_transform` too.
fit_and_score,              What scikit-learn's search calls for each candidate and fold, and what that takes apart.
BaseSearchCV,               Without them the fused searches cannot see the fits of a search together.
check_method_params,
safe_split
CallbackSupportMixin,       Callbacks of scikit-learn 1.9 on; before, there are none to support.
with_callbacks
==========================  ==========================================================================================
"""

__all__ = [
    "BaseSearchCV",
    "CallbackSupportMixin",
    "HasMethods",
    "Interval",
    "RealNotInt",
    "StrOptions",
    "check_method_params",
    "check_sample_weight",
    "fit_and_score",
    "fit_context",
    "get_container_adapter",
    "get_namespace",
    "safe_split",
    "validate_params",
    "with_callbacks",
]

from collections.abc import Callable

from sklearn.base import _fit_context as fit_context
from sklearn.model_selection._search import BaseSearchCV
from sklearn.model_selection._validation import _fit_and_score as fit_and_score
from sklearn.utils._array_api import get_namespace
from sklearn.utils._param_validation import HasMethods, Interval, RealNotInt, StrOptions, validate_params
from sklearn.utils._set_output import _get_container_adapter as get_container_adapter
from sklearn.utils.metaestimators import _safe_split as safe_split
from sklearn.utils.validation import _check_method_params as check_method_params
from sklearn.utils.validation import _check_sample_weight as check_sample_weight

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn before 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in for scikit-learn's."""

    def with_callbacks(method: Callable) -> Callable:
        """Leave a method as it is."""
        return method
