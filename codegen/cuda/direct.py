"""Products without tensor cores: every convolution and matrix product that nothing else takes.

whole samples, few of them     a warp adds up a row of weights     vectors.py
many places and channels       tiles in shared memory              tiled.py
few channels, short sums       a thread for each element           elements.py
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from qcompile.codegen.cuda.elements import elements
from qcompile.codegen.cuda.integer_products import Bytes, Integers
from qcompile.codegen.cuda.level_products import Levels
from qcompile.codegen.cuda.products import Product
from qcompile.codegen.cuda.sign_products import Signs
from qcompile.codegen.cuda.tiled import Tile, tiled
from qcompile.codegen.cuda.vectors import WARPS, vectors
from qcompile.codegen.cuda.writer import MOST_BLOCKS, WARP, CudaKernel, CudaWriter, Part
from qcompile.codegen.dots.signs import XnorDot
from qcompile.codegen.groups import CONTRACTIONS, INTEGER_CONTRACTIONS, WEIGHT_ONLY
from qcompile.codegen.kernels.contraction import contraction_of
from qcompile.ir.ops import WORD

_LONG = 64  # units of a sum that a warp adds up
_FEW_SAMPLES = 16
_FEW_CHANNELS = 20  # of a group: less than two thirds of a warp's lanes
_SHORT = 8  # units of a sum: half a step of a tile
_BLOCKS = 216  # two for each of the processors of a large GPU
_MANY = 1 << 14  # elements of a result: a quarter of them are threads enough
_PLACES = 4
_SMALLER, _SMALLEST = (Tile(8, 2), Tile(8, 1)), Tile(4, 1)


def direct(w: CudaWriter) -> CudaKernel | None:
    """The kernel of a group whose anchor is a convolution or matrix product.

    Raises:
        QCompileError: a rank or an option that is not compiled.
    """
    if w.group.anchor.target not in CONTRACTIONS:
        return None
    product = product_of(w)
    name, few = "elements", [Part(partial(elements, product, _places(product)), most=_FEW_SAMPLES)]
    many = max(-(-product.channels // WARP), product.c.groups) > MOST_BLOCKS
    if product.c.whole and product.units >= _LONG and not many:
        name, few = "vectors", _vectors(product)
    if many or not _can_tile(w, product):
        return w.kernel(*few[:-1], replace(few[-1], most=0), method=name)
    if product.c.whole:
        return _tiled(w, product, few, f"{name}, then ")
    return _tiled(w, product)


def product_of(w: CudaWriter) -> Product:
    """Read a group's contraction.

    Raises:
        QCompileError: a rank or an option that is not compiled.
    """
    target = w.group.anchor.target
    if target in INTEGER_CONTRACTIONS:
        c = contraction_of(w, w.machine, "int8")
        return Bytes(c, Bytes.lie_together(w, c)) if Bytes.fits(w, c) else Integers(c)
    if target in WEIGHT_ONLY:
        return Levels(contraction_of(w, w.machine))
    c = contraction_of(w, w.machine)
    return Signs(c) if isinstance(c.dot, XnorDot) else Product(c)


def _can_tile(w: CudaWriter, product: Product) -> bool:
    """Whether tiles are worth it, and their lanes are channels of one word."""
    if w.group.packs and product.c.groups > 1 and product.channels % WORD:
        return False
    return product.channels >= _FEW_CHANNELS and product.units >= _SHORT


def _vectors(product: Product) -> list[Part]:
    """One sample by itself, or several with each weight that is read."""
    several = Part(partial(vectors, product, WARPS), 2, _FEW_SAMPLES)
    return [Part(partial(vectors, product, 1), most=1), several]


def _tiled(
    w: CudaWriter, product: Product, few: Sequence[Part] = (), before_them: str = ""
) -> CudaKernel:
    """In large tiles, once a batch has enough of them; in small ones before that.

    Args:
        few: the launches for fewer samples.
    """
    parts = list(few)
    before = few[-1].most if few else 0
    large = _tile(product)
    enough = -(-_BLOCKS // _blocks(product, large))
    fitting = [t for t in _SMALLER if t.vectors <= large.vectors]
    filling = (t for t in fitting if _blocks(product, t) * (before + 1) >= _BLOCKS)
    small = next(filling, _SMALLEST)
    if enough > before + 1 and small != large:
        parts.append(Part(partial(tiled, product, small), before + 1, enough - 1))
        before = enough - 1
    parts.append(Part(partial(tiled, product, large), before + 1))
    return w.kernel(*parts, method=f"{before_them}tiles {large}")


def _tile(product: Product) -> Tile:
    """The largest tile that leaves few lanes without a channel, and every sum a register."""
    vectors = -(-product.channels // WARP)
    if product.registers > 1:
        return Tile(8, 1)
    return Tile(8, 4) if vectors % 4 in (0, 3) else Tile(16, min(2, vectors))


def _blocks(product: Product, tile: Tile) -> int:
    """About how many tiles a sample has, at least 1."""
    columns = -(-product.channels // tile.channels) * product.c.groups
    return max(1, columns * math.prod(product.c.outputs) // tile.rows)


def _places(product: Product) -> int:
    """How many places a thread computes, if there are threads enough."""
    places = math.prod(product.c.outputs)
    enough = places * product.c.groups * product.channels >= _MANY
    return _PLACES if enough and places >= _PLACES else 1
