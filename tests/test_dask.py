"""Dask arrays and DataFrames: what is fitted to them and what comes of them equals what arrays in memory give."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError

from sklatent import AutoencoderTransformer, PCAReducer, VAETransformer

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
dd = pytest.importorskip("dask.dataframe")


@pytest.fixture(autouse=True)
def in_this_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def X(rng):
    return rng.standard_normal((500, 12)) @ rng.standard_normal((12, 12)) + 5


def lazily(X, *sizes):
    """X in blocks of these sizes, and of what is left."""
    return da.from_array(X, chunks=((*sizes, len(X) - sum(sizes)), *((n,) for n in X.shape[1:])))


def unknown(X):
    """X in blocks of sizes that nobody knows."""
    return X[da.from_array(np.ones(len(X), dtype=bool), chunks=X.chunks[0])]


def uneven(n, n_blocks, rng):
    """Sizes of so many blocks, some of them empty."""
    ends = np.sort(rng.integers(0, n, n_blocks - 1))
    return np.diff([0, *ends, n])[:-1].tolist()


def assert_same_model(found, expected, tolerance=1e-10):
    assert found.n_components_ == expected.n_components_
    assert found.n_samples_ == expected.n_samples_
    np.testing.assert_allclose(found.components_, expected.components_, atol=tolerance)
    scale = expected.explained_variance_[0]
    for name in ("explained_variance_", "noise_variance_", "explained_variance_ratio_"):
        np.testing.assert_allclose(getattr(found, name) / scale, getattr(expected, name) / scale, atol=tolerance)
    np.testing.assert_allclose(found.singular_values_, expected.singular_values_, rtol=tolerance)
    np.testing.assert_allclose(found.mean_, expected.mean_, rtol=tolerance)


SETTINGS = [
    {},
    {"nz": 3},
    {"nz": 0.9},
    {"nz": "mle"},
    {"nz": 3, "whiten": True},
    {"nz": 3, "solver": "covariance"},
    {"nz": 3, "solver": "full"},
    {"nz": 2, "solver": "randomized", "n_iter": 2, "n_oversamples": 1, "random_state": 0},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_pca_of_blocks_is_that_of_memory(X, settings):
    found = PCAReducer(**settings).fit(lazily(X, 100, 0, 1, 250))
    assert_same_model(found, PCAReducer(**settings).fit(X))
    assert_same_model(found, PCAReducer(**settings).fit(unknown(lazily(X, 100, 0, 1, 250))))
    np.testing.assert_allclose(found.score(X), PCAReducer(**settings).fit(X).score(X), rtol=1e-10)


def test_pca_of_blocks_is_scikit_learns(X):
    found, expected = PCAReducer(3).fit(lazily(X, 100, 200)), PCA(3, svd_solver="full").fit(X)
    np.testing.assert_allclose(found.components_, expected.components_, atol=1e-10)
    np.testing.assert_allclose(found.explained_variance_, expected.explained_variance_, rtol=1e-10)
    np.testing.assert_allclose(found.score_samples(X), expected.score_samples(X), rtol=1e-10)


@pytest.mark.parametrize("n_blocks", [1, 2, 9, 65, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_any_number_of_blocks_gives_the_same_model_far_from_the_origin(rng, n_blocks, dtype):
    """X'X without centring, in float32 with a mean of 1e4, is wrong by as much as the variances are."""
    X = (rng.standard_normal((3000, 8)) * np.arange(8, 0, -1) + 1e4).astype(dtype)
    found = PCAReducer(3).fit(lazily(X, *uneven(len(X), n_blocks, rng)))
    exact = PCAReducer(3, solver="full").fit(X.astype(np.float64))
    assert found.components_.dtype == dtype
    assert_same_model(found, exact, 1e-10 if dtype == np.float64 else 1e-6)
    np.testing.assert_allclose(found.score_samples(X[:50]), exact.score_samples(X[:50]), rtol=1e-6)


def test_components_of_little_variance_are_read_from_a_triangle(rng):
    """Their variances are lost in the scatter matrix, as in memory."""
    axes = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    X = (rng.standard_normal((200, 6)) * 10.0 ** -np.arange(0, 12, 2)) @ axes
    found = PCAReducer().fit(lazily(X, 3, 50))
    np.testing.assert_allclose(found.singular_values_, PCA(svd_solver="full").fit(X).singular_values_, rtol=1e-5)


def test_blocks_with_fewer_samples_than_features(rng):
    X = rng.standard_normal((9, 30))
    assert_same_model(PCAReducer(4).fit(lazily(X, 2, 3)), PCAReducer(4).fit(X))
    assert_same_model(PCAReducer().fit(lazily(X, 2, 3)), PCAReducer().fit(X), 1e-7)
    for nz, n in ((10, 9), (31, 9)):
        with pytest.raises(ValueError, match=rf"nz={nz} must be between 1 and min\(n_samples, n_features\)={n}"):
            PCAReducer(nz).fit(lazily(X, 2, 3))


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True])
def test_more_features_than_a_scatter_matrix_holds(rng, weighted):
    """A block Krylov space over the blocks; its result in memory is the same, from the same start."""
    X = rng.standard_normal((300, 20)) * np.arange(20, 0, -1) @ rng.standard_normal((20, 5200)) / 70
    X += 0.1 * rng.standard_normal(X.shape) + 3
    weights = rng.integers(0, 3, len(X)).astype(float) if weighted else None
    settings = {"solver": "randomized", "random_state": 0}
    exact = PCAReducer(5, solver="covariance").fit(X, sample_weight=weights)
    found = PCAReducer(5, **settings).fit(lazily(X, 70, 0, 100), sample_weight=weights)
    assert_same_model(found, exact, 1e-8)
    assert_same_model(PCAReducer(5, random_state=0).fit(lazily(X, 70, 0, 100), sample_weight=weights), exact, 1e-8)
    with pytest.raises(ValueError, match=r"nz=0.9 must be an int for X in blocks with more than 5000 features"):
        PCAReducer(0.9).fit(lazily(X, 70))


@pytest.mark.parametrize("settings", [{"nz": 3}, {"nz": 3, "solver": "full"}, {"nz": 3, "solver": "randomized"}])
def test_weights_count_as_repeated_samples(X, rng, settings):
    weights = rng.integers(0, 3, len(X)).astype(float)
    weights[:100] = 0  # a block of which no sample counts
    expected = PCAReducer(3).fit(X.repeat(weights.astype(int), axis=0))
    blocks = lazily(X, 100, 0, 1, 250)
    for given in (weights, weights.tolist(), da.from_array(weights, chunks=70), lazily(weights, 100, 0, 1, 250)):
        found = PCAReducer(**settings).fit(blocks, sample_weight=given)
        assert_same_model(found, expected)
    mean = found.score(blocks, sample_weight=da.from_array(weights, chunks=50))
    assert mean == pytest.approx(found.score(X, sample_weight=weights), rel=1e-12)
    sizes = 100, 0, 1, 250
    found = PCAReducer(3).fit(unknown(lazily(X, *sizes)), sample_weight=unknown(lazily(weights, *sizes)))
    assert_same_model(found, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights[:-1], r"sample_weight.shape == \(499,\), expected \(500,\)!"),
        (lambda weights: -weights, "Negative values in data passed to `sample_weight`"),
        (lambda weights: weights * np.nan, "Input sample_weight contains NaN"),
        (lambda weights: weights * 0, "Sample weights must contain at least one non-zero number"),
        (lambda weights: weights * 1e-9, "sample_weight must sum to more than 1"),
        (lambda weights: weights * 1e307, "overflows float64"),
        (lambda weights: weights[:, None], "sample_weight must be a 1D array for a dask array X, got a 2D array"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_wrong_weights_are_refused(X, change, message):
    weights = da.from_array(np.ones(len(X)), chunks=100)
    model = PCAReducer(3).fit(X)
    before = dict(vars(model))
    with pytest.raises(ValueError, match=message):
        model.fit(lazily(X, 100), sample_weight=change(weights))
    assert vars(model) == before


def test_weights_of_unknown_blocks_must_be_chunked_alike(X):
    with pytest.raises(ValueError, match=r"sample_weight must be chunked as X .* Got 1 chunks of weights, and 2 of X"):
        PCAReducer(3).fit(unknown(lazily(X, 100)), sample_weight=np.ones(len(X)))
    weights = unknown(lazily(np.ones(len(X)), 101))
    with pytest.raises(ValueError, match=r"sample_weight.shape == \(\d+,\), expected \(\d+,\)!"):
        PCAReducer(3).fit(unknown(lazily(X, 100)), sample_weight=weights)


@pytest.mark.parametrize("weighted", [False, True])
def test_missing_values_are_those_of_memory(X, rng, weighted):
    X[rng.random(X.shape) < 0.1] = np.nan
    weights = rng.integers(0, 3, len(X)).astype(float) if weighted else None
    found = PCAReducer(3).fit(unknown(lazily(X, 100, 0, 1)) if not weighted else lazily(X, 100, 0, 1), None, weights)
    expected = PCAReducer(3).fit(X, sample_weight=weights)
    assert_same_model(found, expected)
    np.testing.assert_allclose(found.transform(lazily(X, 7)), expected.transform(X), atol=1e-9)
    np.testing.assert_allclose(found.score_samples(lazily(X, 7)), expected.score_samples(X), rtol=1e-9)


def test_bad_blocks_leave_the_estimator_as_it_was(X):
    model = PCAReducer(3).fit(X)
    before = dict(vars(model))
    for value, message in ((np.inf, "Input X contains infinity"), (1e200, "The variance of X overflows float64")):
        bad = X.copy()
        bad[400, 3] = value
        with pytest.raises(ValueError, match=message), np.errstate(over="ignore"):
            model.fit(lazily(bad, 100))

    def fail(block):
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        model.fit(lazily(X, 100).map_blocks(fail, dtype=float, meta=np.empty((0, 0))))
    with pytest.raises(ValueError, match=r"Found array with 0 sample\(s\)"):
        model.fit(lazily(X[:0]))
    with pytest.raises(ValueError, match=r"Found array with 0 sample\(s\)"):
        model.fit(lazily(X, 100)[lazily(np.zeros(len(X), dtype=bool), 100)])
    assert vars(model) == before


def test_what_needs_all_samples_is_refused(X):
    with pytest.raises(ValueError, match="nz='parallel' needs all samples in memory"):
        PCAReducer("parallel").fit(lazily(X, 100))
    with pytest.raises(ValueError, match="device='cuda' is not supported for X in blocks"):
        PCAReducer(2, device="cuda").fit(lazily(X, 100))
    with pytest.raises(TypeError, match="impute does not support dask arrays"):
        PCAReducer(2).fit(X).impute(lazily(X, 100))


def test_partial_fit_takes_blocks(X):
    model = PCAReducer(3).partial_fit(lazily(X[:300], 100, 0)).partial_fit(X[300:310]).partial_fit(lazily(X[310:], 7))
    assert_same_model(model, PCAReducer(3).fit(X))
    before = dict(vars(model))
    X[100, 2] = np.nan
    with pytest.raises(ValueError, match="PCAReducer does not accept missing values in partial_fit"):
        model.partial_fit(lazily(X, 90))
    assert vars(model) == before


@pytest.mark.slow
def test_partial_fit_keeps_a_factor_of_many_features(rng):
    X = rng.standard_normal((40, 3)) @ rng.standard_normal((3, 5100)) + 1e-3 * rng.standard_normal((40, 5100))
    model = PCAReducer(3).partial_fit(lazily(X[:30], 9, 0)).partial_fit(lazily(X[30:], 4))
    expected = PCAReducer(3).fit(X)
    np.testing.assert_allclose(model.components_, expected.components_, atol=1e-6)
    np.testing.assert_allclose(model.explained_variance_, expected.explained_variance_, rtol=1e-6)


def fitted(X):
    small = {"max_epochs": 2, "random_state": 0}
    return [PCAReducer(3).fit(X), AutoencoderTransformer(2, **small).fit(X), VAETransformer(2, **small).fit(X)]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_methods_give_what_they_give_in_memory(X, dtype):
    X = X.astype(dtype)
    blocks = unknown(lazily(X, 100, 0, 1, 250))
    for model in fitted(X):
        codes = model.transform(blocks)
        pairs = [
            (codes, model.transform(X)),
            (model.inverse_transform(codes), model.inverse_transform(model.transform(X))),
            (model.score_samples(blocks), model.score_samples(X)),
            (model.score_features(blocks), model.score_features(X)),
        ]
        for found, expected in pairs:
            assert isinstance(found, da.Array)
            assert found.dtype == expected.dtype
            assert found.shape[1:] == expected.shape[1:]
            np.testing.assert_allclose(found.compute(), expected, rtol=1e-4 if dtype == np.float32 else 1e-9, atol=1e-5)
        assert model.score(blocks) == pytest.approx(model.score(X), rel=1e-6 if dtype == np.float32 else 1e-9)


def test_nothing_is_computed_before_it_is_asked_for(X):
    def fail(block):
        raise AssertionError

    blocks = lazily(X, 100).map_blocks(fail, dtype=float, meta=np.empty((0, 0)))
    for model in fitted(X):
        results = [getattr(model, name)(blocks) for name in ("transform", "score_samples", "score_features")]
        assert [result.shape for result in results] == [(500, model.n_components_), (500,), (500, 12)]


def test_a_later_fit_does_not_change_what_was_asked_before(X):
    for model in fitted(X):
        before, lazy = model.transform(X), model.transform(lazily(X, 100))
        model.fit(X * np.arange(1, 13))
        np.testing.assert_allclose(lazy.compute(), before, rtol=1e-9, atol=1e-12)


class Counted(PCAReducer):
    n_pickled = 0

    def __getstate__(self):
        Counted.n_pickled += 1
        return super().__getstate__()


def test_the_model_is_sent_once(X):
    """Not once for each block: neither in the number of pickles nor in the bytes of the graph."""
    model = Counted(3).fit(X)
    graphs = []
    for n_blocks in (1, 100):
        Counted.n_pickled = 0
        codes = model.transform(da.zeros((1000, 12), chunks=(1000 // n_blocks, 12)))
        graphs.append(len(pickle.dumps(dict(codes.__dask_graph__()))))
        assert Counted.n_pickled == 1
    assert graphs[1] - graphs[0] < 100 * 700


def test_names_of_a_dataframe_are_checked(X):
    frame = pd.DataFrame(X, columns=[f"size {i}" for i in range(12)], index=np.arange(1000, 1500))
    blocks = dd.from_pandas(frame, npartitions=4)
    blocks = blocks[blocks["size 0"] > 5]
    kept = frame[frame["size 0"] > 5]
    model = PCAReducer(3).fit(blocks)
    assert_same_model(model, PCAReducer(3).fit(kept))
    assert model.feature_names_in_.tolist() == frame.columns.tolist()
    np.testing.assert_allclose(model.transform(blocks).compute(), model.transform(kept), atol=1e-12)
    for method in (model.transform, model.score_samples, model.score_features):
        with pytest.raises(ValueError, match="The feature names should match those that were passed during fit"):
            method(blocks[frame.columns[::-1]])
        with (
            pytest.warns(UserWarning, match="X does not have valid feature names"),
            pytest.raises(ValueError, match="X has 11 features, but PCAReducer is expecting 12 features"),
        ):
            method(lazily(X[:, :11], 100))


def test_columns_of_other_types_become_floats(X):
    frame = pd.DataFrame({"a": X[:, 0].round(), "b": X[:, 1] > 5, "c": X[:, 2].astype(np.float32), "d": X[:, 3]})
    frame = frame.astype({"a": "Int64"})
    frame.loc[::9, "a"] = pd.NA
    blocks = dd.from_pandas(frame, npartitions=3)
    found, expected = PCAReducer(2).fit(blocks), PCAReducer(2).fit(frame)
    assert_same_model(found, expected)
    np.testing.assert_allclose(found.transform(blocks).compute(), expected.transform(frame), atol=1e-9)


def test_set_output_gives_dataframes_of_dask(X):
    frame = pd.DataFrame(X, columns=[f"size {i}" for i in range(12)], index=np.arange(1000, 1500))
    model = PCAReducer(3).set_output(transform="pandas")
    for blocks in (dd.from_pandas(frame, npartitions=4), dd.from_pandas(frame, npartitions=3, sort=False)):
        codes = model.fit_transform(blocks)
        assert isinstance(codes, dd.DataFrame)
        pd.testing.assert_frame_equal(codes.compute(), model.fit_transform(frame), check_exact=False)
        back = model.inverse_transform(codes)
        pd.testing.assert_frame_equal(back.compute(), model.inverse_transform(model.transform(frame)))
    model.fit(lazily(X, 100))
    assert list(model.transform(unknown(lazily(X, 100))).columns) == ["pcareducer0", "pcareducer1", "pcareducer2"]
    with pytest.raises(TypeError, match=r"set_output\(transform='polars'\) is not supported with dask arrays"):
        model.set_output(transform="polars").transform(lazily(X, 100))


def test_global_configuration_of_the_output_does_not_reach_the_blocks(X):
    from sklearn import config_context

    model = PCAReducer(3).fit(X)
    codes = model.transform(lazily(X, 100))
    with config_context(transform_output="pandas"):
        assert isinstance(codes.compute(), np.ndarray)


def test_columns_in_chunks_are_put_together_with_a_warning(X):
    blocks = da.from_array(X, chunks=(100, 5))
    with pytest.warns(UserWarning, match=r"X is chunked in columns, in 3 chunks: .* Call X.rechunk\({1: -1}\) once"):
        model = PCAReducer(3).fit(blocks)
    assert_same_model(model, PCAReducer(3).fit(X))
    with pytest.warns(UserWarning, match="X is chunked in columns"):
        codes = model.transform(blocks)
    np.testing.assert_allclose(codes.compute(), model.transform(X), atol=1e-12)


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (lambda X: da.from_array(X[:, 0], chunks=100), ValueError, "Expected 2D array, got 1D array instead"),
        (
            lambda X: dask.delayed(X),
            TypeError,
            "X must be a dask array of .* got Delayed",
        ),
        (lambda X: da.ma.masked_greater(lazily(X, 100), 1), TypeError, "X must be a dask array of .* of MaskedArray"),
        (lambda X: lazily(X, 100)[:, lazily(X[0]) > 0], ValueError, "X must have a known number of features"),
        (lambda X: lazily(X[:, :0], 100), ValueError, r"Found array with 0 feature\(s\)"),
        (lambda X: lazily(X, 100).astype(complex), ValueError, "Complex data not supported"),
    ],
)
def test_other_collections_are_refused(X, error, message):
    samples = np.random.default_rng(0).standard_normal((200, 12))
    model = PCAReducer(3).fit(samples)
    for method in (PCAReducer(3).fit, model.transform, model.score_samples):
        with pytest.raises(error, match=message):
            method(X(samples))


def test_an_unfitted_model_says_so(X):
    for method in ("transform", "score_samples", "score_features", "score", "inverse_transform"):
        with pytest.raises(NotFittedError):
            getattr(PCAReducer(2), method)(lazily(X, 100))


def test_integers_become_float64(rng):
    X = rng.integers(0, 100, (300, 4))
    model = PCAReducer(2).fit(lazily(X, 100))
    assert_same_model(model, PCAReducer(2).fit(X))
    assert model.transform(lazily(X, 100)).dtype == np.float64


@pytest.mark.slow
def test_networks_train_on_dask_arrays_slice_by_slice(X):
    blocks = unknown(lazily(X, 100, 0, 1))
    frame = dd.from_pandas(pd.DataFrame(X, columns=list("abcdefghijkl")), npartitions=3)
    for network in (AutoencoderTransformer, VAETransformer):
        expected = network(2, max_epochs=2, random_state=0).fit(Sliced(X))
        model = network(2, max_epochs=2, random_state=0).fit(blocks)
        np.testing.assert_array_equal(model.transform(X), expected.transform(X))
        model.fit(frame)
        assert model.feature_names_in_.tolist() == list("abcdefghijkl")
        np.testing.assert_allclose(model.transform(frame).compute(), expected.transform(X), rtol=1e-9)
    assert np.isnan(blocks.shape[0])


class Sliced:
    """What h5py and zarr have in common."""

    def __init__(self, X):
        self.X, self.shape, self.dtype = X, X.shape, X.dtype

    def __getitem__(self, index):
        return self.X[index]


def test_pca_of_files_is_that_of_memory(X, monkeypatch):
    monkeypatch.setattr("sklatent._sources.stored.BLOCK_SIZE", 70 * 12 * 8)
    weights = np.arange(len(X)) % 3.0
    for dtype in (np.float64, np.float32, np.int64):
        stored = X.astype(dtype)
        assert_same_model(PCAReducer(3).fit(Sliced(stored)), PCAReducer(3).fit(stored.astype(np.float64)), 1e-6)
        assert PCAReducer(3).fit(Sliced(stored)).components_.dtype == PCAReducer(3).fit(stored).components_.dtype
    assert_same_model(PCAReducer(3).fit(Sliced(X), sample_weight=weights), PCAReducer(3).fit(X, sample_weight=weights))
    assert_same_model(PCAReducer(3).partial_fit(Sliced(X)), PCAReducer(3).fit(X))
    X[::7, 2] = np.nan
    assert_same_model(PCAReducer(3).fit(Sliced(X)), PCAReducer(3).fit(X))
    with pytest.raises(ValueError, match=r"Found array with 0 sample\(s\)"):
        PCAReducer(3).fit(Sliced(X[:0]))


def test_no_warning_of_names_in_each_block(X):
    frame = pd.DataFrame(X, columns=list("abcdefghijkl"))
    model = PCAReducer(2).fit(frame)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.score_samples(dd.from_pandas(frame, npartitions=3)).compute()


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_other_schedulers_give_the_same(X, scheduler):
    blocks, models = lazily(X, 100, 0, 150), fitted(X)
    with dask.config.set(scheduler=scheduler, num_workers=2):
        scores = dask.compute(*(model.score_samples(blocks) for model in models))  # in the same two processes
        found = PCAReducer(3).fit(blocks)
    for ours, model in zip(scores, models, strict=True):
        np.testing.assert_allclose(ours, model.score_samples(X), rtol=1e-9)
    np.testing.assert_array_equal(found.components_, PCAReducer(3).fit(blocks).components_)


def test_an_interrupted_fit_changes_nothing(X):
    model = PCAReducer(3).fit(X)
    before = dict(vars(model))

    def interrupt(block):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.fit(lazily(X, 100).map_blocks(interrupt, dtype=float, meta=np.empty((0, 0))))
    assert vars(model) == before
