"""A recipe's overrides: how they are written, and what is said where one names no layer."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from qcompile.errors import QCompileError
from qcompile.ir.plan import FLOAT_BITS

KINDS = ("Conv1d", "Conv2d", "Conv3d", "Linear")
Override = int | str | Mapping[str, int]
FLOAT = "float"
_ALIKE = 0.6  # of difflib's ratio, from which on a name may be a slip of another
_NAMED = 4  # layers that a hint names; of more it says how many


def parse(text: str) -> Override | None:
    """An override as it is written: "8", "1/4" (weights/activations) or "float"; None for others."""
    weight, slash, activation = text.partition("/")
    if text == FLOAT:
        return text
    if weight.isdecimal() and not slash:
        return int(weight)
    if weight.isdecimal() and activation.isdecimal():
        return {"weight_bits": int(weight), "activation_bits": int(activation)}
    return None


def checked(pattern: object, override: object) -> Override:
    """An override with its text read.

    Raises:
        QCompileError: it is none, or its pattern is no text.
    """
    hint = 'values are bits, "1/4" (weights/activations), "float", or {"weight_bits": 4}'
    if not isinstance(pattern, str) or not pattern:
        raise QCompileError(f"overrides: {pattern!r} is no module path", hint=hint)
    name = f"overrides[{pattern!r}]"
    read = parse(override) if isinstance(override, str) else override
    if read is None and override is not None:
        raise QCompileError(f"{name}: unknown value {override!r}", hint=hint)
    if isinstance(read, Mapping):
        unknown = set(read) - {"weight_bits", "activation_bits"}
        if unknown or not read:
            what = ", ".join(repr(key) for key in sorted(unknown, key=str)) or "nothing"
            raise QCompileError(f"{name}: cannot set {what}", hint=hint)
        for key, value in read.items():
            check_bits(f"{name}[{key!r}]", value)
    elif read != FLOAT:
        check_bits(name, read)
    return read  # type: ignore[return-value]


def check_bits(name: str, value: object, *, least: int = 1, most: int = FLOAT_BITS) -> None:
    """Raises: QCompileError: no number of bits from `least` to 8, nor 32 where `most` is that."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if whole and (least <= value <= 8 or value == FLOAT_BITS <= most):  # type: ignore[operator]
        return
    floats = ", or 32 for float" if most == FLOAT_BITS else ""
    raise QCompileError(f"{name} must be {least} to 8{floats}, not {value!r}")


def which_layers(pattern: str, layers: Sequence[str], others: Sequence[str] = ()) -> str:
    """A hint where a pattern matches no layer: which one may have been meant, or which there are.

    Args:
        layers: paths of those that there are.
        others: paths and classes of modules that are none of them: naming one is no slip.
    """
    if not layers:
        return "the model has none"
    near = difflib.get_close_matches(pattern, [*layers, *KINDS], n=1, cutoff=_ALIKE)
    if near and pattern not in others and not pattern.isdecimal():
        return f"did you mean {near[0]!r}?"
    more = f" and {len(layers) - _NAMED} more" if len(layers) > _NAMED else ""
    return f"its layers are {', '.join(layers[:_NAMED])}{more}"
