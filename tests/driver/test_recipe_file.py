"""Recipes as JSON: whatever fields they have, there and back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from qcompile import Recipe, recipe_file

RECIPES = [
    Recipe(),
    Recipe(32, overrides={"a.b": {"weight_bits": 1, "activation_bits": 4}, "c": "float", "*": 8}),
    Recipe(8, method="affine", mode="static", observer="percentile", first_last_bits=32),
    Recipe(1, method="xnor", k_map=True, estimator="ste"),
    Recipe(weight_bits=2, activation_bits=4, ternary_weights=True, gradient_bits=6),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=range(len(RECIPES)))
def test_there_and_back(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    recipe_file.save(recipe, path)
    again = recipe_file.load(path)
    assert again == recipe
    assert list(again.overrides) == list(recipe.overrides)  # the last that matches wins


def test_every_field_is_said() -> None:
    value = recipe_file.to_json(Recipe())
    assert set(value["recipe"]) == {field.name for field in dataclasses.fields(Recipe)}
    json.dumps(value, allow_nan=False)


def test_what_is_left_out_has_its_default() -> None:
    value = {"format": "qcompile recipe", "version": 1, "recipe": {"bits": 4}}
    assert recipe_file.from_json(value) == Recipe(4)
