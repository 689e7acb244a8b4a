"""Convolutions and matrix products of signs and of bytes on a GPU's tensor cores."""

from __future__ import annotations

from dataclasses import replace

import torch

from qcompile.codegen.cuda import epilogue
from qcompile.codegen.cuda.epilogue import Epilogue
from qcompile.codegen.cuda.matrices import STEP, Matrix, matrix_of
from qcompile.codegen.cuda.mma import grid_of, multiply
from qcompile.codegen.cuda.panels import PACKED, pack
from qcompile.codegen.cuda.sign_planes import SignPlanes, pack_planes, sign_planes
from qcompile.codegen.cuda.tiles import Division, divisions
from qcompile.codegen.cuda.writer import MOST_BLOCKS, CudaKernel, CudaWriter, Part
from qcompile.codegen.groups import INTEGER_CONTRACTIONS
from qcompile.ir.ops import WORD

_TARGETS = INTEGER_CONTRACTIONS | {torch.ops.qcompile.xnor_matmul.default}
_FEWEST = 4  # columns of a group, of which a fragment has eight: fewer are not worth it


def tensor_cores(w: CudaWriter) -> CudaKernel | None:
    """A contraction of signs or bytes; None if it is none, or other threads compute it sooner."""
    if w.group.anchor.target not in _TARGETS or w.group.pool is not None:
        return None
    planes = sign_planes(w)
    matrix = planes.matrix if planes is not None else matrix_of(w)
    if matrix is None or (matrix.groups > 1 and matrix.columns < _FEWEST):
        return None
    small, large, most = divisions(matrix, packs=w.group.packs)
    if any(grid_of(matrix, way).y > MOST_BLOCKS for way in (small, large)):
        return None
    columns = _columns(matrix, small, large)
    parts = _parts(matrix, large, columns, most + 1, 0)
    splits = [large.splits]
    if most:
        parts = [*_parts(matrix, small, columns, 1, most), *parts]
        splits.append(small.splits)
    scratch = {}
    if matrix.packed:
        parts = [_packing(matrix, planes), *parts]
        scratch[PACKED] = (matrix.layout.dtype, matrix.layout.size)
    if max(splits) > 1:
        elements = max(splits) * matrix.pixels * matrix.groups * matrix.columns
        scratch[epilogue.PARTIAL] = ("int32", elements)
    kernel = w.kernel(*parts, scratch=scratch, method=_method(matrix, small, large, most))
    return kernel if planes is None else replace(kernel, kind="bit-planes")


def _packing(matrix: Matrix, planes: SignPlanes | None) -> Part:
    if planes is None:
        return Part(lambda w: pack(w, matrix))
    return Part(lambda w: pack_planes(w, planes, PACKED))


def _columns(matrix: Matrix, *ways: Division) -> int:
    """Columns that the weights of a group are filled to: whole blocks, however they are divided."""
    width = max(way.tile.columns for way in ways)
    return -(-matrix.columns // width) * width


def _parts(matrix: Matrix, way: Division, columns: int, least: int, most: int) -> list[Part]:
    def product(w: CudaWriter) -> None:
        then = Epilogue(w, matrix, way)
        multiply(w, matrix, way, columns, then.finish if way.splits == 1 else then.keep)

    first = Part(product, least, most)
    if way.splits == 1:
        return [first]
    return [first, Part(lambda w: epilogue.total(w, matrix, way.splits), least, most)]


def _method(matrix: Matrix, small: Division, large: Division, most: int) -> str:
    """How it is computed, in a few words."""
    kind = "b1" if matrix.signs else "s8" if matrix.signed else "u8"
    depth = STEP * (WORD if matrix.signs else matrix.per_word)
    found = f"{kind} mma {_text(large, depth)}{', packed first' if matrix.packed else ''}"
    return f"{found}; up to {most} samples {_text(small, depth)}" if most else found


def _text(way: Division, depth: int) -> str:
    tile = way.tile
    parts = f", {way.splits} parts" if way.splits > 1 else ""
    return f"{tile.rows}x{tile.columns}x{depth}, {tile.stages} stages{parts}"
