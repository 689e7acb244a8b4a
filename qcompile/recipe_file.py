"""Recipes as JSON files: every field by its name, whatever fields a Recipe has.

{"format": "qcompile recipe", "version": 1, "recipe": {"bits": 32, "overrides": {...}, ...}}
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Mapping
from typing import Any

from qcompile.errors import QCompileError
from qcompile.files import PathLike, read, write
from qcompile.quant.recipe import Recipe

FORMAT, VERSION = "qcompile recipe", 1


def save(recipe: Recipe, path: PathLike) -> None:
    """Write a recipe, at once or not at all.

    Raises:
        QCompileError: the file cannot be written.
    """
    text = json.dumps(to_json(recipe), indent=1) + "\n"
    write(path, text.encode(), what="the recipe")


def load(path: PathLike) -> Recipe:
    """Read a recipe.

    Raises:
        QCompileError: the file cannot be read, or is no recipe; the message names the field.
    """
    where = str(path)
    try:
        value = json.loads(read(path).decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:  # no text, no JSON, or a number without end
        raise QCompileError(f"is no JSON: {error}", where=where) from error
    except QCompileError as error:
        raise QCompileError(error.what, where=where, hint=error.hint) from error
    try:
        return from_json(value)
    except QCompileError as error:
        raise QCompileError(error.what, where=where, hint=error.hint) from error


def to_json(recipe: Recipe) -> dict[str, Any]:
    """The recipe as what `json.dumps` takes, all fields said."""
    return {"format": FORMAT, "version": VERSION, "recipe": dataclasses.asdict(recipe)}


def from_json(value: object) -> Recipe:
    """The inverse of `to_json`; fields that are left out have their defaults.

    Raises:
        QCompileError: it is no recipe; the message names the field.
    """
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise QCompileError(
            "is no recipe",
            hint='`qcompile search --save` writes one: {"format": "qcompile recipe", ...}',
        )
    if value.get("version") != VERSION:
        raise QCompileError(
            f"is a recipe of version {value.get('version')!r}, this qcompile reads {VERSION}"
        )
    if unknown := sorted(value.keys() - {"format", "version", "recipe"}):
        raise QCompileError(f"the file has the unknown field {unknown[0]!r}")
    fields = value.get("recipe")
    if not isinstance(fields, dict):
        raise QCompileError("recipe is no object")
    hints = typing.get_type_hints(Recipe)
    known = [field.name for field in dataclasses.fields(Recipe)]
    for name, given in fields.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise QCompileError(
                f"recipe has the unknown field {name!r}",
                hint=f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}",
            )
        if not _fits(hints[name], given):
            raise QCompileError(f"recipe.{name} is {json.dumps(given)}, not {_named(hints[name])}")
    return Recipe(**fields)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise QCompileError(f"{name!r} is there {names.count(name)} times")
    return dict(pairs)


def _fits(hint: Any, value: object) -> bool:
    """Whether a JSON value has the type of a field."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(one, value) for one in typing.get_args(hint))
    if origin is not None:
        return isinstance(value, dict) if issubclass(origin, Mapping) else False
    return type(value) is hint


def _named(hint: Any) -> str:
    names = {int: "a whole number", str: "a string", bool: "true or false", type(None): "null"}
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(map(_named, typing.get_args(hint)))
    return names.get(hint, "an object")
