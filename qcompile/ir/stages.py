"""Which ops may stand in a graph, stage by stage.

    traced -> prepared -> converted -> lowered

Traced and prepared graphs hold modules with parameters (that is what is trained) and aten ops.
Converted and lowered graphs hold functions only: dialect ops and the aten ops of FLOAT_OPS, every
constant behind a get_attr. Each stage's graph runs in plain PyTorch.
"""

from __future__ import annotations

from enum import Enum

import torch

from qcompile.ir import (  # noqa: F401  (they define torch.ops.qcompile)
    dynamic_ops,
    ops,
    weight_only_ops,
)


class Stage(Enum):
    TRACED = "traced"
    PREPARED = "prepared"
    CONVERTED = "converted"
    LOWERED = "lowered"


aten, dialect = torch.ops.aten, torch.ops.qcompile

# The float vocabulary: what `canonicalize` turns the many spellings of torch into, and what codegen
# compiles. Arguments are in the order of the aten schema, none by name.
FLOAT_OPS = frozenset(
    {
        aten.convolution.default,  # no transposed ones
        aten.linear.default,
        aten.relu.default,
        aten.hardtanh.default,  # relu6 and clamp too
        aten.leaky_relu.default,
        aten.prelu.default,
        aten.sigmoid.default,
        aten.tanh.default,
        aten.hardsigmoid.default,
        aten.hardswish.default,
        aten.silu.default,
        aten.gelu.default,
        aten.abs.default,
        aten.neg.default,
        aten.add.Tensor,
        aten.sub.Tensor,
        aten.mul.Tensor,
        aten.div.Tensor,
        aten.add.Scalar,
        aten.mul.Scalar,
        aten.max_pool1d.default,
        aten.max_pool2d.default,
        aten.max_pool3d.default,
        aten.avg_pool1d.default,
        aten.avg_pool2d.default,
        aten.avg_pool3d.default,
        aten.mean.dim,  # global pooling
        aten.amax.default,
        aten.pad.default,
        aten.cat.default,
        aten.flatten.using_ints,
        aten.softmax.int,
        aten.log_softmax.int,
    }
)

CONVERTED_OPS = frozenset(
    {
        dialect.sign.default,
        dialect.quantize.default,
        dialect.quantize_unit.default,
        dialect.conv.default,
        dialect.linear.default,
        dialect.scale_shift.default,
        dialect.dynamic_qparams.default,
        dialect.dynamic_quantize.default,
        dialect.dynamic_scale_shift.default,
        dialect.weight_only_conv.default,
        dialect.weight_only_linear.default,
    }
)

LOWERED_OPS = frozenset(
    {
        dialect.threshold.default,
        dialect.bitpack.default,
        dialect.im2col.default,
        dialect.xnor_matmul.default,
        dialect.zero_one.default,
        dialect.border_correction.default,
        dialect.bit_maxpool.default,
    }
)

FUNCTIONS = {
    Stage.TRACED: FLOAT_OPS,
    Stage.PREPARED: FLOAT_OPS,
    Stage.CONVERTED: FLOAT_OPS | CONVERTED_OPS,
    Stage.LOWERED: FLOAT_OPS | CONVERTED_OPS | LOWERED_OPS,
}
MODULES_ALLOWED = frozenset({Stage.TRACED, Stage.PREPARED})
