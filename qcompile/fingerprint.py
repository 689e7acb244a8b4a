"""A fingerprint of a graph: two graphs with the same one compute the same function."""

from __future__ import annotations

import hashlib

import torch
from torch.fx import GraphModule

from qcompile.ir.graph import constant_of, text


def fingerprint(gm: GraphModule) -> str:
    """SHA-256, in hex, of the graph's printed text and of every constant it reads."""
    digest = hashlib.sha256(text(gm).encode())
    for node in gm.graph.nodes:
        constant = constant_of(gm, node)
        if constant is None:
            continue
        plain = constant.detach().cpu().contiguous()
        digest.update(f"\n{node.target} {plain.dtype} {tuple(plain.shape)}\n".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
