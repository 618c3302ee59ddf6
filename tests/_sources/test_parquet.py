import numpy as np
import pandas as pd
import pytest

from sklatent import AutoencoderTransformer, PCAReducer, VAETransformer
from sklatent._sources import parquet, stored
from sklatent._sources.parquet import ParquetRows, opened

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
ds = pytest.importorskip("pyarrow.dataset")

NAMES = list("fedcba")


@pytest.fixture
def X(rng):
    return rng.standard_normal((1003, 6)) @ rng.standard_normal((6, 6)) + 3


@pytest.fixture
def folder(X, tmp_path):
    """Two files with the columns in different orders, and row groups of several sizes."""
    frame, folder = pd.DataFrame(X, columns=NAMES), tmp_path / "dataset"
    folder.mkdir()
    pq.write_table(pa.Table.from_pandas(frame[:400]), folder / "a.parquet", row_group_size=77)
    pq.write_table(pa.Table.from_pandas(frame[400:][sorted(NAMES)]), folder / "b.parquet", row_group_size=200)
    return folder


@pytest.fixture(params=[1, 1000, 10**6])
def batch_size(request, monkeypatch):
    monkeypatch.setattr(parquet, "BATCH_SIZE", request.param)


@pytest.mark.slow
@pytest.mark.usefixtures("batch_size")
def test_slices_are_those_of_an_array(X, folder, rng):
    rows = ParquetRows(folder)
    assert rows.shape == X.shape
    assert rows.columns == NAMES
    for start, stop in [(0, 10), (10, 11), (11, 600), (600, 600), (5, 1003), (900, 2000), (1003, 1003), (0, 1003)]:
        np.testing.assert_array_equal(rows[start:stop], X[start:stop])
    for _ in range(20):
        start, stop = np.sort(rng.integers(0, 1004, 2))
        np.testing.assert_array_equal(rows[start:stop], X[start:stop])
    for index in (slice(None, None, 7), slice(3, 900, 100), np.array([1, 76, 77, 78, 400, 1002]), np.array([], int)):
        np.testing.assert_array_equal(rows[index], X[index])


def test_reading_in_order_decodes_each_value_once(X, folder, monkeypatch):
    monkeypatch.setattr(parquet, "BATCH_SIZE", 6 * 8 * 10)
    n_decoded = []
    rows = ParquetRows(folder)
    array = rows._array
    rows._array = lambda batch, number: n_decoded.append(batch.num_rows) or array(batch, number)
    for start in range(0, 1003, 33):
        rows[start : start + 33]
    assert sum(n_decoded) == 1003
    assert max(n_decoded) <= 10


def test_a_read_that_fails_is_not_continued(X, folder, monkeypatch):
    rows = ParquetRows(folder)

    def fail(batch, number):
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(rows, "_array", fail)
        with pytest.raises(OSError, match="the disk is gone"):
            rows[0:50]
    np.testing.assert_array_equal(rows[0:50], X[:50])
    np.testing.assert_array_equal(rows[50:90], X[50:90])


@pytest.mark.parametrize("source", [str, lambda path: path, ds.dataset, lambda path: ds.dataset(path / "a.parquet")])
def test_pca_of_a_dataset_is_that_of_memory(X, folder, source):
    found = PCAReducer(2).fit(source(folder))
    X = X[: found.n_samples_]
    assert len(X) in (400, 1003)
    expected = PCAReducer(2).fit(pd.DataFrame(X, columns=NAMES))
    np.testing.assert_allclose(found.components_, expected.components_, atol=1e-10)
    np.testing.assert_allclose(found.explained_variance_, expected.explained_variance_, rtol=1e-10)
    assert found.feature_names_in_.tolist() == NAMES
    with pytest.raises(ValueError, match="The feature names should match"):
        found.transform(pd.DataFrame(X, columns=sorted(NAMES)))


@pytest.mark.slow
@pytest.mark.parametrize("network", [AutoencoderTransformer, VAETransformer])
def test_networks_learn_what_they_learn_from_a_memory_map(X, folder, network, tmp_path, monkeypatch):
    """The same blocks in the same order, so the same bits."""
    monkeypatch.setattr(stored, "MAPPED_SIZE", 0)
    monkeypatch.setattr(stored, "BLOCK_SIZE", 100 * 6 * 8)
    mapped = np.memmap(tmp_path / "X", dtype=X.dtype, mode="w+", shape=X.shape)
    mapped[:] = X
    weights = np.arange(len(X)) % 3.0
    for weight in (None, weights):
        found = network(2, max_epochs=2, random_state=0).fit(folder, sample_weight=weight)
        expected = network(2, max_epochs=2, random_state=0).fit(mapped, sample_weight=weight)
        frame = pd.DataFrame(X, columns=NAMES)
        np.testing.assert_array_equal(found.transform(frame), expected.transform(X))
        np.testing.assert_array_equal(found.score_samples(frame), expected.score_samples(X))
        assert found.feature_names_in_.tolist() == NAMES


def test_missing_values_are_nan(X, folder, tmp_path):
    frame = pd.DataFrame(X, columns=NAMES).mask(np.random.default_rng(0).random(X.shape) < 0.1)
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), tmp_path / "X", row_group_size=99)
    np.testing.assert_array_equal(ParquetRows(tmp_path / "X")[:], frame)
    found, expected = PCAReducer(2).fit(tmp_path / "X"), PCAReducer(2).fit(frame)
    np.testing.assert_allclose(found.components_, expected.components_, atol=1e-10)


def test_types_of_columns(tmp_path):
    whole = {"int": pa.array([1, None, 3]), "bool": pa.array([True, None, False]), "float": pa.array([0.5, None, 1.5])}
    pq.write_table(pa.table(whole), tmp_path / "mixed")
    expected = [[1, 1, 0.5], [np.nan] * 3, [3, 0, 1.5]]
    np.testing.assert_array_equal(ParquetRows(tmp_path / "mixed")[:], expected)
    pq.write_table(pa.table({"a": pa.array([0.5, 1.5], pa.float32())}), tmp_path / "single")
    assert ParquetRows(tmp_path / "single")[:].dtype == np.float32
    pq.write_table(pa.table({"a": [0.5], "name": ["x"]}), tmp_path / "text")
    with pytest.raises(TypeError, match="X must have numeric columns, got column 'name' of string"):
        PCAReducer(1).fit(tmp_path / "text")


def test_index_and_partitions_of_a_dataframe(tmp_path):
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0], "key": [0, 0, 1]}, index=[10, 20, 30])
    frame.to_parquet(tmp_path, partition_cols=["key"])
    rows = ParquetRows(tmp_path)
    assert rows.columns == ["a", "key"]
    np.testing.assert_array_equal(rows[:], [[1, 0], [2, 0], [3, 1]])


def test_what_is_no_dataset_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="filter"):
        PCAReducer(1).fit(ds.dataset(folder).filter(ds.field("a") > 0))
    with pytest.raises(FileNotFoundError):
        PCAReducer(1).fit(tmp_path / "nothing")
    pd.DataFrame({"a": [1.0]}).to_csv(tmp_path / "x.csv")
    with pytest.raises(TypeError, match="X must be a dataset of Parquet files"):
        PCAReducer(1).fit(ds.dataset(tmp_path / "x.csv", format="csv"))
    pq.write_table(pa.table({name: [1.0] for name in NAMES[:5]}), folder / "c.parquet")
    model = PCAReducer(1)
    with pytest.raises(ValueError, match=r"Each file of X must have the column 'a', which .*c.parquet does not"):
        model.fit(folder)
    assert not vars(model).keys() - model.get_params().keys()
    pq.write_table(pa.table({"a": pa.array([], pa.float64())}), tmp_path / "empty")
    with pytest.raises(ValueError, match=r"Found array with 0 sample\(s\)"):
        PCAReducer(1).fit(tmp_path / "empty")


def test_anything_else_stays_as_it_is(X):
    assert opened(X) is X
