"""All lowering passes together, on random small networks: every graph between two of them is exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rewriting import assert_same_result, converted
from small_nets import Net, conv, levels, normal, signs
from torch import Tensor
from torch.fx import GraphModule

from qcompile.ir.graph import calls, text
from qcompile.ir.stages import Stage, aten, dialect
from qcompile.passes.base import Pass, Result, run
from qcompile.pipelines import lower_passes

LOWERING = lower_passes()


@dataclass(frozen=True)
class Layer:
    """One quantized layer of a random network, and what follows it."""

    quantizer: str
    binary_weights: bool
    out: int
    kernel: int
    stride: int
    padding: int
    activation: str
    pool: int
    batchnorm: bool
    residual: bool


LAYERS = st.builds(
    Layer,
    quantizer=st.sampled_from(["sign", "sign", "unit1", "unit1", "unit2", "affine"]),
    binary_weights=st.sampled_from([True, True, False]),
    out=st.sampled_from([1, 3, 32, 33]),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    activation=st.sampled_from(["", "relu", "hardtanh", "leaky", "tanh"]),
    pool=st.sampled_from([0, 0, 2, 3]),
    batchnorm=st.booleans(),
    residual=st.booleans(),
)
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda y: y,
    "relu": aten.relu.default,
    "hardtanh": aten.hardtanh.default,
    "leaky": lambda y: aten.leaky_relu.default(y, 0.125),
    "tanh": aten.tanh.default,
}
QUANTIZERS: dict[str, Callable[[Tensor], Tensor]] = {
    "sign": dialect.sign.default,
    "unit1": lambda y: dialect.quantize_unit.default(y, 1),
    "unit2": lambda y: dialect.quantize_unit.default(y, 2),
    "affine": lambda y: dialect.quantize.default(y, 0.125, 0, -127, 127),
}


class RandomNet(Net):
    """Layers one after the other, then flatten and two linear layers; shapes decide as they come."""

    def __init__(self, layers: list[Layer], x: Tensor, seed: int) -> None:
        super().__init__(self.run)
        self.layers, self.seed, self.making = layers, seed, True
        self(x)
        self.making = False

    def constant(self, name: str, value: Tensor) -> Tensor:
        if self.making:
            self.register_buffer(name, value)
        result = getattr(self, name)
        assert isinstance(result, Tensor)
        return result

    def affine(self, y: Tensor, name: str, channels: int, size: float) -> Tensor:
        scale = self.constant(f"m{name}", normal(channels, seed=self.seed) * size)
        shift = self.constant(f"b{name}", normal(channels, seed=self.seed + 1))
        return dialect.scale_shift.default(y, scale, shift)

    def weight(self, layer: Layer, name: str, *shape: int) -> Tensor:
        w = signs(*shape, seed=self.seed) if layer.binary_weights else levels(-3, 3, *shape)
        return self.constant(f"w{name}", w)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)

    def run(self, x: Tensor, **_: Tensor) -> Tensor:
        size, channels, y = 6, 2, x
        for i, layer in enumerate(self.layers):
            w = self.weight(layer, str(i), layer.out, channels, layer.kernel, layer.kernel)
            room = size + 2 * layer.padding - layer.kernel
            if room < 0:
                continue
            q = QUANTIZERS[layer.quantizer](y)
            z = conv(q, w, layer.stride, layer.padding)
            z = self.affine(z, str(i), layer.out, 0.1)
            if layer.residual and layer.out == channels and room // layer.stride + 1 == size:
                z = aten.add.Tensor(z, y)
            size, channels = room // layer.stride + 1, layer.out
            if layer.pool and size >= layer.pool:
                z = aten.max_pool2d.default(z, [layer.pool, layer.pool], [2, 2])
                size = (size - layer.pool) // 2 + 1
            if layer.batchnorm:
                z = self.affine(z, f"n{i}", layer.out, 1.0)
            y = ACTIVATIONS[layer.activation](z)
        last, features = self.layers[-1], channels * size * size
        q = QUANTIZERS[last.quantizer](aten.flatten.using_ints(y, 1))
        acc = dialect.linear.default(q, self.weight(last, "first", 7, features), 0)
        q = QUANTIZERS[last.quantizer](self.affine(acc, "first", 7, 0.1))
        return self.affine(
            dialect.linear.default(q, self.weight(last, "last", 5, 7), 0), "last", 5, 0.5
        )


def lower_exactly(gm: GraphModule, x: Tensor) -> GraphModule:
    wanted = gm(x)

    def after_each(pass_: Pass, result: Result) -> None:
        torch.testing.assert_close(result.graph(x), wanted, rtol=0, atol=0)

    lowered = run(LOWERING, gm, after_each).graph
    assert_same_result(lowered, gm, x)
    return lowered


@settings(max_examples=8)
@given(layers=st.lists(LAYERS, min_size=1, max_size=3), seed=st.integers(0, 99))
def test_every_graph_on_the_way_is_exact(layers: list[Layer], seed: int) -> None:
    x = normal(2, 2, 6, 6, seed=seed)
    lowered = lower_exactly(converted(RandomNet(layers, x, seed), x), x)
    assert lowered.meta["stage"] is Stage.LOWERED


def test_between_binary_layers_no_float_is_left() -> None:
    layer = Layer("sign", True, 33, 3, 1, 1, "hardtanh", 2, True, False)
    x = normal(2, 2, 6, 6)
    lowered = lower_exactly(converted(RandomNet([layer, layer], x, 0), x), x)
    floats = [n for n in lowered.graph.nodes if calls(n, dialect.scale_shift.default)]
    assert len(floats) == 1
    assert not any(calls(n, aten.max_pool2d.default) for n in lowered.graph.nodes)
    assert text(run(LOWERING, lowered).graph) == text(lowered)
    kept = [
        n for n in lowered.graph.nodes if calls(n, dialect.conv.default, dialect.linear.default)
    ]
    assert kept == []


def test_why_layers_are_not_binary_stays_with_the_graph() -> None:
    net = Net(lambda x, w: conv(dialect.sign.default(x), w, groups=2), w=signs(4, 2, 1, 1))
    x = normal(2, 4, 3, 3)
    lowered = lower_exactly(converted(net, x), x)
    reason = "groups=2 leaves 2 channels a group, a word holds 32"
    assert lowered.meta["declined"] == {"conv_default": reason}


def test_a_batch_of_none() -> None:
    layer = Layer("sign", True, 3, 3, 1, 1, "", 2, True, False)
    x = normal(2, 2, 6, 6)
    lowered = lower_exactly(converted(RandomNet([layer], x, 0), x), x)
    assert lowered(torch.empty(0, 2, 6, 6)).shape == (0, 5)


def dynamic_linear(x: Tensor, weight: Tensor, total: Tensor, scale: Tensor) -> Tensor:
    qparams = dialect.dynamic_qparams.default(x, 5)
    acc = dialect.linear.default(dialect.dynamic_quantize.default(x, qparams, 5), weight, 0)
    return dialect.dynamic_scale_shift.default(acc, qparams, total, scale, None)


def mixed(
    x: Tensor, taps: Tensor, one: Tensor, two: Tensor, total: Tensor, three: Tensor, a: Tensor
) -> Tensor:
    """Binary layers around dynamic and weight-only ones: no pass looks through those."""
    y = dialect.weight_only_conv.default(x, taps, [1, 1], [1] * 4, [1, 1], 1)
    y = aten.max_pool2d.default(dialect.scale_shift.default(y, a, None), [2, 2], [2, 2])
    y = conv(dialect.sign.default(y), one)
    y = aten.flatten.using_ints(aten.relu.default(dialect.scale_shift.default(y, a, a)), 1)
    y = aten.hardtanh.default(dynamic_linear(aten.relu.default(y), two, total, a))
    acc = dialect.linear.default(dialect.sign.default(y), three, 0)
    y = dialect.scale_shift.default(acc, a, a)
    return dialect.scale_shift.default(dialect.weight_only_linear.default(y, three), a, None)


def test_dynamic_and_weight_only_layers_among_binary_ones() -> None:
    weights = {
        "taps": levels(-7, 7, 32, 2, 3, 3),
        "one": signs(32, 32, 2, 2, seed=1),
        "two": levels(-7, 7, 32, 128, seed=2),
        "three": signs(32, 32, seed=3),
    }
    x = normal(3, 2, 6, 6)
    total = weights["two"].sum(1, dtype=torch.int32)
    net = Net(mixed, **weights, total=total, a=normal(32, seed=4))
    lowered = lower_exactly(converted(net, x), x)
    called = {n.target for n in lowered.graph.nodes if n.op == "call_function"}
    assert dialect.xnor_matmul.default in called
    assert {dialect.dynamic_scale_shift.default, dialect.weight_only_conv.default} <= called
    assert lowered(torch.empty(0, 2, 6, 6)).shape == (0, 32)
