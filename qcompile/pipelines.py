"""Which passes a model goes through, and why in this order.

traced  -- prepare -->  prepared  -- convert -->  converted  -- lower -->  lowered
"""

from __future__ import annotations

from torch.fx import GraphModule

from qcompile.passes.base import AfterEach, Pass, run
from qcompile.passes.binarize_blocks import BinarizeBlocks
from qcompile.passes.canonicalize import Canonicalize
from qcompile.passes.choose_quantized import ChooseQuantized
from qcompile.passes.commute_maxpool import CommuteMaxpool
from qcompile.passes.convert import Convert
from qcompile.passes.correct_zero_padding import CorrectZeroPadding
from qcompile.passes.drop_clip import DropClip
from qcompile.passes.equalize_layers import EqualizeLayers
from qcompile.passes.fold_batchnorm import FoldBatchnorm
from qcompile.passes.fold_threshold import FoldThreshold
from qcompile.passes.insert_fake_quant import InsertFakeQuant
from qcompile.passes.insert_observers import InsertObservers
from qcompile.passes.lower_binary_conv import LowerBinaryConv
from qcompile.passes.lower_binary_linear import LowerBinaryLinear
from qcompile.passes.merge_duplicates import MergeDuplicates
from qcompile.passes.one_bit import Stays, never
from qcompile.passes.read_exported import ReadExported
from qcompile.passes.read_torch_ao import ReadTorchAo
from qcompile.passes.remove_dropout import RemoveDropout
from qcompile.passes.sink_flatten import SinkFlatten
from qcompile.passes.sink_relu import SinkRelu
from qcompile.passes.unflatten_linear import UnflattenLinear
from qcompile.quant.recipe import Recipe


def read_passes() -> tuple[Pass, ...]:
    """Traced to traced: what the others know how to read."""
    return (
        # Observers and stubs stand between what the others look for.
        ReadTorchAo(),
        # Gives functions, of which the next one knows all spellings.
        ReadExported(),
        # The others know one spelling of each operation.
        Canonicalize(),
    )


def prepare_passes(recipe: Recipe) -> tuple[Pass, ...]:
    """Traced to prepared: what is trained."""
    return (
        *read_passes(),
        # The plan decides whom the following ones touch.
        ChooseQuantized(recipe),
        # For those that the plan gives affine activations; before fresh BatchNorms part them.
        *((EqualizeLayers(),) if recipe.equalize else ()),
        # Moves what stands in front of a layer, so before anything is put directly in front of it.
        BinarizeBlocks(recipe),
        InsertObservers(recipe),
        # Takes the observers in, and ends the traced stage.
        InsertFakeQuant(recipe),
        # Now both sides are modules that know their inference.
        FoldBatchnorm(),
    )


def convert_passes() -> tuple[Pass, ...]:
    """Prepared to converted: integers and functions."""
    return (
        # Before convert, since no module may be left there.
        RemoveDropout(),
        Convert(),
        # Two layers that read one value have each quantized it: once is enough.
        MergeDuplicates(),
    )


def lower_passes(stays: Stays = never) -> tuple[Pass, ...]:
    """Converted to lowered: packed bits, popcount, thresholds.

    Args:
        stays: which layers of one-bit levels and weights are not packed.
    """
    return (
        # Leaves a convolution in place of a linear layer, for all that follow.
        UnflattenLinear(),
        # Turns padding with 0 into padding with +1, the only one that lower-binary-conv can pack.
        CorrectZeroPadding(stays),
        LowerBinaryConv(stays),
        LowerBinaryLinear(stays),
        DropClip(),
        # Two poolings of one value, before and behind its ReLU, are one for the next pass to see.
        SinkRelu(),
        MergeDuplicates(),
        # Needs the packing that lowering put behind each sign, and leaves the sign next to
        # its accumulator, where fold-threshold finds it.
        CommuteMaxpool(),
        FoldThreshold(),
        # What is left in floats behind an accumulator: one kernel with it.
        SinkFlatten(),
        # One sign that feeds two layers was packed twice.
        MergeDuplicates(),
    )


def lower(
    converted: GraphModule, after_each: AfterEach | None = None, stays: Stays = never
) -> GraphModule:
    """The graph that is compiled: the same bits as `converted`, the same nodes at every call.

    Args:
        stays: as in `lower_passes`.
    """
    return run(lower_passes(stays), converted, after_each).graph
