"""Values of options that several verbs have."""

from __future__ import annotations

from qcompile import Recipe
from qcompile.options import overrides


def test_the_last_override_wins_where_a_pattern_is_there_twice() -> None:
    found = overrides(["fc=8", "*=4", "fc=1/2"])
    assert list(found.items()) == [("*", 4), ("fc", {"weight_bits": 1, "activation_bits": 2})]
    assert Recipe(overrides=found).for_layer("fc", "Linear") == (1, 2)
