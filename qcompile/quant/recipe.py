"""Recipe: how many bits every layer gets, and by which paper."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from fnmatch import fnmatchcase

from qcompile.errors import QCompileError
from qcompile.ir.plan import FLOAT_BITS
from qcompile.quant.activations import (
    ESTIMATORS,
    ActivationQuantizer,
    AffineActivation,
    DynamicActivation,
    FloatActivation,
    LsqActivation,
    PactActivation,
    SignActivation,
    UnitActivation,
)
from qcompile.quant.histograms import HistogramObserver, PercentileObserver
from qcompile.quant.observers import MinMaxObserver, MovingAverageObserver, Observer
from qcompile.quant.overrides import KINDS, Override, check_bits, checked, which_layers
from qcompile.quant.weights import (
    AffineWeight,
    DorefaWeight,
    LsqWeight,
    MagnitudeSignWeight,
    TernaryWeight,
    WeightQuantizer,
    XnorWeight,
)

METHODS = ("bireal", "xnor", "dorefa", "affine", "lsq", "pact")
WIDE_METHODS = ("affine", "lsq", "pact")  # without a 1-bit quantizer
MODES = ("qat", "static", "dynamic", "weight-only")
OBSERVERS: dict[str, type[Observer]] = {
    "min-max": MinMaxObserver,
    "moving-average": MovingAverageObserver,
    "histogram": HistogramObserver,
    "percentile": PercentileObserver,
}


@dataclass(frozen=True)
class Recipe:
    """How a model is quantized.

    Attributes:
        bits: of weights and activations, 1 to 8, or 32 for float.
        weight_bits, activation_bits: where they differ from `bits`.
        gradient_bits: DoReFa-Net's quantized gradients, 1 to 8, or 32 for float.
        method: whose 1-bit weights, activations and blocks: "bireal", "xnor", "dorefa"; the others
            have none. Operands of 2 to 8 bits are affine, weights with a scale per filter, but for
            "dorefa", which has its own, "lsq", which learns the steps of both, and "pact", which
            learns where activations are clipped; where nothing is trained, both are affine.
        mode: "qat" trains the quantizers with the network; "static" takes the ranges of activations
            from calibration, whatever the method learns in training; "dynamic" gives linear layers
            the range of each sample as it comes, and leaves others in float; "weight-only" leaves
            activations in float.
        observer: what ranges are made of, one of OBSERVERS; None is "moving-average" for "qat" and
            "histogram" for "static".
        equalize: even out the ranges of channels between one layer and the next, before anything.
        correct_bias: correct biases by what quantization does to the mean of each channel.
        first_last_bits: of the first and the last layer, 2 to 8, or 32.
        overrides: module path, glob of paths, or kind ("Linear") to bits, to "1/4" (weights and
            activations), to "float", or to {"weight_bits": ..., "activation_bits": ...}. They win
            over everything above, the last that matches over those before it.
        k_map: XNOR-Net's map of activation magnitudes, which scales each output position.
        estimator: gradient of 1-bit activations, "ste", "approx" or "swish"; None is the method's.
        ternary_weights: make 2-bit weights those of Ternary Weight Networks.

    Raises:
        QCompileError: a value that is none of these.
    """

    bits: int = 1
    _: KW_ONLY
    weight_bits: int | None = None
    activation_bits: int | None = None
    gradient_bits: int = FLOAT_BITS
    method: str = "bireal"
    mode: str = "qat"
    observer: str | None = None
    equalize: bool = False
    correct_bias: bool = False
    first_last_bits: int = 8
    overrides: Mapping[str, Override] = field(default_factory=dict)
    k_map: bool = False
    estimator: str | None = None
    ternary_weights: bool = False

    def __post_init__(self) -> None:
        _check_choice("method", self.method, METHODS)
        _check_choice("mode", self.mode, MODES)
        check_bits("bits", self.bits)
        check_bits("gradient_bits", self.gradient_bits)
        check_bits("first_last_bits", self.first_last_bits, least=2)
        for name in ("weight_bits", "activation_bits"):
            if getattr(self, name) is not None:
                check_bits(name, getattr(self, name))
        for name in ("equalize", "correct_bias"):
            if not isinstance(getattr(self, name), bool):
                raise QCompileError(f"{name} must be True or False, not {getattr(self, name)!r}")
        if not isinstance(self.overrides, Mapping):
            raise QCompileError(
                f"overrides must map layers to bits, not be a {type(self.overrides).__name__}",
                hint='write overrides={"fc": 8, "layer1.*": "float"}',
            )
        read = {pattern: checked(pattern, given) for pattern, given in self.overrides.items()}
        object.__setattr__(self, "overrides", read)
        self._check_mode()
        self._check_method()

    def _widths(self) -> list[tuple[int, int]]:
        """(weight bits, activation bits) of the body, and of each override."""
        overridden = (self._overridden(o, (8, 8)) for o in self.overrides.values())
        return [self.body_bits(), *overridden]

    def _check_mode(self) -> None:
        if self.mode == "dynamic" and any(a == 1 for _, a in self._widths()):
            raise QCompileError(
                "mode 'dynamic' has no 1-bit activations",
                hint="take activation_bits=8, or any of 2 to 8",
            )
        if self.mode == "weight-only" and self.activation_bits not in (None, FLOAT_BITS):
            raise QCompileError(
                f"mode 'weight-only' has no {self.activation_bits}-bit activations",
                hint="leave activation_bits out, or take another mode",
            )
        for pattern, override in self.overrides.items():
            bits = (
                override.get("activation_bits", FLOAT_BITS)
                if isinstance(override, Mapping)
                else FLOAT_BITS
            )
            if self.mode == "weight-only" and bits != FLOAT_BITS:
                raise QCompileError(
                    f"overrides[{pattern!r}]: mode 'weight-only' has no {bits}-bit activations",
                    hint="leave activation_bits out, or take another mode: any may have layers that "
                    "are weight-only",
                )
        if self.mode == "weight-only" and self.equalize:
            raise QCompileError(
                "equalize is for quantized activations, of which mode 'weight-only' has none",
                hint="leave equalize out, or take another mode",
            )
        if self.observer is not None:
            self._check_observer(self.observer)

    def _check_observer(self, observer: str) -> None:
        _check_choice("observer", observer, tuple(OBSERVERS))
        reason = f"mode {self.mode!r}" if self.mode in ("dynamic", "weight-only") else ""
        if self.mode == "qat" and self.method == "lsq":
            reason = "method 'lsq'"
        if reason:
            raise QCompileError(
                f"nothing is observed with {reason}, so observer={observer!r} has no effect",
                hint="leave observer out, or take mode='static'",
            )

    def _check_method(self) -> None:
        widths = self._widths()
        if self.method in WIDE_METHODS and any(1 in pair for pair in widths):
            raise QCompileError(
                f"method {self.method!r} has no 1-bit quantizer",
                hint="take method='bireal', 'xnor' or 'dorefa', or 2 to 8 bits",
            )
        if self.estimator is not None:
            _check_choice("estimator", self.estimator, tuple(ESTIMATORS))
            if self.method not in ("bireal", "xnor"):
                raise QCompileError(
                    f"method {self.method!r} has no sign activation to estimate",
                    hint="leave estimator out, or take method='bireal' or 'xnor'",
                )
        for name in ("equalize", "correct_bias"):
            if getattr(self, name) and self.method == "dorefa":
                raise QCompileError(
                    f"{name} is for quantizers that round: those of method 'dorefa' reshape weights "
                    "and clip activations at 1",
                    hint="take method='affine', or leave it out",
                )
        if self.k_map and self.method != "xnor":
            raise QCompileError(
                f"k_map belongs to method 'xnor', not {self.method!r}", hint="leave k_map out"
            )
        own = self.method == "dorefa" or (self.method == "lsq" and self.mode == "qat")
        if self.ternary_weights and (own or not any(w == 2 for w, _ in widths)):
            raise QCompileError(
                "ternary_weights is for 2-bit weights of method 'bireal', 'xnor', 'affine' or 'pact'",
                hint=f"method {self.method!r} has its own: take another, or leave it out"
                if own
                else "set weight_bits=2",
            )

    # --- which bits --------------------------------------------------------------------------------

    def body_bits(self) -> tuple[int, int]:
        """(weight bits, activation bits) of layers that nothing is said about."""
        weight = self.bits if self.weight_bits is None else self.weight_bits
        activation = self.bits if self.activation_bits is None else self.activation_bits
        return weight, self._activation_bits(activation)

    def _overridden(self, override: Override, bits: tuple[int, int]) -> tuple[int, int]:
        if isinstance(override, int):
            return override, self._activation_bits(override)
        if isinstance(override, str):
            return FLOAT_BITS, FLOAT_BITS
        weight, activation = bits
        activation = override.get("activation_bits", activation)
        return override.get("weight_bits", weight), self._activation_bits(activation)

    def _activation_bits(self, bits: int) -> int:
        return FLOAT_BITS if self.mode == "weight-only" else bits

    def for_layer(
        self, path: str, kind: str, is_first: bool = False, is_last: bool = False
    ) -> tuple[int, int]:
        """(weight bits, activation bits) of a layer, each 1 to 8 or 32.

        Args:
            path: of the module in the user's model.
            kind: its class, one of KINDS.
        """
        bits = self.body_bits()
        if is_first or is_last:
            # What the user wants in float everywhere stays float at the ends too.
            bits = tuple(b if b == FLOAT_BITS else self.first_last_bits for b in bits)  # type: ignore[assignment]
        for override in self.overrides_of(path, kind):
            bits = self._overridden(override, bits)
        return bits

    def overrides_of(self, path: str, kind: str) -> tuple[Override, ...]:
        """The overrides that a layer's path or kind matches; the last one wins."""
        return tuple(
            override
            for pattern, override in self.overrides.items()
            if pattern == kind or path == pattern or fnmatchcase(path, pattern)
        )

    def check_overrides(self, paths: Iterable[str], others: Iterable[str] = ()) -> None:
        """Refuse overrides that match no layer.

        Args:
            paths: of all layers that could be quantized.
            others: paths and classes of modules that are no layers.

        Raises:
            QCompileError: naming the pattern, and the nearest path or those that there are.
        """
        known = list(paths)
        for pattern in self.overrides:
            if pattern in KINDS or any(p == pattern or fnmatchcase(p, pattern) for p in known):
                continue
            raise QCompileError(
                f"overrides: {pattern!r} matches no conv or linear layer",
                hint=which_layers(pattern, known, list(others)),
            )

    # --- which quantizers --------------------------------------------------------------------------

    def activation(self, bits: int, *, edge: bool = False) -> ActivationQuantizer:
        """A new activation quantizer of 1 to 8 bits, or 32 for float.

        `edge` says that the layer is the first or the last: DoReFa-Net keeps those in high
        precision, and their inputs are not made to lie in [0, 1], nor above 0 as PACT's are, so
        they are affine.
        """
        check_bits("activation bits", bits)
        if bits == FLOAT_BITS:
            return FloatActivation()
        if self.mode == "dynamic":
            return DynamicActivation(bits)
        if self.method == "dorefa" and not (edge and bits > 1):
            return UnitActivation(bits)
        if bits == 1:
            return SignActivation(
                self.estimator or ("approx" if self.method == "bireal" else "ste")
            )
        if self.mode == "qat" and self.method == "lsq":
            return LsqActivation(bits)
        if self.mode == "qat" and self.method == "pact" and not edge:
            return PactActivation(bits)
        return AffineActivation(bits, self._observer())

    def _observer(self) -> Observer:
        default = "histogram" if self.mode == "static" else "moving-average"
        return OBSERVERS[self.observer or default]()

    def weight_quantizer(self, bits: int, *, edge: bool = False) -> WeightQuantizer:
        """A new weight quantizer of 1 to 8 bits; `edge` as for `activation`."""
        check_bits("weight bits", bits, most=8)
        if self.method == "dorefa" and not (edge and bits > 1):
            return DorefaWeight(bits)
        if bits == 1:
            return XnorWeight() if self.method == "xnor" else MagnitudeSignWeight()
        if self.method == "lsq" and self.mode == "qat":
            return LsqWeight(bits)
        return TernaryWeight() if bits == 2 and self.ternary_weights else AffineWeight(bits)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise QCompileError(
            f"unknown {name} {value!r}", hint=f"{meant}{name}: {', '.join(choices)}"
        )
