"""The targets of benchmarks/fuzz.py on their seeds, with some bytes changed, and on inputs that once were findings."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TARGETS = ("bundles", "conditions", "bodies", "configs", "csv", "parquet")
SOME = 8
"""Inputs that a test tries of each target: more would only repeat what the fuzzer does better."""

FINDINGS = {
    "bodies": [  # a name twice; the first byte chooses the endpoint
        b'\x00{"queries": [{"user": 3, "ueies": [{"user": 99}], "R": 49}], "queries": 0.5}',
    ],
    "configs": [
        b'[data]\n[tune]\n"model.dim" = {log = 4, high = 64}\n[variants.a]\n"model.dim" = 4\n',  # a key with a dot
        b"[data]\nname = 'simulated'\n[model]\nlayers = [63333333333333333333333]\n",
        b"[data]\nname = 'simulated'\n[model]\nlayers = [633333333333333333]\n",
        b"[data]\nname = 'simulated'\n[model]\ncross = 1\ncross_rank = 633333333333333333\n",
        b"[data]\nname = 'simulated'\n[[model.query]]\nkind = 'category'\ncolumn = 'user_id'\ndim = 63333333333\n",
    ],
    "csv": [
        b"\x0c\r00\r\n",  # no column has a name
    ],
    "parquet": [
        b"\0" + bytes([17] * 4) + bytes(range(40)),  # numbers above 2^63
        b"\0" + bytes([18] * 4) + bytes(range(40)),  # times before those that Python knows
        bytes.fromhex("07080affffba38f80000000000000004"),  # a row group of less than no rows
        bytes.fromhex("ef7102ff"),  # a column whose name is not UTF-8
        bytes.fromhex("29ff0271"),  # a row group that lacks rows
    ],
}
"""What came out once as another error than twotower's, or as a log of nothing."""


@pytest.fixture(scope="module", autouse=True)
def _import_benchmarks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield
        for name in ("fuzz_targets", "fuzz_bundles"):
            sys.modules.pop(name, None)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TARGETS)
def test_only_own_errors_come_out(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    from fuzz_targets import TARGETS as KNOWN

    assert set(TARGETS) == set(KNOWN)
    target = KNOWN[name](tmp_path)
    draw = np.random.default_rng(0)
    request.addfinalizer(target.close)
    for given in [*FINDINGS.get(name, []), *target.seeds[:: max(1, len(target.seeds) // SOME)]]:
        target.run(given)
        changed = bytearray(given)
        for place in draw.integers(len(given), size=2).tolist() if given else ():
            changed[place] = int(draw.integers(256))
        target.run(bytes(changed))
