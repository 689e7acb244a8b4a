"""What would change it: for each reason why a layer is not as it was asked to be, what the user can do.

Reasons are the sentences of passes; a test holds that none is left without its hint.
"""

from __future__ import annotations

import re

_PACK = "--kernel {layer}=xnor-popcount packs it all the same"
_FLATTEN = "give it [batch, features]: flatten in front of it"
_NORM = "give each layer a BatchNorm of its own, right behind it"

# The first that matches counts; groups of the pattern may stand in the hint, by number.
_HINTS: tuple[tuple[str, str], ...] = (
    (
        "first layer|last layer",
        "--first-last-bits N sets both ends, --override {layer}=BITS this one",
    ),
    (
        "dynamic quantization is for linear layers",
        "--mode static quantizes it too; --override {layer}=8/32 its weights alone",
    ),
    (".* is called .*, with one weight", "write a layer for each call"),
    ("it shares its weight with (.*)", "give it a weight of its own"),
    (r"its input has \d+ dimensions", _FLATTEN),
    (
        "its qconfig is None|it is outside of the model's Quant",
        "--override {layer}=BITS quantizes it",
    ),
    ("stays in bytes: .* was asked for", "leave --kernel out: the fastest is taken then"),
    ("stays .*: XNOR on", _PACK),
    ("groups=", "take one group, or groups of a multiple of 32 channels"),
    ("pads with", "pad with one of its levels"),
    ("max_pool stays on floats: a layer reads", "pool where only layers of 1 bit read the result"),
    ("max_pool stays on floats: .* is no integer", "quantize the layer in front of the pooling"),
    ("(.*: )?a (pooling )?window lies wholly in the padding", "pad less than the window is wide"),
    (".*overflows to NaN", "look at the weights and the BatchNorm in front of it: train it first"),
    ("the clip to", "nn.Hardtanh(-1, 1) leaves signs as they are"),
    ("is not equalized: a clip", "nn.ReLU in place of nn.ReLU6 or nn.Hardtanh"),
    ("its BatchNorm stays a step of its own: XNOR-Net's K", "leave --k-map out"),
    ("its BatchNorm stays a step of its own: .* reads", "let it read what is behind the BatchNorm"),
    ("its BatchNorm stays a step of its own: .* called", _NORM),
    ("its bias is not corrected", "two bits or more, as in --override {layer}=2"),
    ("stays on floats: a negative slope", "nn.ReLU in place of nn.LeakyReLU or nn.PReLU"),
    (
        "stays on floats: a scale or shift",
        "look at the statistics of its BatchNorm: train it first",
    ),
    (".* stand between the feature map and the layer", "flatten right in front of the layer"),
)


def hint(reason: str, layer: str) -> str:
    """What the user can do about a reason, "" where nothing is known."""
    for pattern, text in _HINTS:
        if re.match(pattern, reason):
            return text.replace("{layer}", layer)
    return ""
