"""Fixtures for all tests: golden files, and hypothesis without a clock."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from browser import Browser, browser, missing
from golden_text import compare_golden
from hypothesis import settings

# Numbers that test files make when they are read: the same in each test process.
torch.manual_seed(0)

# Nearly all that is made lives on: few things are garbage while test files are read.
gc.set_threshold(5_000, 20, 20)

GOLDEN = Path(__file__).parent / "golden"

# No deadline: two cores are shared, and the first example compiles things. The same examples on
# every run: a failure is one of this change.
settings.register_profile("qcompile", deadline=None, derandomize=True, max_examples=25)
# By hand, for hours: other examples each time, a hundred times as many.
settings.register_profile("deep", deadline=None, max_examples=2500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "qcompile"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write tests/golden instead of comparing"
    )


def pytest_collection_finish() -> None:
    """What PyTorch, TVM and the test files made when they were imported is there to stay: looking it through
    for garbage again and again takes a tenth of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _torch_as_at_the_start() -> Iterator[None]:
    """The same random numbers in whatever order tests run; and one thread, since each test process
    has a core and PyTorch's threads would wait for one another."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A browser, one for all tests of a process."""
    if missing():
        pytest.skip(missing())
    with browser() as found:
        yield found


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden(text, name)` compares a text with `tests/golden/<name>`, or writes it if told so."""
    update = bool(request.config.getoption("--update-golden"))

    def check(text: str, name: str) -> None:
        compare_golden(text, GOLDEN / name, update=update)

    return check
