from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser import Browser, browser, missing


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A browser, one for all tests of a process."""
    if missing():
        pytest.skip(missing())
    with browser() as found:
        yield found
