"""Size of a fitted model in a file, and the time to write and to load it: pickle, joblib and skops, side by side.

`VAETransformer(8)` on the digits, and `PCAReducer(8)`; medians of 20, the ways in turn. The time to load is that of a
process that has imported everything already.

    python benchmarks/files.py    # about 20 s
"""

import io
import pickle
import time
from functools import partial
from zipfile import ZIP_DEFLATED

import joblib
import numpy as np
import skops.io
from sklearn.datasets import load_digits

from sklatent import PCAReducer, VAETransformer
from sklatent.export import TRUSTED_TYPES

N_TIMES = 20


def main():
    """Print a table for each model."""
    X = load_digits().data / 16
    for model in (VAETransformer(8, random_state=0).fit(X), PCAReducer(8).fit(X)):
        arrays = model.module_.state_dict().values() if hasattr(model, "module_") else [model.components_]
        n_bytes = sum(array.nbytes for array in arrays)
        print(f"{type(model).__name__}: {n_bytes / 1000:.0f} kB of numbers")
        print(f"    {'':20s} {'kB':>8s} {'ratio':>8s} {'write ms':>9s} {'load ms':>9s}")
        found = [measured(model) for _ in range(N_TIMES)]
        for name in WAYS:
            size, writing, loading = np.median([times[name] for times in found], axis=0)
            print(f"    {name:20s} {size / 1000:8.0f} {size / n_bytes:8.2f} {1e3 * writing:9.1f} {1e3 * loading:9.1f}")


def measured(model):
    """Bytes, and seconds to write and to load, of each way."""
    found = {}
    for name, (write, load) in WAYS.items():
        start = time.perf_counter()
        data = write(model)
        middle = time.perf_counter()
        load(data)
        found[name] = len(data), middle - start, time.perf_counter() - middle
    return found


def joblib_dumps(model, compress=0):
    """Bytes of joblib's file."""
    file = io.BytesIO()
    joblib.dump(model, file, compress=compress)
    return file.getvalue()


def joblib_loads(data):
    """The model from the bytes of joblib's file."""
    return joblib.load(io.BytesIO(data))


skops_loads = partial(skops.io.loads, trusted=TRUSTED_TYPES)
WAYS = {
    "pickle": (pickle.dumps, pickle.loads),
    "joblib": (joblib_dumps, joblib_loads),
    "joblib, compress=3": (partial(joblib_dumps, compress=3), joblib_loads),
    "skops": (skops.io.dumps, skops_loads),
    "skops, deflated": (partial(skops.io.dumps, compression=ZIP_DEFLATED), skops_loads),
}

if __name__ == "__main__":
    main()
