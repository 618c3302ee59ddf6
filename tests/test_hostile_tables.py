"""No default fit diverges: benchmarks/defaults.py has all the tables, and these are a part of them."""

import pytest
from hostile_tables import KINDS, fit_half, named_tables, synthetic_table

pytestmark = pytest.mark.slow

NAMED = dict(named_tables())


@pytest.mark.filterwarnings("ignore:The features of X differ in spread")
@pytest.mark.parametrize("kind", KINDS)
def test_a_default_fit_does_not_diverge_on_a_synthetic_table(network, kind):
    outcome = fit_half(network(2, random_state=0), synthetic_table(kind, 0, n_samples=600))
    assert not list(outcome.failures), outcome


@pytest.mark.parametrize(
    ("name", "n_samples", "seed"), [("shuttle", 2000, 0), ("shuttle", 2000, 2), ("rare events", 1000, 2)]
)
def test_a_default_fit_does_not_diverge_where_it_did(network, name, n_samples, seed):
    """That of rare events still does where gradients are not clipped."""
    if name not in NAMED:
        pytest.skip("set SKLATENT_DATA to the folder with hard_tables.npz")
    outcome = fit_half(network(4, random_state=seed), NAMED[name][:n_samples])
    assert not list(outcome.failures), outcome
