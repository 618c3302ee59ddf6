"""Base class of the latent models: the public methods, with validation, precision and chunking."""

__all__ = [
    "FLOAT_DTYPES",
    "BaseLatentModel",
    "Persistent",
    "SequenceOf",
    "VersionWarning",
    "active_units",
    "all_or_nothing",
    "check_loaded_array",
    "check_total_weight",
    "check_weights",
    "default_parameters",
    "forget_fit",
    "has_method",
    "is_reproducible",
    "learn",
    "learn_many",
    "learns_like",
    "posterior_means",
    "rate_distortion_samples",
    "route",
    "spawn_seeds",
    "training_samples",
    "with_attributes",
]

import inspect
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy, deepcopy
from functools import lru_cache, wraps
from typing import Any, ClassVar, Self

import numpy as np
from array_api_compat import array_namespace, to_device
from array_api_compat import device as device_of
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.utils import assert_all_finite, check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, check_scalar, validate_data

import sklatent
from sklatent._memo import checksum, recall, settings
from sklatent._ppca.blocks import Blocks
from sklatent._ppca.chunks import CHUNK_SIZE, slices
from sklatent._ppca.moments import total_weight
from sklatent._sklearn_compat import (
    DocLinkMixin,
    Interval,
    callback_state,
    check_sample_weight,
    fit_context,
    get_container_adapter,
    validate_parameters,
)
from sklatent._sources.dask_arrays import (
    is_lazy,
    lazy_array,
    lazy_frame,
    lazy_mean,
    lazy_meta,
    lazy_weights,
    map_samples,
)
from sklatent._sources.stored import read

FLOAT_DTYPES = [np.float64, np.float32]
# A latent dimension is active if the variance of its posterior mean over the samples is larger than this (Burda et al.
# 2016, section 5.1).
MIN_ACTIVITY = 0.01


class VersionWarning(InconsistentVersionWarning):
    """Warns that an estimator was written by another version of this package."""

    def __str__(self) -> str:
        return (
            f"Trying to load {self.estimator_name} from sklatent {self.original_sklearn_version} with sklatent "
            f"{self.current_sklearn_version}. It may give other results. Load it with the version that wrote it, or "
            "fit it again."
        )


class Persistent:
    """An estimator whose state tells the version that wrote it, and is refused if it is damaged.

    The state, which pickle, joblib and skops write, has a checksum of its numbers and of its text. A subclass may
    replace objects in it by numbers (`_pack_state`), and make them again from numbers that it has checked
    (`_unpack_state`). Copies in memory share or copy the attributes as they are.
    """

    def __getstate__(self) -> dict[str, Any]:
        attributes: Any = super().__getstate__()
        state = self._pack_state(dict(attributes))
        state["_sklatent_version"] = sklatent.__version__
        return state | {"_checksum": checksum([type(self).__qualname__, state])}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        expected = state.pop("_checksum", None)
        found = checksum([type(self).__qualname__, state])
        version = state.pop("_sklatent_version", "unknown")
        try:
            # A later version may have parameters that an earlier one did not write.
            attributes = self._unpack_state(default_parameters(type(self)) | state)  # type: ignore[arg-type]
            if any(name.endswith("_") for name in attributes):  # `fit` checks those of the others
                validate_parameters(with_attributes(type(self), attributes))
        except Exception as error:  # a state with wrong contents can cause any error
            raise ValueError(f"Cannot load {type(self).__name__}: {error}") from error
        if found != expected:
            raise ValueError(f"Cannot load {type(self).__name__}: its state is damaged, as its checksum tells.")
        if version != sklatent.__version__:
            warnings.warn(
                VersionWarning(
                    estimator_name=type(self).__name__,
                    current_sklearn_version=sklatent.__version__,
                    original_sklearn_version=version,
                )
            )
        super().__setstate__(attributes)  # type: ignore[misc]

    def __copy__(self) -> Any:
        return with_attributes(type(self), vars(self))

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        twin = memo[id(self)] = with_attributes(type(self), {})
        vars(twin).update(deepcopy(vars(self), memo))
        return twin

    def _pack_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """The state with objects replaced by numbers."""
        return state

    def _unpack_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """The attributes from a state. Raise ValueError, which names the attribute, if they do not fit together."""
        return state


class BaseLatentModel(Persistent, DocLinkMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A generative model p(z) p(x | z) with an encoder.

    The public methods validate their input, cut it into chunks and call the hooks of the subclass: `_learn` and
    `_publish`, `_encode`, `_decode`, `_log_prob`, `_feature_log_prob`, `_rate_distortion`, `_posterior_mean`,
    `_sample`, `_impute`. Hooks need no checks: they receive two-dimensional float32 or float64 arrays with the right
    number of features, of at most about `_CHUNK_SIZE` values (in `_learn`, all samples). The values are finite or NaN,
    which stands for a missing value. `_learn` sets nothing on the
    estimator; `_publish` sets the fitted attributes from what it returns.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {}
    _CHUNK_SIZE = CHUNK_SIZE
    _N_SCORE_ROWS = 128
    # How `learn_many` learns, in a word; the parameters in which models that it learns together may differ; and whether
    # a fit without a seed learns something else each time.
    _ROUTE: ClassVar[str] = "individual"
    _free_parameters: frozenset[str] = frozenset()
    _is_random = True

    n_components_: int

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Around the container that scikit-learn makes of the result: it would load a dask array into memory.
        for name in ("transform", "fit_transform"):
            method = getattr(cls, name)
            if (lazy := _lazily(method)) is not method:
                setattr(cls, name, lazy)

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the model to X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training data. float32 and float64 are used as they are; other types are converted to float64. Memory maps,
            arrays of h5py or zarr, dask arrays and DataFrames, and Parquet datasets (the path of a folder or file, or a
            `pyarrow.dataset.Dataset`) are read in blocks.
        y : Ignored
            Not used, present for API consistency by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Individual weights for each sample. A sample with weight 2 counts as two copies of it, in the loss and in
            all that is estimated from the samples; a sample with weight 0 is left out.

        Returns
        -------
        self : object
            The fitted estimator. If `fit` raises an exception, the estimator is unchanged.

        See Also
        --------
        fit_transform : Fits, and returns the latent codes of X.

        Examples
        --------
        >>> from sklatent import AutoencoderTransformer
        >>> from sklearn.datasets import load_iris
        >>> AutoencoderTransformer(1, max_epochs=2, random_state=0).fit(load_iris().data).n_components_
        1
        """
        with all_or_nothing(self):
            if not getattr(self, "warm_start", False):
                forget_fit(self)
            X = self._validate_training_rows(X)
            weights = self._check_weights(sample_weight, X)
            if not isinstance(X, Blocks):  # which are counted when they are read
                self._check_weight(*total_weight(weights, X.shape[0]))
            self._publish(self._learn_or_recall(X, weights))
        return self

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """Encode X into latent codes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples to encode.

        Returns
        -------
        Z : ndarray of shape (n_samples, n_components)
            Latent codes, in the precision of X. The result is deterministic. For a dask array or DataFrame it is a dask
            array, computed block by block when it is asked for.

        See Also
        --------
        inverse_transform : From latent codes to samples.

        Examples
        --------
        >>> from sklatent import VAETransformer
        >>> from sklearn.datasets import load_iris
        >>> X = load_iris().data
        >>> VAETransformer(2, max_epochs=2, random_state=0).fit(X).transform(X[:5]).shape
        (5, 2)
        """
        check_is_fitted(self)
        X = self._validate_rows(X)
        return self._by_chunks(self._encode, X)

    def inverse_transform(self, Z: ArrayLike) -> NDArray[Any]:
        """Decode latent codes into their expectations E[x | z].

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components)
            Latent codes.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            Expectation of x given each latent code, in the precision of Z. If `set_output` requests a DataFrame, it has
            the feature names seen during `fit`, or else x0, x1, ... For a dask array it is a dask array.

        See Also
        --------
        transform : From samples to latent codes.
        sample : Latent codes from the latent density, decoded.

        Examples
        --------
        >>> from sklatent import PCAReducer
        >>> from sklearn.datasets import load_iris
        >>> X = load_iris().data
        >>> pca = PCAReducer(3).fit(X)
        >>> bool(abs(pca.inverse_transform(pca.transform(X)) - X).max() < 0.5)  # centimetres
        True
        """
        check_is_fitted(self)
        if is_lazy(Z):
            return self._decode_lazily(Z)
        codes = check_array(Z, dtype=self._float_dtypes(Z), estimator=self, input_name="Z")
        self._check_n_codes(codes)
        return self._in_container(self._by_chunks(self._decode, codes), Z)

    def _check_n_codes(self, codes: Any) -> None:
        if codes.shape[1] != self.n_components_:
            raise ValueError(
                f"Z has {codes.shape[1]} features, but {type(self).__name__} is expecting {self.n_components_} "
                "features as latent codes."
            )

    def impute(self, X: ArrayLike, *, sample: bool = False, random_state: Any = None) -> NDArray[Any]:
        """Fill in missing values, by what the model expects given the observed values of each sample.

        The conditional expectation is exact for `PCAReducer`. `VAETransformer` estimates it by `n_draws` importance
        samples of z given the observed values, and `AutoencoderTransformer` takes E[x | z] at the most probable latent
        code given the observed values. Both are exact in the limit for a linear decoder with Gaussian likelihood.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples, with NaN as missing values.
        sample : bool, default=False
            Whether to fill in a random sample of the missing values given the observed values, instead of their
            expectation. Several of them, with different random states, are multiple imputations: their spread shows how
            uncertain the missing values are.
        random_state : int, RandomState instance or None, default=None
            Controls the random samples. Pass an int for reproducible results. Not used if `sample` is False.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            The samples without missing values, in the precision of X. Observed values are those of X. If `set_output`
            requests a DataFrame, it has the feature names seen during `fit`, or else x0, x1, ...

        See Also
        --------
        score_samples : Log-likelihood of the observed values.
        LatentImputer : The same as a step of a Pipeline.

        References
        ----------
        Mattei & Frellsen (2019), "MIWAE: deep generative modelling and imputation of incomplete data sets", section 3.
        Rubin (1987), "Multiple imputation for nonresponse in surveys".

        Examples
        --------
        >>> import numpy as np
        >>> from sklatent import PCAReducer
        >>> pca = PCAReducer(1).fit([[1.0, 2.0], [2.0, 4.1], [3.0, 5.9], [4.0, 8.0]])
        >>> pca.impute([[2.5, np.nan]]).round(1)
        array([[2.5, 5. ]])
        """
        check_is_fitted(self)
        if is_lazy(X):
            raise TypeError(
                f"{type(self).__name__}.impute does not support dask arrays. Pass a block of them at a time."
            )
        samples = self._validate_rows(X)
        if hasattr(samples, "toarray"):
            raise TypeError(f"{type(self).__name__}.impute does not support sparse inputs. Pass a dense X.")
        assert_all_finite(samples, allow_nan=True, estimator_name=type(self).__name__, input_name="X")
        self._check_scorable(samples)
        xp = array_namespace(samples)
        incomplete = xp.any(xp.isnan(samples), axis=1)
        filled = xp.asarray(samples, copy=True)
        if xp.any(incomplete):
            rng = np.random.default_rng(spawn_seeds(random_state, 1)[0]) if sample else None
            filled[incomplete, ...] = self._imputed(samples[incomplete, ...], rng)
        return self._in_container(filled, X)

    def _imputed(self, X: NDArray[Any], rng: np.random.Generator | None) -> NDArray[Any]:
        """Incomplete samples with what is missing filled in."""
        xp = array_namespace(X)
        n_values, max_samples = self._n_score_values(), self._N_SCORE_ROWS
        filled = self._by_chunks(lambda part: self._impute(part, rng), X, n_values=n_values, max_samples=max_samples)
        return xp.where(xp.isnan(X), xp.astype(filled, X.dtype, copy=False), X)

    def _in_container(self, rows: NDArray[Any], like: Any) -> Any:
        """Samples in the container that `set_output` requests, with the index of X or Z."""
        adapter = get_container_adapter("transform", self)
        if adapter is None:
            return rows
        return adapter.create_container(rows, like, columns=self._feature_names())

    def _feature_names(self) -> NDArray[np.object_]:
        names = getattr(self, "feature_names_in_", [f"x{i}" for i in range(self.n_features_in_)])
        return np.asarray(names, dtype=object)

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """Score each sample of X in nats."""
        if is_lazy(X):
            return self._score_lazily("score_samples", X)
        return self._scores(self._log_prob, X)

    def score_features(self, X: ArrayLike) -> NDArray[np.float64]:
        """Score each value of X in nats, given the other values of its sample.

        The least score of a sample points to the value that does not fit the others.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples to score.

        Returns
        -------
        scores : ndarray of shape (n_samples, n_features), float64
            log p(x_j | all other features) of each value, in nats: exact for `PCAReducer` and for linear networks with
            a Gaussian likelihood, and an estimate otherwise, from what `score_samples` computes. For a dask array it is
            a dask array.

        See Also
        --------
        score_samples : The score of each sample.

        Examples
        --------
        >>> from sklatent import AutoencoderTransformer
        >>> from sklearn.datasets import load_iris
        >>> autoencoder = AutoencoderTransformer(2, max_epochs=20, random_state=0).fit(load_iris().data)
        >>> int(autoencoder.score_features([[5.1, 3.5, 1.4, 2.4]]).argmin())  # whose petals are too wide
        3
        """
        check_is_fitted(self)
        if is_lazy(X):
            return self._score_lazily("score_features", X, self.n_features_in_)
        return self._scores(self._feature_log_prob, X)

    def score(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> float:
        """Compute the mean score of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples to score.
        y : Ignored
            Not used, present for API consistency by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Individual weights for each sample.

        Returns
        -------
        score : float
            Mean of `score_samples` in nats per sample; larger is better.

        See Also
        --------
        score_samples : The score of each sample.
        sklatent.metrics.log_likelihood_scorer : Compares Pipelines with different scalers.

        Examples
        --------
        >>> from sklatent import PCAReducer
        >>> from sklearn.datasets import load_iris
        >>> X = load_iris().data
        >>> PCAReducer(2).fit(X).score(X) > PCAReducer(1).fit(X).score(X)
        True
        """
        scores = self.score_samples(X)
        if is_lazy(scores):
            return lazy_mean(scores, None if sample_weight is None else lazy_weights(sample_weight, scores))
        weights = self._check_weights(sample_weight, scores)
        xp = array_namespace(scores)
        if weights is None:
            return float(xp.mean(scores))
        kept = weights > 0  # a score of -inf times a weight of zero would be NaN
        return float((scores[kept] @ weights[kept]) / xp.sum(weights))

    def sample(self, n_samples: int = 1, *, mean: bool = False, random_state: Any = None) -> NDArray[Any]:
        """Generate samples: z from the latent density, then x given z.

        Parameters
        ----------
        n_samples : int, default=1
            Number of samples to generate.
        mean : bool, default=False
            Whether to return E[x | z] instead of sampling x given z, that is, to leave out the observation noise.
        random_state : int, RandomState instance or None, default=None
            Controls the generated samples. Pass an int for reproducible results.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features), float64
            Generated samples.

        See Also
        --------
        inverse_transform : Decodes latent codes of your own.

        Examples
        --------
        >>> from sklatent import PCAReducer
        >>> from sklearn.datasets import load_iris
        >>> PCAReducer(2).fit(load_iris().data).sample(3, random_state=0).shape
        (3, 4)
        """
        check_is_fitted(self)
        check_scalar(n_samples, "n_samples", (int, np.integer), min_val=1)
        return self._sample(n_samples, mean, spawn_seeds(random_state, 1)[0])

    def _learn(self, X: NDArray[Any], weights: NDArray[Any] | None = None) -> Any:
        """What the model learns from X; pure, but for a `random_state` that moves on."""
        raise NotImplementedError

    def _publish(self, learned: Any) -> None:
        """Set the fitted attributes."""
        raise NotImplementedError

    @classmethod
    def _learn_many(
        cls, models: Sequence[Any], Xs: Sequence[NDArray[Any]], weights: Sequence[Any] | None = None, **limits: Any
    ) -> list[Any]:
        """What each of many models learns, where they can learn together, and None elsewhere."""
        return [None] * len(models)

    def _learn_or_recall(self, X: NDArray[Any], weights: NDArray[Any] | None) -> Any:
        """What a search has learned for a model like this from the same samples, or else what `_learn` does."""
        is_new = not (hasattr(self, "n_components_") or isinstance(X, Blocks))  # a warm start goes on from what it has
        known = recall(self, X, weights) if is_new else None
        return learn(self, X, weights) if known is None else known

    def _encode(self, X: NDArray[Any]) -> NDArray[Any]:
        raise NotImplementedError

    def _decode(self, Z: NDArray[Any]) -> NDArray[Any]:
        raise NotImplementedError

    def _log_prob(self, X: NDArray[Any]) -> NDArray[Any]:
        raise NotImplementedError

    def _feature_log_prob(self, X: NDArray[Any]) -> NDArray[Any]:
        raise NotImplementedError

    def _rate_distortion(self, X: NDArray[Any]) -> NDArray[Any]:
        """KL divergence of q(z | x) from p(z), and minus the mean of ln p(x | z) over q(z | x), in nats, (n, 2)."""
        raise NotImplementedError

    def _posterior_mean(self, X: NDArray[Any]) -> NDArray[Any]:
        """Mean of q(z | x) in coordinates in which p(z) is N(0, I), or was trained from it."""
        return self._encode(X)

    def _sample(self, n_samples: int, mean: bool, seed: int) -> NDArray[Any]:
        raise NotImplementedError

    def _impute(self, X: NDArray[Any], rng: np.random.Generator | None) -> NDArray[Any]:
        """The expectation of every value given the observed values of its sample, or a random sample if there is rng.

        Each sample has a missing value. Observed values are not used.
        """
        raise NotImplementedError

    def _scores(self, hook: Callable[[NDArray[Any]], NDArray[Any]], X: ArrayLike) -> NDArray[np.float64]:
        """What a hook gives for X, in float64."""
        scores = self._score_by_chunks(hook, X)
        xp = array_namespace(scores)
        return xp.astype(scores, xp.float64, copy=False)

    def _check_scorable(self, X: NDArray[Any]) -> None:
        """Raise ValueError if p(x) is not defined for X."""

    def _validate_training_rows(self, X: ArrayLike) -> NDArray[Any]:
        return validate_data(self, X, dtype=FLOAT_DTYPES, ensure_all_finite="allow-nan")

    def _validate_rows(self, X: ArrayLike) -> NDArray[Any]:
        return validate_data(self, X, dtype=FLOAT_DTYPES, ensure_all_finite="allow-nan", reset=False)

    def _validate_lazy(self, X: Any, *, reset: bool) -> Any:
        """X as a dask array of float32 or float64, once its features are checked; no value is computed."""
        meta = validate_data(
            self, lazy_meta(X), dtype=FLOAT_DTYPES, ensure_all_finite=False, ensure_min_samples=0, reset=reset
        )
        return lazy_array(X, meta.dtype)

    def _validate_stored(self, X: Any, *, reset: bool) -> Any:
        """X that is read by slices, once its features are checked by its first sample."""
        validate_data(self, read(X, slice(0, 1)), dtype=FLOAT_DTYPES, ensure_all_finite=False, reset=reset)
        if reset and hasattr(X, "columns"):
            self.feature_names_in_ = np.asarray(X.columns, dtype=object)
        return X

    def _transform_lazily(self, X: Any) -> Any:
        check_is_fitted(self)
        codes = self._map_blocks("transform", self._validate_lazy(X, reset=False), self.n_components_)
        return self._in_lazy_container(codes, self.get_feature_names_out(), X)

    def _decode_lazily(self, Z: Any) -> Any:
        meta = check_array(lazy_meta(Z), dtype=FLOAT_DTYPES, ensure_min_samples=0, estimator=self, input_name="Z")
        self._check_n_codes(meta)
        samples = self._map_blocks("inverse_transform", lazy_array(Z, meta.dtype, "Z"), self.n_features_in_)
        return self._in_lazy_container(samples, self._feature_names(), Z)

    def _score_lazily(self, method: str, X: Any, n_columns: int | None = None) -> Any:
        check_is_fitted(self)
        return self._map_blocks(method, self._validate_lazy(X, reset=False), n_columns, np.float64)

    def _map_blocks(self, method: str, X: Any, n_columns: int | None, dtype: Any = None) -> Any:
        """What a method gives for each block of a dask array, by a copy that no later fit changes.

        The names of the features are checked already, and the moments of `partial_fit` are not needed.
        """
        model = copy(self)
        for name in {"feature_names_in_", "moments_"} & set(vars(model)):
            delattr(model, name)
        model = deepcopy(model).set_output(transform="default")
        return map_samples(model, method, X, n_columns, dtype or X.dtype)

    def _in_lazy_container(self, array: Any, names: Any, like: Any) -> Any:
        """A dask array as what `set_output` requests: pandas stands for a dask DataFrame."""
        adapter = get_container_adapter("transform", self)
        if adapter is None:
            return array
        if adapter.container_lib != "pandas":
            raise TypeError(
                f"set_output(transform={adapter.container_lib!r}) is not supported with dask arrays. Use 'default' or "
                "'pandas', which gives a dask DataFrame."
            )
        return lazy_frame(array, names, like)

    def _check_weights(self, sample_weight: Any, X: Any) -> Any:
        """The weights of the samples in float64; None if all of them are one, which changes nothing."""
        if sample_weight is None:
            return None
        weights = check_weights(sample_weight, X)
        return None if bool((weights == 1).all()) else weights

    def _check_weight(self, weight: float, n_samples: int) -> None:
        """Raise ValueError if the total weight of the training samples is too small."""
        if n_samples > 1 and weight <= 1:
            raise ValueError(
                f"sample_weight must sum to more than 1. Got {weight!r}. A sample with weight w counts as w samples."
            )

    def _float_dtypes(self, X: Any) -> list[Any]:
        """The precisions that X may have; other types are converted to the first."""
        return FLOAT_DTYPES

    def _n_score_values(self) -> int:
        """Number of values that `_log_prob` and `_feature_log_prob` hold in memory for each sample."""
        return self.n_features_in_

    def _score_by_chunks(self, hook: Callable[[NDArray[Any]], NDArray[Any]], X: Any) -> NDArray[Any]:
        """Validate X, and call a hook on chunks of it that stay in the cache; larger ones are slower."""
        check_is_fitted(self)
        X = self._validate_rows(X)
        self._check_scorable(X)
        n_values, max_samples = self._n_score_values(), self._N_SCORE_ROWS
        return self._by_chunks(lambda samples: hook(_dense(samples)), X, n_values=n_values, max_samples=max_samples)

    def _by_chunks(
        self,
        hook: Callable[..., NDArray[Any]],
        *arrays: NDArray[Any],
        n_values: int | None = None,
        max_samples: int | None = None,
    ) -> NDArray[Any]:
        """Call a hook on chunks of arrays that belong together, and join what it gives.

        The hook holds n_values values for each sample in memory, which are those of X by default.
        """
        n_values = n_values or self.n_features_in_
        results: Any = None
        for cut in slices(arrays[0].shape[0], self._CHUNK_SIZE, n_values, max_samples=max_samples):
            part = hook(*(array[cut] for array in arrays))
            if results is None:  # allocated once, since fresh memory costs more than the arithmetic of many hooks
                shape = (arrays[0].shape[0], *part.shape[1:])
                results = array_namespace(part).empty(shape, dtype=part.dtype, device=device_of(part))
            results[cut, ...] = part
        return results

    @property
    def _n_features_out(self) -> int:
        return self.n_components_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def learn_many(
    models: Sequence[BaseLatentModel], Xs: Sequence[NDArray[Any]], weights: Sequence[Any], **limits: Any
) -> list[Any]:
    """What many models learn, those of each family together.

    Parameters
    ----------
    models : sequence of estimator
        With the parameters of their fits. They stay as they are, but for a `random_state` that moves on.
    Xs : sequence of ndarray of shape (n_samples, n_features)
    weights : sequence of ndarray of shape (n_samples,) or None
        What `training_samples` has made of the samples of each and of their weights. Models that share samples or
        weights share the array.
    **limits
        For networks: `max_models` to train as one, `n_beside`, the number of processes or threads that train others at
        the same time, and `progress`, which is told of the stacks.

    Returns
    -------
    learned : list
        For each model what `_learn` returns, the exception that ended its training, or None where nothing else can
        learn together with it.
    """
    learned: list[Any] = [None] * len(models)
    families: list[Any] = [
        next(base for base in type(model).__mro__ if "_learn_many" in vars(base)) for model in models
    ]
    for family in dict.fromkeys(families):
        numbers = [k for k, found in enumerate(families) if found is family]
        chosen = ([values[k] for k in numbers] for values in (models, Xs, weights))
        outcomes = family._learn_many(*chosen, **limits)
        for k, outcome in zip(numbers, outcomes, strict=True):
            learned[k] = outcome
    return learned


def rate_distortion_samples(model: BaseLatentModel, X: ArrayLike) -> NDArray[np.float64]:
    """Rate and distortion of each sample under a fitted model, in nats, (n_samples, 2)."""
    return np.asarray(to_device(model._score_by_chunks(model._rate_distortion, X), "cpu"), dtype=np.float64)


def posterior_means(model: BaseLatentModel, X: ArrayLike) -> NDArray[Any]:
    """Mean of q(z | x) of each sample under a fitted model, in the units of the prior, (n_samples, n_components)."""
    return np.asarray(to_device(model._score_by_chunks(model._posterior_mean, X), "cpu"))


def active_units(means: NDArray[Any], weights: NDArray[Any] | None = None) -> NDArray[np.bool_]:
    """Mask of the latent dimensions that are used, by the posterior means of some samples."""
    if weights is None:
        return means.var(axis=0) > MIN_ACTIVITY
    deviations = means - np.average(means, axis=0, weights=weights)
    return np.average(np.square(deviations), axis=0, weights=weights) > MIN_ACTIVITY


def learn(model: BaseLatentModel, X: NDArray[Any], weights: NDArray[Any] | None = None) -> Any:
    """What a model learns by itself, from what `training_samples` has made of its samples and their weights."""
    return model._learn(X) if weights is None else model._learn(X, weights)


def is_reproducible(model: BaseLatentModel) -> bool:
    """Whether another fit to the same samples learns the same."""
    return getattr(model, "random_state", None) is not None or not model._is_random


def learns_like(model: BaseLatentModel) -> Hashable:
    """Equal for models that `learn_many` may learn together, if their samples allow it."""
    return type(model), settings(model, without=model._free_parameters)


def route(model: BaseLatentModel) -> str:
    """How `learn_many` learns models of this family, in a word."""
    return model._ROUTE


def training_samples(model: BaseLatentModel, X: ArrayLike, sample_weight: Any = None) -> tuple[NDArray[Any], Any]:
    """X and the weights as the `fit` of a model hands them on: checked, and in a precision that the model takes."""
    samples = copy(model)._validate_training_rows(X)  # which notes the features of X on the copy
    return samples, model._check_weights(sample_weight, samples)


class SequenceOf(Interval):
    """scikit-learn's `Interval` constraint for each element of a list or tuple.

    Parameters
    ----------
    type, left, right, closed
        The parameters of `Interval`.
    length : int or None, default=None
        Required number of elements. None allows any number.
    """

    def __init__(self, type: Any, left: Any, right: Any, *, closed: str, length: int | None = None):
        super().__init__(type, left, right, closed=closed)
        self.length = length

    def is_satisfied_by(self, val: Any) -> bool:
        if not isinstance(val, (list, tuple)) or self.length not in (None, len(val)):
            return False
        return all(super(SequenceOf, self).is_satisfied_by(element) for element in val)

    def __str__(self) -> str:
        size = "" if self.length is None else f" of length {self.length}"
        return f"a list or tuple{size} whose every element is {super().__str__()}"


@lru_cache
def default_parameters(cls: Any) -> dict[str, Any]:
    """Defaults of the parameters of an estimator."""
    parameters = inspect.signature(cls).parameters.items()
    return {name: parameter.default for name, parameter in parameters if parameter.default is not parameter.empty}


def with_attributes(cls: type, attributes: dict[str, Any]) -> Any:
    """An instance with these attributes, and without a call of its constructor."""
    instance: Any = object.__new__(cls)
    vars(instance).update(attributes)
    return instance


def check_loaded_array(
    name: str, array: Any, shape: Sequence[int], dtypes: Sequence[Any] = FLOAT_DTYPES, *, least: float = -np.inf
) -> None:
    """Raise ValueError unless an array of a state has this shape, one of these types, and finite values of at least.

    Parameters
    ----------
    name : str
    array : object
    shape : sequence of int
    dtypes : sequence of dtype, default=(float64, float32)
    least : float, default=-inf
        Smallest value that is allowed.
    """
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name} must be an array of shape {tuple(shape)}, got {type(array).__name__}.")
    if array.shape != tuple(shape) or array.dtype not in dtypes:
        names = " or ".join(np.dtype(dtype).name for dtype in dtypes)
        raise ValueError(
            f"{name} must be an array of {names} of shape {tuple(shape)}, got {array.dtype.name} of shape "
            f"{array.shape}."
        )
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity.")
    if array.size and float(array.min()) < least:
        raise ValueError(f"{name} must not be less than {least}, got {array.min()}.")


def check_weights(sample_weight: Any, X: Any) -> Any:
    """The weights of the samples of X in float64. Raise ValueError if they are not weights, or not of these samples."""
    weights = check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    with np.errstate(over="ignore"):
        check_total_weight(*total_weight(weights, X.shape[0]))
    return weights


def check_total_weight(total: float, n_samples: int) -> None:
    """Raise ValueError unless a weight is above zero, and their sum is finite."""
    if n_samples == 0:
        raise ValueError("Sample weights must contain at least one non-zero number.")
    if not np.isfinite(total):
        raise ValueError("sample_weight must have a finite sum. Rescale the weights: their sum overflows float64.")


def forget_fit(estimator: BaseEstimator) -> None:
    """Delete the fitted attributes, so that a refit leaves none of the previous ones behind."""
    for name in [name for name in vars(estimator) if name.endswith("_") and not name.startswith("__")]:
        delattr(estimator, name)


def has_method(name: str) -> Callable[[Any], bool]:
    """Condition of `available_if`: the estimator of a meta-estimator, fitted or not, has this method.

    An estimator of None stands for one of this package, which has them all.
    """

    def condition(self: Any) -> bool:
        estimator = getattr(self, "estimator_", self.estimator)
        return estimator is None or hasattr(estimator, name)

    return condition


def spawn_seeds(random_state: Any, n_seeds: int) -> list[int]:
    """Independent seeds from `random_state`. The global generators are not used, even if it is None."""
    if random_state is None:
        return [int(seed) for seed in np.random.SeedSequence().generate_state(n_seeds)]
    return [int(seed) for seed in check_random_state(random_state).randint(2**31 - 1, size=n_seeds)]


def _lazily(method: Callable[..., Any]) -> Callable[..., Any]:
    """`transform` or `fit_transform`, which gives a dask array for dask arrays."""
    if getattr(method, "_takes_dask", False):
        return method

    @wraps(method)
    def wrapped(self: Any, X: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_lazy(X):
            return method(self, X, *args, **kwargs)
        if method.__name__ == "fit_transform":
            self.fit(X, *args, **kwargs)
        return self._transform_lazily(X)

    wrapped._takes_dask = True  # type: ignore[attr-defined]
    return wrapped


def _dense(X: Any) -> Any:
    """A dense, C-contiguous X: matrix products with the column-major array of a DataFrame would round differently."""
    X = X.toarray() if hasattr(X, "toarray") else X
    return np.ascontiguousarray(X) if isinstance(X, np.ndarray) else X


@contextmanager
def all_or_nothing(estimator: BaseEstimator) -> Iterator[None]:
    """Restore the attributes of an estimator if the block raises, also for KeyboardInterrupt.

    Attributes that scikit-learn's callbacks need for their teardown afterwards are kept.
    """
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        callbacks = callback_state(estimator)
        vars(estimator).clear()
        vars(estimator).update(before | callbacks)
        raise
