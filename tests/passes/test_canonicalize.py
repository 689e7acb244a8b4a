"""Every spelling of torch becomes the one that the rest of qcompile knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rewriting import check_ignores, check_rewrite
from torch import Tensor, nn

from qcompile.errors import QCompileError
from qcompile.ir.graph import text, trace
from qcompile.passes.canonicalize import Canonicalize

IMAGE = torch.arange(-72.0, 72.0).reshape(2, 2, 6, 6) / 8
VECTOR = IMAGE[:, 0, 0].contiguous()


class Function(nn.Module):
    """A network of one line."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def canonical(model: nn.Module, *inputs: Tensor) -> str:
    return text(Canonicalize()(trace(model, inputs)).graph)


def one_line(op: str, x: Tensor, shape: str) -> str:
    size = ",".join(map(str, x.shape))
    return f"%0 = placeholder x() : f32[{size}]\n%1 = call_function {op} : f32[{shape}]\nreturn %1"


RELU = "aten.relu(%0)"
ELEMENTWISE: list[tuple[nn.Module | Callable[[Tensor], Tensor], str]] = [
    (nn.ReLU(), RELU),
    (nn.ReLU(inplace=True), RELU),
    (F.relu, RELU),
    (lambda x: F.relu(x, inplace=True), RELU),
    (torch.relu, RELU),
    (torch.relu_, RELU),
    (lambda x: x.relu(), RELU),
    (lambda x: x.relu_(), RELU),
    (lambda x: x.clamp(min=0), RELU),
    (nn.ReLU6(), "aten.hardtanh(%0, 0.0, 6.0)"),
    (F.relu6, "aten.hardtanh(%0, 0.0, 6.0)"),
    (nn.Hardtanh(), "aten.hardtanh(%0, -1.0, 1.0)"),
    (lambda x: F.hardtanh(x, -2, 3), "aten.hardtanh(%0, -2.0, 3.0)"),
    (lambda x: torch.clamp(x, -1, 1), "aten.hardtanh(%0, -1.0, 1.0)"),
    (lambda x: x.clamp_(0, 1), "aten.hardtanh(%0, 0.0, 1.0)"),
    (lambda x: x.clamp(max=1), "aten.hardtanh(%0, -inf, 1.0)"),
    (nn.LeakyReLU(0.25), "aten.leaky_relu(%0, 0.25)"),
    (lambda x: F.leaky_relu(x, 0.25), "aten.leaky_relu(%0, 0.25)"),
    (nn.Sigmoid(), "aten.sigmoid(%0)"),
    (torch.sigmoid, "aten.sigmoid(%0)"),
    (F.sigmoid, "aten.sigmoid(%0)"),
    (nn.Tanh(), "aten.tanh(%0)"),
    (lambda x: x.tanh(), "aten.tanh(%0)"),
    (nn.Hardsigmoid(), "aten.hardsigmoid(%0)"),
    (nn.Hardswish(), "aten.hardswish(%0)"),
    (nn.SiLU(), "aten.silu(%0)"),
    (F.silu, "aten.silu(%0)"),
    (nn.GELU(), "aten.gelu(%0)"),
    (F.gelu, "aten.gelu(%0)"),
    (torch.abs, "aten.abs(%0)"),
    (abs, "aten.abs(%0)"),
    (lambda x: -x, "aten.neg(%0)"),
    (lambda x: x + 1, "aten.add.Scalar(%0, 1.0)"),
    (lambda x: 1 + x, "aten.add.Scalar(%0, 1.0)"),
    (lambda x: x.add_(1), "aten.add.Scalar(%0, 1.0)"),
    (lambda x: torch.add(x, 2, alpha=3), "aten.add.Scalar(%0, 6.0)"),
    (lambda x: x - 1, "aten.add.Scalar(%0, -1.0)"),
    (lambda x: x * 3, "aten.mul.Scalar(%0, 3.0)"),
    (lambda x: x / 8, "aten.mul.Scalar(%0, 0.125)"),
    (lambda x: x + x, "aten.add.Tensor(%0, %0)"),
    (lambda x: x - x, "aten.sub.Tensor(%0, %0)"),
    (lambda x: torch.mul(x, x), "aten.mul.Tensor(%0, %0)"),
    (lambda x: x / x, "aten.div.Tensor(%0, %0)"),
]


@pytest.mark.parametrize(("model", "op"), ELEMENTWISE)
def test_elementwise(model: Any, op: str) -> None:
    model = model if isinstance(model, nn.Module) else Function(model)
    check_rewrite(Canonicalize(), Wrapped(model), one_line(op, IMAGE, "2,2,6,6"), IMAGE)


class Wrapped(nn.Module):
    """A module is called by a network, never the network itself."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        return self.inner(x)


def test_subtraction_from_a_number() -> None:
    expected = """
        %0 = placeholder x() : f32[2,2,6,6]
        %1 = call_function aten.neg(%0) : f32[2,2,6,6]
        %2 = call_function aten.add.Scalar(%1, 2.0) : f32[2,2,6,6]
        return %2"""
    check_rewrite(Canonicalize(), Function(lambda x: 2 - x), expected, IMAGE)
    check_rewrite(Canonicalize(), Function(lambda x: torch.rsub(x, 2)), expected, IMAGE)


def test_division_keeps_its_one_rounding() -> None:
    expected = """
        %0 = placeholder x() : f32[2,2,6,6]
        %1 = get_attr divisor() : f32[]
        %2 = call_function aten.div.Tensor(%0, %1) : f32[2,2,6,6]
        return %2"""
    check_rewrite(Canonicalize(), Function(lambda x: x / 3), expected, IMAGE)


POOL = "aten.max_pool2d(%0, [2, 2], [2, 2], [0, 0], [1, 1], False)"
GLOBAL = "aten.mean.dim(%0, [2, 3], True)"
SHAPED: list[tuple[nn.Module | Callable[[Tensor], Tensor], str, str]] = [
    (nn.MaxPool2d(2), POOL, "2,2,3,3"),
    (lambda x: F.max_pool2d(x, 2), POOL, "2,2,3,3"),
    (lambda x: F.max_pool2d(x, kernel_size=(2, 2)), POOL, "2,2,3,3"),
    (lambda x: torch.max_pool2d(x, 2), POOL, "2,2,3,3"),
    (nn.AdaptiveMaxPool2d(3), POOL, "2,2,3,3"),
    (
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        "aten.max_pool2d(%0, [3, 3], [2, 2], [1, 1], [1, 1], True)",
        "2,2,4,4",
    ),
    (
        nn.AvgPool2d(2, 1, 1, count_include_pad=False),
        "aten.avg_pool2d(%0, [2, 2], [1, 1], [1, 1], False, False)",
        "2,2,7,7",
    ),
    (
        lambda x: F.avg_pool2d(x, x.size()[2:]),
        "aten.avg_pool2d(%0, [6, 6], [6, 6], [0, 0], False, True)",
        "2,2,1,1",
    ),
    (nn.AdaptiveAvgPool2d(1), GLOBAL, "2,2,1,1"),
    (lambda x: F.adaptive_avg_pool2d(x, (1, 1)), GLOBAL, "2,2,1,1"),
    (lambda x: x.mean((2, 3), keepdim=True), GLOBAL, "2,2,1,1"),
    (lambda x: x.mean([-2, -1]), "aten.mean.dim(%0, [2, 3], False)", "2,2"),
    (lambda x: torch.mean(x, dim=1), "aten.mean.dim(%0, [1], False)", "2,6,6"),
    (nn.AdaptiveMaxPool2d(1), "aten.amax(%0, [2, 3], True)", "2,2,1,1"),
    (lambda x: x.amax((2, 3)), "aten.amax(%0, [2, 3], False)", "2,2"),
    (nn.Softmax(1), "aten.softmax.int(%0, 1)", "2,2,6,6"),
    (lambda x: F.softmax(x, dim=-1), "aten.softmax.int(%0, 3)", "2,2,6,6"),
    (nn.LogSoftmax(dim=1), "aten.log_softmax.int(%0, 1)", "2,2,6,6"),
    (lambda x: F.log_softmax(x, dim=1), "aten.log_softmax.int(%0, 1)", "2,2,6,6"),
    (nn.ZeroPad2d(1), "aten.pad(%0, [1, 1, 1, 1], 'constant', 0.0)", "2,2,8,8"),
    (nn.ReflectionPad2d((0, 1, 2, 3)), "aten.pad(%0, [0, 1, 2, 3], 'reflect', None)", "2,2,11,7"),
    (lambda x: F.pad(x, (1, 0)), "aten.pad(%0, [1, 0], 'constant', 0.0)", "2,2,6,7"),
    (
        lambda x: F.pad(x, (1, 1), value=2),
        "aten.pad(%0, [1, 1], 'constant', 2.0)",
        "2,2,6,8",
    ),
    (lambda x: torch.cat([x, x], 1), "aten.cat([%0, %0], 1)", "2,4,6,6"),
    (lambda x: torch.cat((x, x), dim=-3), "aten.cat([%0, %0], 1)", "2,4,6,6"),
]


@pytest.mark.parametrize(("model", "op", "shape"), SHAPED)
def test_pooling_and_shapes(model: Any, op: str, shape: str) -> None:
    model = model if isinstance(model, nn.Module) else Function(model)
    check_rewrite(Canonicalize(), Wrapped(model), one_line(op, IMAGE, shape), IMAGE)


@pytest.mark.parametrize(
    "flatten",
    [
        nn.Flatten(),
        Function(lambda x: torch.flatten(x, 1)),
        Function(lambda x: torch.flatten(x, start_dim=1)),
        Function(lambda x: x.flatten(1)),
        Function(lambda x: x.view(x.size(0), -1)),
        Function(lambda x: x.view(-1, 72)),
        Function(lambda x: x.reshape(x.shape[0], x.shape[1] * x.shape[2] * x.shape[3])),
        Function(lambda x: x.view(x.size()[0], -1)),
        Function(lambda x: x.reshape(-1, x.size(1) * x.size(2) * x.size(3))),
    ],
)
def test_flatten(flatten: nn.Module) -> None:
    expected = one_line("aten.flatten.using_ints(%0, 1, -1)", IMAGE, "2,72")
    check_rewrite(Canonicalize(), Wrapped(flatten), expected, IMAGE)


def test_squeezing_a_pooled_map_is_flattening() -> None:
    expected = """
        %0 = placeholder x() : f32[2,2,6,6]
        %1 = call_function aten.mean.dim(%0, [2, 3], True) : f32[2,2,1,1]
        %2 = call_function aten.flatten.using_ints(%1, 1, -1) : f32[2,2]
        return %2"""
    model = Function(lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1))
    with pytest.raises(QCompileError, match=r"\[2, 2, 1, 1\] to \[2, 2, 1\] is not supported"):
        canonical(model, IMAGE)
    model = Function(lambda x: F.adaptive_avg_pool2d(x, 1).squeeze())
    check_rewrite(Canonicalize(), model, expected, IMAGE)


@pytest.mark.parametrize(
    "model",
    [
        nn.Identity(),
        Function(lambda x: x.contiguous()),
        Function(lambda x: x.float()),
        Function(lambda x: x.view(x.size(0), 2, 6, 6)),
        Function(lambda x: F.adaptive_avg_pool2d(x, 6)),
    ],
)
def test_what_changes_nothing_goes(model: nn.Module) -> None:
    expected = "%0 = placeholder x() : f32[2,2,6,6]\nreturn %0"
    check_rewrite(Canonicalize(), Wrapped(model), expected, IMAGE)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 2, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(2)
        self.act = nn.PReLU()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.act(self.bn1(self.conv1(x)))
        out += x
        return self.relu(out)


BLOCK = """
    %0 = placeholder x() : f32[2,2,6,6]
    %1 = call_module conv1:Conv2d(%0) : f32[2,2,6,6]
    %2 = call_module bn1:BatchNorm2d(%1) : f32[2,2,6,6]
    %3 = call_module act:PReLU(%2) : f32[2,2,6,6]
    %4 = call_function aten.add.Tensor(%3, %0) : f32[2,2,6,6]
    %5 = call_function aten.relu(%4) : f32[2,2,6,6]
    return %5"""


def test_layers_with_parameters_stay_modules() -> None:
    after = check_rewrite(Canonicalize(), Block().eval(), BLOCK, IMAGE)
    layers = [node.meta["layer"] for node in after.graph.nodes]
    assert layers == ["x", "conv1", "bn1", "act", "add", "relu", "output"]


def test_a_canonical_graph_stays() -> None:
    check_ignores(
        Canonicalize(), nn.Sequential(nn.Conv2d(2, 1, 3), nn.BatchNorm2d(1)).eval(), IMAGE
    )


# --- functions with parameters -------------------------------------------------------------------


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.conv.weight, self.conv.bias, stride=2, padding=1)
        mean, var = self.norm.running_mean, self.norm.running_var
        x = F.batch_norm(x, mean, var, self.norm.weight, self.norm.bias, self.training)
        x = F.dropout(F.max_pool2d(x, 2, 1), 0.25, self.training)
        return F.linear(torch.flatten(x, 1), self.fc.weight, self.fc.bias)


def test_functions_with_parameters_become_modules() -> None:
    model = Functional().eval()
    after = check_rewrite(
        Canonicalize(),
        model,
        """
        %0 = placeholder x() : f32[2,2,6,6]
        %1 = call_module conv:Conv2d(%0) : f32[2,4,3,3]
        %2 = call_module norm:BatchNorm2d(%1) : f32[2,4,3,3]
        %3 = call_function aten.max_pool2d(%2, [2, 2], [1, 1], [0, 0], [1, 1], False) : f32[2,4,2,2]
        %4 = call_module dropout:Dropout(%3) : f32[2,4,2,2]
        %5 = call_function aten.flatten.using_ints(%4, 1, -1) : f32[2,16]
        %6 = call_module fc:Linear(%5) : f32[2,3]
        return %6""",
        IMAGE,
    )
    assert after.get_submodule("dropout").p == 0.25
    assert after.get_submodule("conv").stride == (2, 2)
    weight = after.get_parameter("fc.weight")
    assert torch.equal(weight, model.fc.weight)
    assert weight is not model.fc.weight


def test_two_calls_with_one_weight_share_it() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(F.linear(x, self.fc.weight), self.fc.weight)

    after = Canonicalize()(trace(Twice(), [VECTOR])).graph
    assert after.get_submodule("fc").weight is after.get_submodule("fc_1").weight


def test_dropout_listens_to_train_and_eval() -> None:
    model = Function(lambda x: F.dropout(x, 0.5, training=True))
    after = Canonicalize()(trace(model.eval(), [IMAGE])).graph
    assert torch.equal(after(IMAGE), IMAGE)
    assert not torch.equal(after.train()(IMAGE), IMAGE)


def test_a_user_class_without_its_own_forward_is_that_layer() -> None:
    class MyConv(nn.Conv2d):
        pass

    model = nn.Sequential(MyConv(2, 1, 3))
    expected = """
        %0 = placeholder input() : f32[2,2,6,6]
        %1 = call_module 0:Conv2d(%0) : f32[2,1,4,4]
        return %1"""
    check_rewrite(Canonicalize(), model, expected, IMAGE)


# --- padding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_modes_become_a_node(mode: Any) -> None:
    expected = f"""
        %0 = placeholder x() : f32[2,2,6,6]
        %1 = call_function aten.pad(%0, [1, 1, 2, 2], '{mode}', None) : f32[2,2,10,8]
        %2 = call_module inner:Conv2d(%1) : f32[2,1,8,6]
        return %2"""
    model = Wrapped(nn.Conv2d(2, 1, 3, padding=(2, 1), padding_mode=mode))
    after = check_rewrite(Canonicalize(), model, expected, IMAGE)
    assert after.get_submodule("inner").padding == (0, 0)


def test_a_padded_module_called_twice_pads_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x))

    expected = """
        %0 = placeholder x() : f32[2,2,6,6]
        %1 = call_function aten.pad(%0, [1, 1, 1, 1], 'reflect', None) : f32[2,2,8,8]
        %2 = call_module conv:Conv2d(%1) : f32[2,2,6,6]
        %3 = call_function aten.pad(%2, [1, 1, 1, 1], 'reflect', None) : f32[2,2,8,8]
        %4 = call_module conv:Conv2d(%3) : f32[2,2,6,6]
        return %4"""
    check_rewrite(Canonicalize(), Twice(), expected, IMAGE)


def test_same_padding_becomes_numbers_where_it_can() -> None:
    expected = """
        %0 = placeholder x() : f32[2,2,6,6]
        %1 = call_module inner:Conv2d(%0) : f32[2,1,6,6]
        return %1"""
    after = check_rewrite(
        Canonicalize(), Wrapped(nn.Conv2d(2, 1, (3, 5), padding="same")), expected, IMAGE
    )
    assert after.get_submodule("inner").padding == (1, 2)


# --- in place ------------------------------------------------------------------------------------


def test_later_readers_see_what_was_written_in_place() -> None:
    def forward(x: Tensor) -> Tensor:
        y = x + 1
        skip = y
        y.add_(2)
        torch.relu_(y)
        return y + skip

    expected = """
        %0 = placeholder x() : f32[2,2,6,6]
        %1 = call_function aten.add.Scalar(%0, 1.0) : f32[2,2,6,6]
        %2 = call_function aten.add.Scalar(%1, 2.0) : f32[2,2,6,6]
        %3 = call_function aten.relu(%2) : f32[2,2,6,6]
        %4 = call_function aten.add.Tensor(%3, %3) : f32[2,2,6,6]
        return %4"""
    check_rewrite(Canonicalize(), Function(forward), expected, IMAGE)


def test_in_place_on_a_view_that_is_read_later_is_refused() -> None:
    def forward(x: Tensor) -> Tensor:
        y = x + 1
        view = y.view(y.size(0), -1)
        view.relu_()
        return y

    with pytest.raises(QCompileError, match=r"relu_\(\) works in place on memory that .* reads"):
        canonical(Function(forward), IMAGE)


# --- what is refused -----------------------------------------------------------------------------

REFUSED: list[tuple[Callable[[Tensor], Any], str]] = [
    (lambda x: torch.fft.fft(x).real, r"fft_fft is not supported"),
    (lambda x: x.cumsum(1), r"\.cumsum\(\) is not supported"),
    (lambda x: x.chunk(2, 1)[0], r"\.chunk\(\) is not supported"),
    (lambda x: x.transpose(1, 2), r"\.transpose\(\) is not supported"),
    (lambda x: torch.cat([x, x]), "across dimension 0"),
    (lambda x: x.mean(), "across dimension 0"),
    (lambda x: F.softmax(x, 0), "across dimension 0"),
    (lambda x: x.flatten(), "mixes the samples of a batch"),
    (lambda x: x.view(-1, 36), "mixes the samples of a batch"),
    (lambda x: x.flatten(2), r"to \[2, 2, 36\] is not supported"),
    (lambda x: x.view(2, -1), "mixes the samples"),
    (lambda x: x.view(2, 72), "fails for another batch size"),
    (lambda x: x * x.size(0), r"\.size\(\), which depends on the batch"),
    (lambda x: F.gelu(x, approximate="tanh"), "approximate='tanh'"),
    (lambda x: F.max_pool2d(x, 2, return_indices=True)[0], "max_pool2d"),
    (lambda x: F.avg_pool2d(x, 2, divisor_override=3), "divisor_override"),
    (lambda x: F.adaptive_avg_pool2d(x, 4), "windows of unequal size"),
    (lambda x: F.conv2d(x, x[:, :, :3, :3]), "not supported"),
    (lambda x: F.conv2d(x, torch.abs(x)), "its weight is computed by the network"),
    (lambda x: torch.div(x, 3, rounding_mode="floor"), "rounding_mode='floor'"),
    (lambda x: torch.clamp(x, x, x), "between tensors"),
    (lambda x: F.pad(x, (0, 0, 0, 0, 1, 1)), "padding the channels"),
    (lambda x: x.double(), r"\.double\(\) is not supported"),
    (lambda x: x.to(torch.float64), "only float32"),
    (lambda x: F.softmax(x, 1, dtype=torch.float64), "only float32"),
    (lambda x: x.mean((2, 3), dtype=torch.float64), "only float32"),
    (lambda x: {"y": x}, "neither a tensor nor a tuple"),
    (lambda x: (x, x.size(0)), "neither a tensor nor a tuple"),
]


@pytest.mark.parametrize(("function", "message"), REFUSED)
def test_refuses(function: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(QCompileError, match=message):
        canonical(Function(function), IMAGE)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.ConvTranspose2d(2, 1, 3), r"inner.*nn.ConvTranspose2d is not supported"),
        (nn.InstanceNorm2d(2), "nn.InstanceNorm2d is not supported"),
        (nn.GroupNorm(1, 2), "nn.GroupNorm is not supported"),
        (nn.BatchNorm2d(2, track_running_stats=False), "without running statistics"),
        (
            nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 1, 3)),
            "parametrized weights",
        ),
    ],
)
def test_refuses_modules(module: nn.Module, message: str) -> None:
    with pytest.raises(QCompileError, match=message) as caught:
        canonical(Wrapped(module), IMAGE)
    assert "test_canonicalize.py:" in str(caught.value)


def test_refuses_a_recurrent_layer() -> None:
    with pytest.raises(QCompileError, match=r"nn.LSTM is not supported\n  supported are conv"):
        canonical(Function(nn.LSTM(6, 6)), torch.ones(2, 3, 6))


def test_refuses_other_dtypes() -> None:
    with pytest.raises(QCompileError, match="i64"):
        canonical(Function(lambda x: x + x), torch.ones(2, 3, dtype=torch.int64))


def test_a_list_of_results_is_a_tuple() -> None:
    after = Canonicalize()(trace(Function(lambda x: [x, F.relu(x)]), [IMAGE])).graph
    assert isinstance(after(IMAGE), tuple)
