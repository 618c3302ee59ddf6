"""Inventories of other projects from tables of the names that are used here, so that links need no network.

A table has lines of Sphinx's own format: name, domain:role, priority, location, title.
"""

import zlib
from pathlib import Path


def intersphinx(docs, addresses):
    """The `intersphinx_mapping` of projects at addresses: a complete objects.inv where one lies there, or the table.

    Parameters
    ----------
    docs : Path
        Folder with the tables, `inventories/<project>.txt`. For complete links, download the objects.inv of a project
        to `inventories/<project>.inv`.
    addresses : dict
        From the name of a project to the address of its documentation.
    """
    mapping = {}
    for project, address in addresses.items():
        table = docs / "inventories" / f"{project}.txt"
        complete = table.with_suffix(".inv")
        mapping[project] = (address, str(complete if complete.exists() else _compile(table)))
    return mapping


def _compile(table):
    """Write a table as version 2 of Sphinx's inventories, and return its path."""
    header = f"# Sphinx inventory version 2\n# Project: {table.stem}\n# Version:\n"
    header += "# The remainder of this file is compressed using zlib.\n"
    path = table.parents[1] / "_build" / "inventories" / f"{table.stem}.inv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header.encode() + zlib.compress(Path(table).read_bytes()))
    return path
