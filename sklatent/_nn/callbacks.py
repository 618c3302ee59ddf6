"""Callbacks of a training: checks of the user's own, and reports of the epochs to the callbacks of scikit-learn."""

__all__ = ["Report", "check_monitors"]

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from skorch.callbacks import Callback

from sklatent._nn.training import EarlyStop, LatentNet


def check_monitors(callbacks: Iterable[Any], has_validation: bool) -> None:
    """Raise ValueError for a skorch callback that monitors a validation loss without a validation set."""
    for entry in callbacks:
        callback = entry[1] if isinstance(entry, tuple) else entry
        monitor = getattr(callback, "monitor", None)
        if not has_validation and isinstance(monitor, str) and monitor.startswith("valid_"):
            raise ValueError(
                f"callbacks must not monitor {monitor!r} with early_stopping=False, got "
                f"{type(callback).__name__}(monitor={monitor!r}): no samples are left out to compute it. Pass "
                f"early_stopping=True, or monitor={monitor.replace('valid_', 'train_', 1)!r}."
            )


class Report(Callback):
    """Call scikit-learn's callbacks in each epoch, and stop the training if one of them requests it.

    Parameters
    ----------
    context : object
        scikit-learn's callback context of the fit.
    estimator : estimator
    X : array-like
        Training samples.
    attributes : callable
        From the net to the attributes of the estimator as if training ended here. They are only computed for callbacks
        that request them.
    """

    def __init__(self, context: Any, estimator: Any, X: Any, attributes: Callable[[LatentNet], dict[str, Any]]):
        self.context = context
        self.estimator = estimator
        self.X = X
        self.attributes = attributes

    def on_epoch_begin(self, net: LatentNet, **kwargs: Any) -> None:
        """Tell that an epoch begins."""
        self.epoch_ = self.context.subcontext(task_name="epoch")
        self.epoch_.call_on_fit_task_begin(estimator=self.estimator, X=self.X)

    def on_epoch_end(self, net: LatentNet, **kwargs: Any) -> None:
        """Tell that an epoch has ended.

        Raises
        ------
        EarlyStop
            If one of the callbacks requests it.
        """
        attributes = partial(self.attributes, net)
        if self.epoch_.call_on_fit_task_end(estimator=self.estimator, X=self.X, reconstruction_attributes=attributes):
            raise EarlyStop
