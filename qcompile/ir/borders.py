"""What lies beyond the border under each place of a convolution's result.

A tap (i, j) is inside when i is inside in y and j is inside in x. Which i are inside depends on y
alone: positions with the same set form a class, and with v the 0/1 vector of the set,

    table[o, cy, cx] = sum(w[o]) - sum over i, j of w[o, :, i, j] * v[cy, i] * v[cx, j]

That holds for any stride, dilation, kernel and padding, and for every number of dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qcompile.ir.ops import output_size


def border_table(
    weight: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Tensor, list[Tensor]]:
    """The weight that lies outside for each class of positions, and the positions' classes.

    Args:
        weight: integers `[O, C, *kernel]`.
        size: the input's spatial sizes.

    Returns:
        `table`, int32 `[O, *how many classes in each dimension]`, and for each dimension the class
        of each output position, int64.
    """
    kernel = weight.shape[2:]
    out = output_size(size, kernel, stride, padding, dilation)
    taps = weight.to(torch.int64).sum(1)
    total, inside = taps.flatten(1).sum(1), taps
    classes = []
    for d, n in enumerate(size):
        first = torch.arange(out[d])[:, None] * stride[d] - padding[2 * d]
        at = first + torch.arange(kernel[d]) * dilation[d]
        sets, of_position = ((at >= 0) & (at < n)).unique(dim=0, return_inverse=True)
        classes.append(of_position)
        # Contracts the first kernel dimension left, and puts its classes last.
        inside = torch.tensordot(inside, sets.to(torch.int64), dims=([1], [1]))
    table = total.reshape(-1, *[1] * len(size)) - inside
    return table.to(torch.int32), classes
