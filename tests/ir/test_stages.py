from __future__ import annotations

import torch
from torch._library.custom_ops import CustomOpDef

from qcompile.ir import dynamic_ops, ops, weight_only_ops
from qcompile.ir.stages import FLOAT_OPS, FUNCTIONS, MODULES_ALLOWED, Stage


def test_each_stage_keeps_what_the_one_before_could_say() -> None:
    traced, prepared, converted, lowered = (FUNCTIONS[s] for s in Stage)
    assert traced == prepared == FLOAT_OPS
    assert prepared < converted < lowered


def test_modules_end_with_conversion() -> None:
    assert {Stage.TRACED, Stage.PREPARED} == MODULES_ALLOWED


def test_every_op_of_the_dialect_has_a_stage() -> None:
    modules = (ops, dynamic_ops, weight_only_ops)
    found = [value for module in modules for value in vars(module).values()]
    defined = {op for op in found if isinstance(op, CustomOpDef)}
    names = {op._qualname for op in defined}
    assert names == {t._schema.name for t in FUNCTIONS[Stage.LOWERED] if t.namespace == "qcompile"}


def test_ops_are_overloads() -> None:
    assert all(isinstance(t, torch._ops.OpOverload) for t in FUNCTIONS[Stage.LOWERED])
