"""What is expected of each private name of scikit-learn; where one fails, adapt `_sklearn_compat` and nothing else."""

from email.message import Message
from importlib.metadata import PackageNotFoundError
from numbers import Integral, Real
from typing import ClassVar

import array_api_compat
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn import config_context
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.preprocessing import PowerTransformer, StandardScaler

from sklatent import _sklearn_compat as compat

CALLBACK_METHODS = ("setup", "teardown", "on_fit_task_begin", "on_fit_task_end")


class Estimator(TransformerMixin, BaseEstimator):
    _parameter_constraints: ClassVar = {"size": [compat.Interval(Integral, 1, None, closed="left")]}

    def __init__(self, size=1):
        self.size = size

    @compat.fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        self.is_fitted_ = True
        return self

    def transform(self, X):
        return X

    def get_feature_names_out(self, input_features=None):
        return np.array(["a", "b"], dtype=object)


def test_every_name_has_a_test():
    tests = "".join(name for name in globals() if name.startswith("test_"))
    assert [name for name in compat.__all__ if name.lower() not in tests] == []


def test_fit_context_validates_parameters_before_fit():
    estimator = Estimator(size=0)
    with pytest.raises(ValueError, match=r"The 'size' parameter of Estimator must be an int in the range \[1, inf\)"):
        estimator.fit(None)
    assert not hasattr(estimator, "is_fitted_")
    assert Estimator().fit(None).is_fitted_


def test_check_method_params_takes_those_of_some_samples():
    params = {"sample_weight": np.array([1.0, 2.0, 3.0]), "setting": 7, "none": None}
    found = compat.check_method_params(np.zeros((3, 2)), params, indices=np.array([2, 0]))
    assert found.pop("sample_weight").tolist() == [3.0, 1.0]
    assert found == {"setting": 7, "none": None}


def test_validate_parameters_outside_of_fit():
    compat.validate_parameters(Estimator())
    with pytest.raises(ValueError, match="The 'size' parameter of Estimator must be an int"):
        compat.validate_parameters(Estimator(size=0))


@pytest.mark.parametrize(
    ("constraint", "inside", "outside", "words"),
    [
        (compat.Interval(Real, 0, 1, closed="left"), [0, 0.5], [1, -1, "0.5", None], "a float in the range [0.0, 1.0)"),
        (compat.RealNotInt, [0.5], [1, "a"], None),
        (compat.StrOptions({"a", "b"}), ["a", "b"], ["c", 1], "a str among {'a', 'b'}"),
        (compat.HasMethods(["fit", "transform"]), [PCA()], [object()], "an object implementing 'fit' and 'transform'"),
    ],
    ids=["interval", "realnotint", "stroptions", "hasmethods"],
)
def test_constraints_interval_realnotint_stroptions_hasmethods(constraint, inside, outside, words):
    if words is None:  # a type
        assert all(isinstance(value, constraint) for value in inside)
        assert not any(isinstance(value, constraint) for value in outside)
        return
    assert all(constraint.is_satisfied_by(value) for value in inside)
    assert not any(constraint.is_satisfied_by(value) for value in outside)
    assert sorted(str(constraint)) == sorted(words)  # a set has no order


def test_validate_params_checks_the_arguments_of_a_function():
    @compat.validate_params(
        {"size": [compat.Interval(Integral, 1, None, closed="left")]}, prefer_skip_nested_validation=True
    )
    def function(size):
        return size

    assert function(2) == 2
    with pytest.raises(ValueError, match=r"The 'size' parameter of .*function must be an int in the range"):
        function(0)


def test_check_sample_weight_gives_an_array_of_the_precision_asked_for():
    X = np.zeros((3, 1), dtype=np.float32)
    weights = compat.check_sample_weight([1, 2, 3], X, dtype=np.float64, ensure_non_negative=True)
    assert weights.dtype == np.float64
    with pytest.raises(ValueError, match="Negative values in data passed to `sample_weight`"):
        compat.check_sample_weight([1, -2, 3], X, ensure_non_negative=True)
    with pytest.raises(ValueError, match="sample_weight"):
        compat.check_sample_weight([1, 2], X)


def test_get_namespace_follows_the_switch_of_scikit_learn():
    tensor = torch.zeros(2)
    assert not compat.get_namespace(np.zeros(2))[1]
    pytest.importorskip("scipy", minversion="1.14", reason="array_api_dispatch asks for SciPy 1.14")
    with config_context(array_api_dispatch=True):
        xp, is_array_api = compat.get_namespace(tensor)
    assert is_array_api
    assert xp.__name__.endswith(array_api_compat.array_namespace(tensor).__name__.rpartition(".")[2])


def test_get_container_adapter_makes_what_set_output_asks_for():
    estimator = Estimator()
    assert compat.get_container_adapter("transform", estimator) is None
    adapter = compat.get_container_adapter("transform", estimator.set_output(transform="pandas"))
    frame = adapter.create_container(np.zeros((1, 2)), np.zeros((1, 2)), columns=np.array(["a", "b"], dtype=object))
    assert isinstance(frame, pd.DataFrame)
    assert list(frame) == ["a", "b"]


def test_callbacksupportmixin_and_with_callbacks_leave_an_estimator_usable():
    class WithCallbacks(compat.CallbackSupportMixin, Estimator):
        fit = compat.with_callbacks(Estimator.fit)

    assert WithCallbacks().fit(None).is_fitted_
    if hasattr(WithCallbacks, "set_callbacks"):  # scikit-learn 1.9 on
        assert hasattr(WithCallbacks, "_init_callback_context")


def test_safe_split_gives_the_training_samples_of_a_fold():
    X, y, train = np.arange(10.0).reshape(5, 2), np.arange(5), np.array([0, 3])
    samples, targets = compat.safe_split(Estimator(), X, y, train)
    np.testing.assert_array_equal(samples, X[train])
    np.testing.assert_array_equal(targets, y[train])
    samples, targets = compat.safe_split(Estimator(), pd.DataFrame(X), None, train)
    assert isinstance(samples, pd.DataFrame)
    assert targets is None


class Splits(GridSearchCV):
    """Notes the splits of its splitter as the fused searches see them."""

    def _run_search(self, evaluate_candidates, callback_ctx=None):
        if compat.keeps_cv(self):
            self.splits_ = list(compat.checked_cv(self, [0, 0, 0, 1, 1, 1]).split(np.zeros((6, 1)), [0, 0, 0, 1, 1, 1]))
        super()._run_search(evaluate_candidates, **({} if callback_ctx is None else {"callback_ctx": callback_ctx}))


@pytest.mark.parametrize(
    "cv",
    [3, KFold(2), [([0, 1, 2], [3, 4, 5])], iter([([0, 1, 2], [3, 4, 5])])],
    ids=["number", "splitter", "list", "iterator"],
)
def test_checked_cv_keeps_cv_that_a_search_has_checked(cv):
    search = Splits(DummyClassifier(), {}, cv=cv).fit(np.zeros((6, 1)), [0, 0, 0, 1, 1, 1])
    if hasattr(search, "splits_") or not hasattr(cv, "__next__"):  # kept from scikit-learn 1.9 on
        assert len(search.splits_) == search.n_splits_


def test_callback_context_reports_to_callbacks():
    class WithCallbacks(compat.CallbackSupportMixin, Estimator):
        pass

    context = compat.callback_context(WithCallbacks(), max_subtasks=3)
    assert (context is None) is not hasattr(GridSearchCV, "set_callbacks")
    if context is not None:
        assert hasattr(context, "call_on_fit_task_begin")
        assert hasattr(context.subcontext(task_name="epoch"), "call_on_fit_task_end")


def test_callback_state_is_what_callbacks_keep_on_an_estimator():
    class WithCallbacks(compat.CallbackSupportMixin, Estimator):
        pass

    assert compat.callback_state(Estimator().fit(None)) == {}
    if hasattr(WithCallbacks, "set_callbacks"):
        callback = type("Callback", (), {name: lambda self, *args, **kwargs: None for name in CALLBACK_METHODS})()
        assert len(compat.callback_state(WithCallbacks().set_callbacks(callback))) > 0


def test_has_callbacks_of_scikit_learn():
    assert not compat.has_callbacks(Estimator())
    if hasattr(GridSearchCV, "set_callbacks"):
        callback = type("Callback", (), {name: lambda self, *args, **kwargs: None for name in CALLBACK_METHODS})()
        assert compat.has_callbacks(GridSearchCV(Estimator(), {}).set_callbacks(callback))


@pytest.mark.parametrize("container", [np.asarray, sparse.csr_array, pd.DataFrame, list])
def test_safe_indexing_takes_samples_and_columns(container):
    values = np.arange(6.0).reshape(3, 2)
    X = container(values)
    found = compat.safe_indexing(X, np.array([2, 0]))
    assert np.array_equal(found.toarray() if sparse.issparse(found) else np.asarray(found), values[[2, 0]])
    if container is not list:
        found = compat.safe_indexing(X, [1], axis=1)
        assert np.array_equal(found.toarray() if sparse.issparse(found) else np.asarray(found), values[:, [1]])


def test_column_indices_are_those_of_each_part():
    X = pd.DataFrame(np.eye(4), columns=list("abcd"))
    parts = [("first", StandardScaler(), ["d", "b"]), ("second", "passthrough", slice(2, 3))]
    transformer = ColumnTransformer(parts, remainder="drop").fit(X)
    found = {name: list(indices) for name, indices in compat.column_indices(transformer).items()}
    assert found == {"first": [3, 1], "second": [2], "remainder": [0]}
    assert {name for name, _, _ in transformer.transformers_} == set(found)


@pytest.mark.parametrize("method", ["yeo-johnson", "box-cox"])
def test_power_scaler_is_what_a_power_transformer_applies_last(method):
    X = np.random.default_rng(0).gamma(2.0, size=(50, 3))
    raw = PowerTransformer(method, standardize=False).fit(X)
    transformer = PowerTransformer(method).fit(X)
    assert compat.power_scaler(raw) is None
    np.testing.assert_allclose(compat.power_scaler(transformer).transform(raw.transform(X)), transformer.transform(X))


class Documented(compat.DocLinkMixin, Estimator):
    """Stands in the package, as far as its name goes.

    Parameters
    ----------
    size : int
        How large it is.
    """

    __module__ = "sklatent._anywhere"

    def __init__(self, size=1):
        self.size = size


def test_doclinkmixin_leads_to_the_address_in_the_metadata(monkeypatch):
    found = Message()
    found["Project-URL"] = "Documentation, https://example.org/pages/"
    monkeypatch.setattr(compat, "metadata", lambda name: found)
    box = Documented()._repr_html_()
    assert "https://example.org/pages/api/generated/sklatent.Documented.html" in box
    if hasattr(Documented(), "_repr_html_inner") and "param-doc-link" in box:  # scikit-learn with descriptions
        assert "How large it is." in box


def test_doclinkmixin_without_an_address_leaves_the_link_out(monkeypatch, tmp_path):
    def no_metadata(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(compat, "metadata", no_metadata)
    monkeypatch.setattr(compat, "__file__", str(tmp_path / "sklatent" / "_sklearn_compat.py"))
    assert Documented()._get_doc_link() == ""
    (tmp_path / "docs" / "_build" / "html").mkdir(parents=True)
    (tmp_path / "docs" / "_build" / "html" / "index.html").touch()
    assert Documented()._get_doc_link().startswith("file:///")


def test_stagedsearchmixin_has_room_for_one_task_more():
    class Contexts:
        def _init_callback_context(self, max_subtasks=0):
            return max_subtasks

    class Staged(compat.StagedSearchMixin, Contexts):
        pass

    assert Staged()._init_callback_context(max_subtasks=2) == 3
