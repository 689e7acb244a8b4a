"""The check of `compare`: what counts as right, what it prints, and that what is planted really waits."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sample_reports import disturbed, of_samples

import check_compare
from check_compare import TENTH, Pair
from qcompile.bench import files
from qcompile.bench.results import AGAIN, OURS


def pairs(same: int, slower: int) -> list[Pair]:
    """20 of each kind, so many of them right."""
    found = [Pair(0.0, int(i >= same), (1.0,), (0.05,), 0.1) for i in range(20)]
    return found + [Pair(TENTH, int(i < slower), (1.1,), (0.05,), 0.1) for i in range(20)]


def test_how_often_it_has_to_be_right() -> None:
    assert check_compare.enough(pairs(20, 19))
    assert not check_compare.enough(pairs(19, 20))
    assert not check_compare.enough(pairs(20, 18))
    options = argparse.Namespace(network="n", batch="1", threads="1", processes="5", seconds="1")
    rows = check_compare.sheet(pairs(20, 19), options).rows
    assert rows == (
        ("same program, no regression", "20 of 20", "+0.0% to +0.0%", "5.0%"),
        ("10 % slower, found", "19 of 20", "+10.0% to +10.0%", "5.0%"),
    )
    assert "10% planted: no regression, WRONG (+10.0%;" in check_compare.told(pairs(20, 19)[-1])


@pytest.mark.parametrize(("slower", "code"), [(1.3, 0), (1.0, 1)])
def test_pairs_are_measured_and_compared(
    slower: float,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    random = np.random.default_rng(0)

    def bench(program: Path, path: Path, options: argparse.Namespace) -> None:
        assert program.is_file()
        planted = f"waits-{TENTH}" in os.environ["PYTHONPATH"]
        seconds = 1e-4 * (slower if planted else 1.0)
        run = {key: disturbed(seconds, random, bursts=0.0) for key in (OURS, AGAIN)}
        files.save(of_samples(run), path)

    monkeypatch.setattr(check_compare, "_bench", bench)
    monkeypatch.setattr(check_compare, "network", lambda name: Saved())
    before = os.environ.get("PYTHONPATH")
    result = tmp_path / "r.json"
    assert check_compare.main(["--pairs", "2", "--json", str(result)]) == code
    assert os.environ.get("PYTHONPATH") == before
    out, err = capsys.readouterr()
    assert "same program, no regression" in out
    assert "2 of 2" in out
    assert ("0 of 2" in out) == bool(code)
    assert "pair 2 of 2" in err
    value = json.loads(result.read_text())
    assert [pair["planted"] for pair in value["pairs"]] == [0.0, TENTH] * 2


class Saved:
    """A program that can be saved."""

    def save(self, path: Path) -> None:
        """Not that anyone reads it."""
        path.write_bytes(b"")


def test_what_is_planted_waits(tmp_path: Path) -> None:
    text = """
import time
from qcompile.program import Program

clock = [0.0, 1.0, 1.0, 1.04, 1.08, 1.12]  # begin, end, and looks at it
times = iter(clock)
time.perf_counter = lambda: next(times)
program = Program.__new__(Program)
import sitecustomize
sitecustomize.plain = lambda self, x: x
sitecustomize.time.perf_counter = time.perf_counter
assert program(7) == 7
assert list(times) == REST
"""
    for share, rest in ((0.0, [1.04, 1.08, 1.12]), (TENTH, [])):
        with check_compare.waiting(share, tmp_path):
            script = text.replace("REST", str(rest))
            root = str(Path(check_compare.__file__).parents[1])
            path = os.pathsep.join((os.environ["PYTHONPATH"], root))
            done = subprocess.run(
                [sys.executable, "-c", script],
                check=False,
                env={**os.environ, "PYTHONPATH": path},
                capture_output=True,
                text=True,
            )
        assert done.returncode == 0, done.stderr
