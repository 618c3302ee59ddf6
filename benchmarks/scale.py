"""Beyond one machine: what the parts of a cluster take, counted and timed on this one.

    python benchmarks/scale.py --part NAME [--size GB]

Each part prints what it does while it does it, and ends with the line that belongs on the benchmarks page.
"""

import argparse
import time

PARTS = {}


def part(function):
    """Register a part under the name of its function: it is called with the arguments of the command line."""
    PARTS[function.__name__.replace("_", "-")] = function
    return function


def say(text, start=time.perf_counter()):  # noqa: B008
    """Print a line with the seconds since the beginning."""
    print(f"[{time.perf_counter() - start:7.1f} s] {text}", flush=True)


def main():
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=sorted(PARTS), action="append", required=True)
    parser.add_argument("--size", type=float, help="gigabytes of data, where a part has a choice")
    arguments = parser.parse_args()
    for name in arguments.part:
        say(f"{name}: {PARTS[name].__doc__.splitlines()[0]}")
        PARTS[name](arguments)


if __name__ == "__main__":
    main()
