"""Graph to graph: one file for each pass, named as the pass."""

if __name__ != "qcompile.passes":
    raise ImportError("import qcompile.passes: passes/ is reached through the link qcompile/passes")

from qcompile.passes.base import Declined, Pass, Result, run
from qcompile.passes.binarize_blocks import BinarizeBlocks
from qcompile.passes.canonicalize import Canonicalize
from qcompile.passes.choose_quantized import ChooseQuantized
from qcompile.passes.commute_maxpool import CommuteMaxpool
from qcompile.passes.convert import Convert
from qcompile.passes.correct_bias import CorrectBias
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
from qcompile.passes.read_exported import ReadExported
from qcompile.passes.read_torch_ao import ReadTorchAo
from qcompile.passes.remove_dropout import RemoveDropout
from qcompile.passes.sink_flatten import SinkFlatten
from qcompile.passes.sink_relu import SinkRelu
from qcompile.passes.unflatten_linear import UnflattenLinear

# Every pass there is, in the order in which a model meets them.
PASSES: tuple[type[Pass], ...] = (
    ReadTorchAo,
    ReadExported,
    Canonicalize,
    ChooseQuantized,
    EqualizeLayers,
    BinarizeBlocks,
    InsertObservers,
    InsertFakeQuant,
    FoldBatchnorm,
    CorrectBias,
    RemoveDropout,
    Convert,
    UnflattenLinear,
    CorrectZeroPadding,
    LowerBinaryConv,
    LowerBinaryLinear,
    DropClip,
    SinkRelu,
    CommuteMaxpool,
    FoldThreshold,
    SinkFlatten,
    MergeDuplicates,
)

__all__ = ["PASSES", "Declined", "Pass", "Result", "run"]
