"""Reports of the epochs of a training to the callbacks of scikit-learn."""

__all__ = ["Report"]

from collections.abc import Callable
from functools import partial
from typing import Any

from skorch.callbacks import Callback

from sklatent._nn.training import EarlyStop, LatentNet


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
