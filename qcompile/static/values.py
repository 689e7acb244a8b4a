"""Integers in SASS: what control flow is computed from, for one thread.

A value is an int of 32 bits, without sign, or None where it is not known: what was loaded, floats,
high words of addresses. Predicates are 0, 1 or None.
"""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Callable, Mapping

from qcompile.static.sass import Instruction

Value = int | None
State = dict[str, Value]

MASK = 0xFFFFFFFF

_PREDICATE = re.compile(r"!?U?P[T\d]$")
_CONSTANT = re.compile(r"(c\[0x\w+\])\[(0x\w+)\]")
_REGISTER = re.compile(r"U?R(?:\d+|Z)$")
_FIXED: Mapping[str, Value] = {"RZ": 0, "URZ": 0, "SRZ": 0, "PT": 1, "UPT": 1}
_COMPARE: Mapping[str, Callable[[int, int], bool]] = {
    "LT": lambda a, b: a < b,
    "LE": lambda a, b: a <= b,
    "GT": lambda a, b: a > b,
    "GE": lambda a, b: a >= b,
    "EQ": lambda a, b: a == b,
    "NE": lambda a, b: a != b,
}


def is_predicate(operand: str) -> bool:
    return _PREDICATE.match(operand) is not None


def is_register(name: str) -> bool:
    return _REGISTER.match(name) is not None


def written(one: Instruction) -> tuple[str, ...]:
    """The registers and predicates that an instruction writes.

    Predicates may stand before the destination and, where carries come out, after it.
    """
    if one.name in _NO_RESULT:
        return ()
    found: list[str] = []
    places = iter(one.operands)
    for operand in places:
        name = _bare(operand)
        if is_predicate(operand):
            found.append(name)
            continue
        if is_register(name) and one.name not in _ONLY_PREDICATES:
            found += _registers(name, _width(one))
            carries = itertools.takewhile(is_predicate, places)
            found += [_bare(carry) for carry in carries]
        break
    if one.name in _ONLY_PREDICATES:
        found = found[:2]
    return tuple(name for name in found if name not in _FIXED)


def read(one: Instruction) -> set[str]:
    """All registers and predicates among its operands, and its guard."""
    names = {_bare(operand) for operand in (*one.operands, one.guard)}
    found = {name for name in names if is_predicate(name) or is_register(name)} - _FIXED.keys()
    return found.union(*(_registers(name, _width(one)) for name in found if is_register(name)))


def value(state: State, operand: str) -> Value:
    """What an operand is: a register, with a sign or inverted, an immediate, a constant."""
    text = operand.replace(".reuse", "")
    if text.startswith("-") and not text[1:2].isdigit():
        inner = value(state, text[1:])
        return None if inner is None else -inner & MASK
    if text.startswith("~"):
        inner = value(state, text[1:])
        return None if inner is None else ~inner & MASK
    if text.startswith("|"):
        inner = value(state, text[1:-1])
        return None if inner is None else abs(signed(inner))
    if text in _FIXED:
        return _FIXED[text]
    if text in state:
        return state[text]
    try:
        return int(text, 0) & MASK
    except ValueError:
        return None


def predicate(state: State, operand: str) -> Value:
    """What a predicate is; "" is true."""
    if not operand:
        return 1
    known = value(state, operand.lstrip("!"))
    return known if known is None or not operand.startswith("!") else 1 - known


def signed(number: int) -> int:
    return number - (1 << 32) if number >> 31 else number


def execute(state: State, one: Instruction) -> None:
    """Do what an instruction does to registers and predicates."""
    guard = predicate(state, one.guard)
    if guard == 0:
        return
    effect = _EFFECTS.get(one.name) if guard else None
    result = effect(state, one) if effect else {}
    for name in written(one):
        state[name] = result.get(name)


def _bare(operand: str) -> str:
    return operand.replace(".reuse", "").lstrip("-~!|").rstrip("|").removesuffix(".64")


def _width(one: Instruction) -> int:
    """How many registers, one after the other, its results are."""
    if one.name in ("BMMA", "IMMA"):
        return 2 if one.modifiers[0].startswith("88") else 4
    if one.name == "LDSM":
        return int(one.modifiers[-1]) if one.modifiers[-1].isdigit() else 1
    if "128" in one.modifiers:
        return 4
    wide = {"64", "WIDE"} & set(one.modifiers) or (one.name == "CS2R" and "32" not in one.modifiers)
    return 2 if wide else 1


def _registers(first: str, count: int) -> list[str]:
    """Registers one after the other: R4, R5, ..."""
    kind, number = first.rstrip("0123456789Z"), first.lstrip("UR")
    return [first] if number == "Z" else [f"{kind}{int(number) + i}" for i in range(count)]


def _sources(state: State, one: Instruction) -> list[Value]:
    """Values of all operands that are no predicates, without the first, the destination."""
    rest = [operand for operand in one.operands if not is_predicate(operand)]
    return [value(state, operand) for operand in rest[1:]]


def _destination(one: Instruction) -> str:
    return next(_bare(operand) for operand in one.operands if not is_predicate(operand))


# --- what instructions do: state, instruction -> values by register ---------------------------------


def _computed(formula: Callable[..., int]) -> Callable[[State, Instruction], State]:
    """A result of 32 bits of the sources, where all are known."""

    def effect(state: State, one: Instruction) -> State:
        sources = _sources(state, one)
        if None in sources:
            return {}
        return {_destination(one): formula(*sources) & MASK}

    return effect


def _add(state: State, one: Instruction) -> State:
    sources = _sources(state, one)
    if None in sources or "X" in one.modifiers:
        return {}
    return {_destination(one): sum(s for s in sources if s is not None) & MASK}


def _multiply_add(state: State, one: Instruction) -> State:
    sources = _sources(state, one)
    if "X" in one.modifiers or len(sources) < 3:
        return {}
    a, b, c = sources[:3]
    if a is None or b is None or c is None:
        return {}
    if "HI" not in one.modifiers and "WIDE" not in one.modifiers:
        return {_destination(one): (a * b + c) & MASK}
    upper = value(state, _second(_bare(one.operands[-1])))  # the addend has 64 bits
    if "U32" not in one.modifiers:
        a, b = signed(a), signed(b)
    high = None if upper is None else ((a * b + c >> 32) + upper) & MASK
    if "HI" in one.modifiers:
        return {_destination(one): high}
    pair = _registers(_destination(one), 2)
    return dict(zip(pair, ((a * b + c) & MASK, high), strict=False))


def _logic(state: State, one: Instruction) -> State:
    sources = _sources(state, one)[:4]
    if None in sources or len(sources) < 4:
        return {}
    a, b, c, table = (int(s or 0) for s in sources)
    result = 0
    for row in range(8):
        if table >> row & 1:
            terms = [x if row >> bit & 1 else ~x for x, bit in ((a, 2), (b, 1), (c, 0))]
            result |= terms[0] & terms[1] & terms[2]
    told: State = {_destination(one): result & MASK}
    told |= {_bare(p): int(result & MASK != 0) for p in one.operands[:2] if is_predicate(p)}
    return told


def _predicate_logic(state: State, one: Instruction) -> State:
    inputs = [predicate(state, operand) for operand in one.operands[2:5]]
    tables = [int(operand, 0) for operand in one.operands[5:7]]
    if None in inputs:
        # A table of one value needs no inputs.
        known = {0: 0, 0xFF: 1}
        return {d: known.get(t & 0xFF) for d, t in zip(one.operands[:2], tables, strict=False)}
    row = sum(int(p or 0) << bit for p, bit in zip(inputs, (2, 1, 0), strict=True))
    return {d: t >> row & 1 for d, t in zip(one.operands[:2], tables, strict=False)}


def _compare(state: State, one: Instruction) -> State:
    operation, *rest = one.modifiers
    a, b = (value(state, operand) for operand in one.operands[2:4])
    other = predicate(state, one.operands[4]) if len(one.operands) > 4 else 1
    if a is None or b is None or other is None or "EX" in rest or operation not in _COMPARE:
        return {}
    if "U32" not in rest:
        a, b = signed(a), signed(b)
    held = _COMPARE[operation](a, b)
    combine = max if "OR" in rest else min
    told = (combine(int(held), other), combine(int(not held), other))
    return dict(zip(one.operands[:2], told, strict=True))


def _shift(state: State, one: Instruction) -> State:
    low, amount, high = [*_sources(state, one), None, None, None][:3]
    if amount is None:
        return {}
    amount = min(amount, 32)
    if "L" in one.modifiers:
        return {} if low is None else {_destination(one): low << amount & MASK}
    source = high if "HI" in one.modifiers else low
    if source is None:
        return {}
    number = signed(source) if "S32" in one.modifiers else source
    return {_destination(one): number >> amount & MASK}


def _scaled_add(state: State, one: Instruction) -> State:
    sources = _sources(state, one)
    if None in sources or "X" in one.modifiers:
        return {}
    a, b, *rest = (int(s or 0) for s in sources)
    if "HI" in one.modifiers:
        upper = rest[0] if "SX32" not in one.modifiers else -(a >> 31)
        return {_destination(one): ((upper << 32 | a) << rest[-1] >> 32) + b & MASK}
    return {_destination(one): (a << rest[-1]) + b & MASK}


def _extreme(state: State, one: Instruction) -> State:
    sources = _sources(state, one)[:2]
    least = predicate(state, one.operands[-1])
    if None in sources or least is None:
        return {}
    order = (lambda x: x) if "U32" in one.modifiers else signed
    known = [int(s or 0) for s in sources]
    return {_destination(one): (min if least else max)(known, key=order)}


def _select(state: State, one: Instruction) -> State:
    which = predicate(state, one.operands[-1])
    if which is None:
        return {}
    return {_destination(one): value(state, one.operands[1 if which else 2])}


def _halves(state: State, one: Instruction) -> State:
    """0 * 0 + a pair of halves is how the compiler loads some constants."""
    if [_bare(operand) for operand in one.operands[1:3]] != ["RZ", "RZ"]:
        return {}
    try:
        pair = [float(operand) for operand in one.operands[3:5]]
        high, low = (struct.unpack("<H", struct.pack("<e", half))[0] for half in pair)
    except (ValueError, OverflowError):
        return {}
    return {_destination(one): high << 16 | low}


def _sign_extended(a: int, bits: int) -> int:
    return (a & (1 << bits) - 1) - (a << 1 & 1 << bits)


def _move(state: State, one: Instruction) -> State:
    source = _bare(one.operands[1])
    sources = [one.operands[1]]
    if _width(one) == 2:
        sources = [source, _second(source)]
    targets = _registers(_destination(one), len(sources))
    return {t: value(state, s) for t, s in zip(targets, sources, strict=True)}


def _second(source: str) -> str:
    """The upper half of 64 bits."""
    if constant := _CONSTANT.match(source):
        return f"{constant[1]}[{int(constant[2], 16) + 4:#x}]"
    return _registers(source, 2)[-1] if is_register(source) else "0"


_NO_RESULT = ("BRA", "JMP", "BRX", "JMX", "EXIT", "RET", "CALL", "BAR", "WARPSYNC", "NANOSLEEP")
# Their first register is a source.
_ONLY_PREDICATES = ("ISETP", "UISETP", "PLOP3", "UPLOP3", "FSETP", "DSETP", "HSETP2", "FCHK")
_EFFECTS: Mapping[str, Callable[[State, Instruction], State]] = {
    **dict.fromkeys(("MOV", "UMOV", "S2R", "S2UR", "CS2R", "R2UR", "LDC", "LDCU", "ULDC"), _move),
    **dict.fromkeys(("IADD3", "UIADD3", "IADD", "VIADD"), _add),
    **dict.fromkeys(("IMAD", "UIMAD"), _multiply_add),
    **dict.fromkeys(("LOP3", "ULOP3"), _logic),
    **dict.fromkeys(("PLOP3", "UPLOP3"), _predicate_logic),
    **dict.fromkeys(("ISETP", "UISETP"), _compare),
    **dict.fromkeys(("SHF", "USHF"), _shift),
    **dict.fromkeys(("LEA", "ULEA"), _scaled_add),
    **dict.fromkeys(("IMNMX", "UIMNMX", "VIMNMX"), _extreme),
    **dict.fromkeys(("SEL", "USEL"), _select),
    "HFMA2": _halves,
    "IABS": _computed(lambda a: abs(signed(a))),
    "SGXT": _computed(_sign_extended),
}
