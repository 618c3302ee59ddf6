"""Imputation of missing values by any latent model, in scikit-learn's conventions for imputers."""

__all__ = ["LatentImputer"]

from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn import get_config
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin, clone
from sklearn.impute import MissingIndicator
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.metadata_routing import MetadataRouter
from sklearn.utils.validation import check_is_fitted, has_fit_parameter, validate_data

from sklatent._base import FLOAT_DTYPES, Persistent, all_or_nothing, check_weights, forget_fit, spawn_seeds
from sklatent._pca import PCAReducer
from sklatent._ppca.missing_values import held_out_dimension
from sklatent._search.crossfit import fit_density, route_to_fit, sample_params
from sklatent._sklearn_compat import HasMethods, fit_context


class LatentImputer(Persistent, OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    r"""Fill in missing values by a latent model: a replacement for scikit-learn's imputers within a Pipeline.

    The model learns the joint density p(x) from the observed values, and each missing value is replaced by its
    conditional expectation given the observed values of its sample, or by a random sample of this density,

    .. math:: x^\mathrm{mis} \leftarrow \mathrm{E}[x^\mathrm{mis} | x^\mathrm{obs}] \quad \text{or} \quad
        x^\mathrm{mis} \sim p(x^\mathrm{mis} | x^\mathrm{obs}).

    That a value is missing may depend on the values that are observed, but not on the value itself (missing at random).

    Parameters
    ----------
    estimator : estimator with `impute`, Pipeline or None, default=None
        `PCAReducer`, `AutoencoderTransformer`, `VAETransformer`, or a Pipeline that ends with one of them, and whose
        other steps pass NaN on and have `inverse_transform`, such as `StandardScaler`. None is `PCAReducer` after
        `StandardScaler`, with the number of components whose log-likelihood on samples left out of the fit is largest.
    sample_posterior : bool, default=False
        Whether to fill in random samples of the conditional density. The imputations of several imputers with different
        `random_state` are multiple imputations: their spread shows how uncertain the missing values are.
    add_indicator : bool, default=False
        Whether to append a column for each feature with missing values in `fit` that tells which ones were missing.
    keep_empty_features : bool, default=False
        Whether to keep features without any observed value in `fit`. What is missing there is filled with 0.
        Otherwise they are left out.
    random_state : int, RandomState instance or None, default=None
        Controls the random samples of `sample_posterior`. Pass an int for reproducible results. The estimator has a
        parameter of its own.

    Attributes
    ----------
    estimator_ : estimator
        The fitted estimator.
    indicator_ : MissingIndicator or None
        The indicator of missing values if `add_indicator` is True.
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features seen during `fit`; only defined if X has feature names that are all strings.

    See Also
    --------
    sklearn.impute.IterativeImputer : Regresses each feature on the others, in turn.
    sklearn.impute.KNNImputer : Averages the nearest samples.

    References
    ----------
    Tipping & Bishop (1999), "Probabilistic principal component analysis", JRSS B 61, section 3.3. Mattei & Frellsen
    (2019), "MIWAE: deep generative modelling and imputation of incomplete data sets". Rubin (1987), "Multiple
    imputation for nonresponse in surveys".

    Examples
    --------
    >>> import numpy as np
    >>> from sklatent import LatentImputer
    >>> X = [[1.0, 2.0], [2.0, 4.0], [3.0, 6.0], [4.0, np.nan], [5.0, 10.0]]
    >>> bool(abs(LatentImputer().fit_transform(X)[3, 1] - 8) < 0.5)
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "estimator": [HasMethods(["fit"]), None],
        "sample_posterior": ["boolean"],
        "add_indicator": ["boolean"],
        "keep_empty_features": ["boolean"],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        estimator: Any = None,
        *,
        sample_posterior: bool = False,
        add_indicator: bool = False,
        keep_empty_features: bool = False,
        random_state: Any = None,
    ):
        self.estimator = estimator
        self.sample_posterior = sample_posterior
        self.add_indicator = add_indicator
        self.keep_empty_features = keep_empty_features
        self.random_state = random_state

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the estimator to the observed values of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training data, with NaN as missing values.
        y : Ignored
            Not used, present for API consistency by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Individual weights for each sample. A sample with weight 0 is left out. The model receives them, and so does
            each step before it whose `fit` takes them. If scikit-learn's metadata routing is enabled, `estimator`
            receives what it requests.

        Returns
        -------
        self : object
            The fitted imputer. If `fit` raises an exception, the imputer is unchanged.

        Raises
        ------
        ValueError
            If no feature has an observed value, if `estimator` cannot impute, or if its model does not take the
            `sample_weight` that is given.

        See Also
        --------
        transform : Fill in missing values.

        Examples
        --------
        >>> import numpy as np
        >>> from sklatent import LatentImputer, PCAReducer
        >>> LatentImputer(PCAReducer(1)).fit([[1.0, 2.0], [2.0, np.nan], [3.0, 6.0]]).estimator_
        PCAReducer(nz=1)
        """
        with all_or_nothing(self):
            forget_fit(self)
            X, weights = _with_weight(self._validate(X, reset=True), sample_weight)
            observed = ~np.isnan(X).all(axis=0)
            if not observed.any():
                raise ValueError("Input X contains no observed value in any column.")
            self._observed = observed
            estimator = clone(self._unfitted())
            *before, model = _steps(estimator)
            if not hasattr(model, "impute") or not all(hasattr(step, "inverse_transform") for step in before):
                raise ValueError(
                    f"The 'estimator' parameter of {type(self).__name__} must have the method 'impute', or be a "
                    "Pipeline whose last step has it and whose other steps have 'inverse_transform'. Got "
                    f"{estimator!r} instead."
                )
            fit_params = self._weights_for(estimator, weights)
            if self.estimator is None:
                model.set_params(nz=_held_out_dimension(X[:, observed], weights))
            self.estimator_ = fit_density(estimator, X[:, observed], fit_params)
            self.indicator_ = MissingIndicator(error_on_new=False).fit(X) if self.add_indicator else None
        return self

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """Fill in the missing values of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples, with NaN as missing values.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features_out)
            The samples without missing values. Observed values are those of X. The indicator columns come last.

        See Also
        --------
        PCAReducer.impute : Fill in the missing values of samples by a model alone.

        Examples
        --------
        >>> import numpy as np
        >>> from sklatent import LatentImputer
        >>> X = [[1.0, 2.0], [2.0, np.nan], [3.0, 6.0], [4.0, 8.0]]
        >>> LatentImputer().fit(X).transform(X).shape
        (4, 2)
        """
        check_is_fitted(self)
        X = self._validate(X, reset=False)
        filled = np.where(np.isnan(X), X.dtype.type(0), X)  # features that `fit` has not observed have no model
        filled[:, self._observed] = self._filled(X[:, self._observed])
        filled = filled if self.keep_empty_features else filled[:, self._observed]
        if self.indicator_ is None:
            return filled
        return np.hstack([filled, np.asarray(self.indicator_.transform(X), dtype=X.dtype)])

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[Any]:
        """Names of the output features: those of the input that are kept, then those of the indicator.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Names of the input features. None takes those seen during `fit`, or x0, x1, ...

        Returns
        -------
        names : ndarray of str
            Names in the order of the columns that `transform` returns.

        See Also
        --------
        transform : Fill in missing values.

        Examples
        --------
        >>> import numpy as np
        >>> from sklatent import LatentImputer
        >>> X = [[1.0, 2.0], [2.0, np.nan], [3.0, 6.0], [4.0, 8.0]]
        >>> LatentImputer(add_indicator=True).fit(X).get_feature_names_out()
        array(['x0', 'x1', 'missingindicator_x1'], dtype=object)
        """
        check_is_fitted(self)
        given = super().get_feature_names_out(input_features)
        names = given if self.keep_empty_features else given[self._observed]
        return names if self.indicator_ is None else np.r_[names, self.indicator_.get_feature_names_out(given)]

    def get_metadata_routing(self) -> Any:
        """Get the routes of metadata: `sample_weight` counts here, and goes to the `fit` of `estimator`.

        Returns
        -------
        routing : MetadataRouter
            As scikit-learn's metadata routing expects it.

        See Also
        --------
        fit : Counts the weights, and passes them on if `estimator` requests them.

        Examples
        --------
        >>> import sklearn
        >>> from sklatent import LatentImputer, PCAReducer
        >>> X = [[1.0, 2.0], [2.0, float("nan")], [3.0, 6.0], [9.0, 1.0]]
        >>> with sklearn.config_context(enable_metadata_routing=True):
        ...     imputer = LatentImputer(PCAReducer(1).set_fit_request(sample_weight=True))
        ...     imputer = imputer.fit(X, sample_weight=[1, 1, 1, 0])
        >>> imputer.estimator_.mean_.tolist()
        [2.0, 4.0]
        """
        return route_to_fit(MetadataRouter(owner=self).add_self_request(self), self._unfitted())

    def _unfitted(self) -> Any:
        """The unfitted estimator that `estimator` stands for."""
        return _default() if self.estimator is None else self.estimator

    def _weights_for(self, estimator: Any, weights: NDArray[Any] | None) -> dict[str, NDArray[Any]]:
        """Parameters by which the `fit` of the estimator receives the weights."""
        if weights is None:
            return {}
        if get_config()["enable_metadata_routing"]:
            return sample_params(self, {"sample_weight": weights}, len(weights))
        model = _steps(estimator)[-1]
        if not has_fit_parameter(model, "sample_weight"):
            raise ValueError(
                f"sample_weight is not supported with estimator={type(model).__name__}, whose fit does not take it."
            )
        if not isinstance(estimator, Pipeline):
            return {"sample_weight": weights}
        takes = [name for name, step in estimator.steps if has_fit_parameter(step, "sample_weight")]
        return {f"{name}__sample_weight": weights for name in takes}

    def _filled(self, X: NDArray[Any]) -> NDArray[Any]:
        """Samples of the features that `fit` has observed, with what is missing filled in."""
        missing = np.isnan(X)
        if not missing.any():
            return X
        *before, model = _steps(self.estimator_)
        samples = X
        for step in before:
            samples = step.transform(samples)
        seed = spawn_seeds(self.random_state, 1)[0] if self.sample_posterior else None
        samples = model.impute(samples, sample=self.sample_posterior, random_state=seed)
        for step in reversed(before):
            samples = step.inverse_transform(samples)
        # Observed values have their own bits, not those of a transformation and its inverse.
        return np.where(missing, np.asarray(samples, dtype=X.dtype), X)

    def _validate(self, X: ArrayLike, reset: bool) -> NDArray[Any]:
        return validate_data(self, X, dtype=FLOAT_DTYPES, ensure_all_finite="allow-nan", reset=reset)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _default() -> Pipeline:
    """Probabilistic PCA of standardized features."""
    steps = StandardScaler(), PCAReducer()
    if get_config()["enable_metadata_routing"]:
        steps = tuple(step.set_fit_request(sample_weight=True) for step in steps)
    return make_pipeline(*steps)


def _held_out_dimension(X: NDArray[Any], weights: NDArray[Any] | None) -> int:
    """The number of components that the samples ask for, once they are standardized."""
    samples = StandardScaler().fit_transform(X.astype(np.float64), sample_weight=weights)
    return held_out_dimension(np.asarray(samples), weights)


def _with_weight(X: NDArray[Any], sample_weight: Any) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """The samples with a weight above zero, and their weights, which are None without any."""
    if sample_weight is None:
        return X, None
    weights = check_weights(sample_weight, X)
    return X[weights > 0], weights[weights > 0]


def _steps(estimator: Any) -> list[Any]:
    """The transformers of a Pipeline and its model, or the model alone."""
    if not isinstance(estimator, Pipeline):
        return [estimator]
    return [step for _, step in estimator.steps if step is not None and step != "passthrough"]
