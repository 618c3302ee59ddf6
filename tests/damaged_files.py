"""Damaged files of skops: what chance, a careless tool or an attacker might make of a model in a file.

The model in a file is either the one that was written, or loading raises. No code of the file runs.
"""

import copy
import io
import json
import pickle
import struct
import sys
import zipfile
from collections import Counter
from functools import partial

import numpy as np
import skops.io

from sklatent._memo import checksum
from sklatent.export import TRUSTED_TYPES

CANARY = "a file has run code"
# Audit events of Python that tell of processes and of unpickling. `exec` is not one of them, since every module that is
# imported for the first time is code.
EVENTS = {"os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "pickle.find_class"}
CLASSES = [
    ("os", "system"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("subprocess", "Popen"),
    ("builtins", "dict"),
    ("builtins", "list"),
    ("builtins", "str"),
    ("collections", "OrderedDict"),
    ("numpy", "ndarray"),
    ("numpy", "float64"),
    ("numpy", "int64"),
    ("numpy", "matrix"),
    ("sklearn.preprocessing._data", "StandardScaler"),
    ("sklearn.decomposition._pca", "PCA"),
    ("torch.nn.modules.linear", "Linear"),
    *(tuple(name.rsplit(".", 1)) for name in TRUSTED_TYPES),
]
LOADERS = ["ObjectNode", "DictNode", "ListNode", "TupleNode", "TypeNode", "JsonNode", "FunctionNode", "MethodNode"]
LOADERS += ["PartialNode", "NdArrayNode", "ConstructorFromReduceNode", "ReduceNode", "CachedNode", "BytesNode", "No"]
VALUES = ["null", "true", "-1", "0", "1e300", "NaN", "10000000000000", '"text"', "[]", "{}"]


class Payload:
    """Runs code if it is unpickled."""

    def __reduce__(self):
        return exec, (f"import sys; sys.stderr.write({CANARY!r}); sys.canary = {CANARY!r}",)


def damage(file, kind, rng):
    """The bytes of a file, damaged in one of the ways of `KINDS`."""
    return KINDS[kind](file, rng)


def flip_bits(file, rng):
    data = bytearray(file)
    for place in rng.integers(8 * len(data), size=rng.integers(1, 9)):
        data[place // 8] ^= 1 << (place % 8)
    return bytes(data)


def truncate(file, rng):
    return file[: rng.integers(len(file))]


def overwrite(file, rng):
    start, n_bytes = rng.integers(len(file)), rng.integers(1, 200)
    return file[:start] + rng.bytes(n_bytes) + file[start + n_bytes :]


def on_entries(change, file, rng):
    """Change the entries of the archive, which is written again with checksums that fit."""
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries, [name for name in entries if name != "schema.json"], rng)
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return data.getvalue()


def swap_entries(entries, arrays, rng):
    one, other = rng.choice(arrays, 2, replace=False)
    entries[one], entries[other] = entries[other], entries[one]


def drop_entry(entries, arrays, rng):
    del entries[rng.choice(list(entries))]


def pickle_in_entry(entries, arrays, rng):
    payload = pickle.dumps(Payload())
    objects = io.BytesIO()
    np.save(objects, np.array([Payload()], dtype=object), allow_pickle=True)
    entries[rng.choice(list(entries))] = payload if rng.random() < 0.5 else objects.getvalue()


def on_array(change, entries, arrays, rng):
    name = rng.choice(arrays)
    data = io.BytesIO()
    np.save(data, change(np.load(io.BytesIO(entries[name])), rng), allow_pickle=False)
    entries[name] = data.getvalue()


def other_shape(array, rng):
    flat = array.reshape(-1)
    shapes = [array[None], array[..., None], np.concatenate([flat, flat]), flat[:0], flat[1:], array.T]
    return one_of(shapes, rng)


def other_type(array, rng):
    return array.astype(rng.choice(["f2", "f4", "f8", "i8", "c16", "U9", "?"]))


def not_finite(array, rng):
    array = array.astype(array.dtype if array.dtype.kind == "f" else "f8")
    array.reshape(-1)[rng.integers(max(array.size, 1)) :] = rng.choice([np.nan, np.inf, -np.inf])
    return array


def other_values(array, rng):
    """Values that the type allows: of those that are there, or a little beside them."""
    values = array.reshape(-1)
    if rng.random() < 0.5 or array.dtype.kind not in "fiu":
        return rng.permutation(values).reshape(array.shape)
    place = rng.integers(max(array.size, 1))
    values[place : place + 1] += values.dtype.type(1)
    return values.reshape(array.shape)


def huge_header(entries, arrays, rng):
    """An array whose header says that it is far larger than the file."""
    name = rng.choice(arrays)
    array = np.load(io.BytesIO(entries[name]))
    shape = tuple(int(n) for n in 10 ** rng.integers(5, 16, size=rng.integers(1, 4)))
    header = f"{{'descr': {array.dtype.str!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    entries[name] = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + array.tobytes()


def on_schema(change, entries, arrays, rng):
    schema = json.loads(entries["schema.json"])
    change(list(nodes(schema)), rng)
    entries["schema.json"] = json.dumps(schema).encode()


def nodes(node):
    """All dicts of a schema, from the root on."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from nodes(child)


def one_of(found, rng):
    return found[rng.integers(len(found))]


def swap_nodes(found, rng):
    homes = [(home, name) for home in found for name, child in home.items() if isinstance(child, dict)]
    (one, ours), (other, theirs) = one_of(homes, rng), one_of(homes, rng)
    one[ours], other[theirs] = copy.deepcopy(other[theirs]), copy.deepcopy(one[ours])


def drop_item(found, rng):
    home = one_of([node for node in found if node], rng)
    del home[one_of(list(home), rng)]


def other_class(found, rng):
    node = one_of([node for node in found if "__class__" in node], rng)
    node["__module__"], node["__class__"] = one_of(CLASSES, rng)


def other_loader(found, rng):
    one_of([node for node in found if "__loader__" in node], rng)["__loader__"] = one_of(LOADERS, rng)


def other_number(found, rng):
    node = one_of([node for node in found if node.get("is_json")], rng)
    node["content"] = one_of(VALUES, rng)


def extra_attribute(found, rng):
    node = one_of([node for node in found if node.get("__loader__") == "DictNode"], rng)
    text = {"__class__": "str", "__module__": "builtins", "__loader__": "TypeNode"}
    name = one_of(["transform", "extra", "_extra", "__class__", "module_", "components_"], rng)
    node["content"][name] = copy.deepcopy(one_of([node for node in found if "__loader__" in node], rng))
    node["key_types"]["content"].append(text)


def call(found, rng):
    """A node that would call a function with an argument."""
    node = one_of([node for node in found if "__loader__" in node], rng)
    text = {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode", "is_json": True, "content": '"0"'}
    arguments = {"__class__": "tuple", "__module__": "builtins", "__loader__": "TupleNode", "content": [text]}
    module, name = one_of([("os", "system"), ("builtins", "eval"), ("builtins", "exec")], rng)
    node.update(__module__=module, __class__=name, __loader__=one_of(LOADERS, rng), content=arguments)


ENTRIES = {
    "entries swapped": swap_entries,
    "entry missing": drop_entry,
    "pickle inside": pickle_in_entry,
    "huge shape": huge_header,
    "other shape": partial(on_array, other_shape),
    "other type": partial(on_array, other_type),
    "not finite": partial(on_array, not_finite),
    "other values": partial(on_array, other_values),
    "nodes swapped": partial(on_schema, swap_nodes),
    "item missing": partial(on_schema, drop_item),
    "other class": partial(on_schema, other_class),
    "other loader": partial(on_schema, other_loader),
    "other number": partial(on_schema, other_number),
    "extra attribute": partial(on_schema, extra_attribute),
    "function call": partial(on_schema, call),
}
KINDS = {"bits flipped": flip_bits, "truncated": truncate, "overwritten": overwrite} | {
    name: partial(on_entries, change) for name, change in ENTRIES.items()
}


class Judge:
    """Loads damaged files of a model, and tells what has become of it.

    Parameters
    ----------
    model : estimator
    X : ndarray of shape (n_samples, n_features)
        What a model that was loaded is compared on.
    """

    def __init__(self, model, X):
        self.X = X
        self.file = skops.io.dumps(model)
        self.expected = self.describe(skops.io.loads(self.file, trusted=TRUSTED_TYPES))

    def describe(self, model):
        """Everything that the state of a model tells, and its scores."""
        return type(model), checksum(model.__getstate__()), model.score_samples(self.X).tobytes()

    def outcome(self, data):
        """ "same", "refused" when it was loaded or "useless" where any use raises, "different", or "code" that ran."""
        _log.clear()
        found = "same"
        try:
            model = skops.io.loads(data, trusted=TRUSTED_TYPES)
        except Exception:
            found = "refused"
        if _log or hasattr(sys, "canary"):
            return "code"
        if found == "refused":
            return found
        try:
            return "same" if self.describe(model) == self.expected else "different"
        except Exception:
            return "useless"

    def count(self, kind, n_files, rng):
        """How often each outcome is that of a file with one kind of damage."""
        return Counter(self.outcome(damage(self.file, kind, rng)) for _ in range(n_files))


_log: list = []
sys.addaudithook(lambda event, arguments: _log.append(event) if event in EVENTS else None)
