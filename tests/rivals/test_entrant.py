"""What is made once, and refusals in a line."""

from __future__ import annotations

import logging
import warnings

import pytest
import torch

from qcompile.rivals.entrant import Once, Unavailable, first_tensor, line_of, unavailable_if
from qcompile.rivals.quiet import quiet


def test_something_is_made_once() -> None:
    made: list[int] = []

    def make() -> list[int]:
        made.append(1)
        return made

    once = Once(make)
    assert made == []
    assert once() is once()
    assert made == [1]


def test_a_refusal_is_remembered() -> None:
    asked: list[int] = []

    def make() -> int:
        asked.append(1)
        raise Unavailable("it is not there", "fetch it")

    once = Once(make)
    for _ in range(3):
        with pytest.raises(Unavailable) as refusal:
            once()
        assert (refusal.value.reason, refusal.value.hint) == ("it is not there", "fetch it")
    assert asked == [1]


def test_a_line_of_an_error() -> None:
    assert line_of(ValueError("one\n two \nthree\n")) == "one"
    assert line_of(ValueError("one\n two \nthree\n"), -1) == "three"
    assert line_of(ValueError("  \n")) == "ValueError"
    assert line_of(ValueError("x" * 300)) == "x" * 120 + "…"


def test_only_what_is_meant_is_a_refusal() -> None:
    with pytest.raises(Unavailable, match=r"^no: why$"), unavailable_if(ValueError, saying="no: "):
        raise ValueError("why\nand where")
    with pytest.raises(KeyError), unavailable_if(ValueError):
        raise KeyError("why")


def test_the_first_tensor_of_a_result() -> None:
    x = torch.ones(2, requires_grad=True)
    found = first_tensor((3, {"a": x, "b": torch.zeros(1)}))
    assert found is not None
    assert torch.equal(found, x)
    assert not found.requires_grad
    assert found.data_ptr() != x.data_ptr()
    assert first_tensor({"n": 3}) is None


def _talk() -> None:
    print("printed")
    logging.getLogger("test").critical("logged")
    warnings.warn("warned", stacklevel=1)
    raise KeyError


def test_quiet_leaves_all_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    logging.disable(logging.INFO)
    try:
        with pytest.raises(KeyError), quiet():
            _talk()
        assert logging.root.manager.disable == logging.INFO
    finally:
        logging.disable(logging.NOTSET)
    print("afterwards")
    assert capfd.readouterr() == ("afterwards\n", "")
    with pytest.warns(UserWarning, match="again"):
        warnings.warn("again", stacklevel=1)
