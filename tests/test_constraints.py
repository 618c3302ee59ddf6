"""The two files of constraints agree with setup.cfg and with one another."""

import re
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parents[1]


def pins(name):
    return dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / name).read_text(), flags=re.MULTILINE))


def test_lowest_versions_are_those_of_setup_cfg():
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    required = setup["options"]["install_requires"] + setup["options.extras_require"]["test"]
    lowest, tested = pins("constraints-min.txt"), pins("constraints.txt")
    floors = dict(re.findall(r"^([\w-]+)>=(\S+)$", required, flags=re.MULTILINE))
    # One build of PyTorch serves both files; pytz is what only pandas before 3 asks for, and matplotlib 3.8 calls what
    # later versions of pyparsing warn of. Later versions of ml_dtypes need NumPy 2.
    assert floors.keys() <= lowest.keys() <= tested.keys() | {"pytz"}
    for name in lowest.keys() - {"pytz", "pyparsing", "ml_dtypes"}:
        assert lowest[name] == (floors if name in floors.keys() - {"torch"} else tested)[name]
