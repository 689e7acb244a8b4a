"""Arrays on a GPU: read in place on their library's stream, results of the same kind; or refused.

Stand-ins for torch and CuPy keep their arrays in the emulated GPU's memory.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from toy_gpu import (
    INFO,
    VARIANT,
    cuda_emu,
    gpu_program,
    toy_code,
    toy_constants,
    toy_inputs,
    toy_outputs,
)

from qcompile import QCompileError, emulator
from qcompile.cuda.driver import Context, Memory, Stream, driver
from qcompile.gpu import Gpu, Native
from qcompile.gpu_arguments import current_device

pytestmark = cuda_emu


class Gpus(Native):
    """Several GPUs, all of them the one that is emulated; remembers which were asked for."""

    def __init__(self) -> None:
        self.path = str(emulator.driver())
        super().__init__(self.path)
        self.asked: list[int] = []

    def context(self, device: int) -> Context:
        self.asked.append(device)
        return super().context(0)


def gpu(machine: Native | None = None) -> Gpu:
    return Gpu(INFO, VARIANT, toy_code(), toy_constants(), machine or Gpus())


class Streams:
    """A stream for each of two GPUs, and what was launched on which."""

    def __init__(self) -> None:
        self.context = Gpus().context(0)
        self.own = [Stream(self.context), Stream(self.context)]
        self.used: list[int] = []

    @contextmanager
    def watched(self) -> Iterator[None]:
        found = self.context.driver
        original = found.launch

        def launch(*arguments: Any) -> int:
            self.used.append(arguments[8].value)
            return original(*arguments)

        found.launch = launch
        yield
        found.launch = original


@pytest.fixture(scope="module")
def streams() -> Streams:
    return Streams()


class OnGpu:
    """An array in the GPU's memory."""

    def __init__(self, value: np.ndarray[Any, Any], number: int, streams: Streams) -> None:
        self.memory = Memory(streams.context, value.nbytes)
        self.shape, self.kind, self.number = value.shape, value.dtype, number
        self.streams = streams
        with streams.context:
            streams.own[0].write(self.memory.address, value.ctypes.data, value.nbytes)
            streams.own[0].wait()

    def numpy(self) -> np.ndarray[Any, Any]:
        found = np.empty(self.shape, self.kind)
        with self.streams.context:
            self.streams.own[0].read(found.ctypes.data, self.memory.address, found.nbytes)
            self.streams.own[0].wait()
        return found


# --- torch ---------------------------------------------------------------------------------------


class Device(SimpleNamespace):
    def __str__(self) -> str:
        return f"{self.type}:{self.index}"


class Dtype:
    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return f"torch.{self.name}"


class FakeTorch:
    """What the runtime asks of torch; tensors on "GPUs" 0 and 1."""

    strided, contiguous_format = "strided", "contiguous"

    def __init__(self, streams: Streams) -> None:
        self.streams = streams
        for name in ("float32", "float64", "int32", "uint8"):
            setattr(self, name, Dtype(name))
        self.made: list[tuple[tuple[int, ...], str, int]] = []
        outer = self

        class Tensor(OnGpu):
            is_cpu, is_cuda, layout = False, True, "strided"
            contiguous, negative = True, False

            def __init__(self, value: np.ndarray[Any, Any], number: int = 0, kind: str = "cuda"):
                super().__init__(value, number, outer.streams)
                self.value = value
                self.dtype = getattr(outer, str(value.dtype))
                self.device = Device(type=kind, index=number)

            def is_contiguous(self) -> bool:
                return self.contiguous

            def is_neg(self) -> bool:
                return self.negative

            def data_ptr(self) -> int:
                return self.memory.address

            def element_size(self) -> int:
                return self.value.itemsize

            def detach(self) -> Tensor:
                return self

            def clone(self, *, memory_format: str) -> Tensor:
                assert memory_format == "contiguous"
                return Tensor(self.value, self.number)

        Tensor.__module__ = "torch"
        self.Tensor: Any = Tensor
        self.cuda = SimpleNamespace(
            is_initialized=lambda: True,
            current_device=lambda: 1,
            current_stream=lambda device: SimpleNamespace(
                cuda_stream=streams.own[device.index].handle
            ),
        )

    def empty(self, shape: tuple[int, ...], *, dtype: Dtype, device: Device) -> Any:
        self.made.append((shape, dtype.name, device.index))
        return self.Tensor(np.zeros(shape, dtype.name), device.index)


@pytest.fixture
def fake_torch(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> FakeTorch:
    fake = FakeTorch(streams)
    monkeypatch.setitem(sys.modules, "torch", fake)
    return fake


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("n", [3, 19])
def test_tensors_on_a_gpu(fake_torch: FakeTorch, number: int, n: int) -> None:
    machine, streams = Gpus(), fake_torch.streams
    made, inputs = gpu(machine), toy_inputs(n)
    tensors = [fake_torch.Tensor(x, number) for x in inputs]
    streams.used.clear()
    with streams.watched():
        results = made.call(tensors)
    for got, wanted in zip(results, toy_outputs(*inputs), strict=True):
        assert isinstance(got, fake_torch.Tensor)
        assert got.device.index == number
        assert np.array_equal(got.numpy(), wanted)
    assert set(streams.used) == {streams.own[number].handle}
    assert machine.asked == [number]
    workspace = ((min(n, 8) * 512,), "uint8", number)
    assert fake_torch.made[-1] == workspace
    made.call(tensors)
    assert machine.asked == [number]


def test_a_program_is_loaded_where_its_inputs_are(
    fake_torch: FakeTorch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No context on another GPU, which takes memory there."""
    machine = Gpus()
    program = gpu_program()
    monkeypatch.setattr("qcompile.program.Native", lambda: machine)
    monkeypatch.setattr("qcompile.program.choose", lambda *_: VARIANT)
    monkeypatch.setattr("qcompile.program.Code", lambda *_: toy_code())
    inputs = toy_inputs(3)
    fake_torch.cuda.current_device = lambda: 0
    results = program(*(fake_torch.Tensor(x, 1) for x in inputs))
    assert np.array_equal(results[0].numpy(), toy_outputs(*inputs)[0])
    assert machine.asked == [1]
    program.library()
    assert machine.asked == [1, 0]


def test_tensors_are_read_in_place_unless_they_cannot_be(fake_torch: FakeTorch) -> None:
    given: list[list[int]] = []
    made, inputs = gpu(), toy_inputs(2)
    library = made._library(0)
    original = library.run

    def run(inputs: list[int], *rest: Any) -> None:
        given.append(list(inputs))
        original(inputs, *rest)

    library.run = run  # type: ignore[method-assign,assignment]
    x, b = (fake_torch.Tensor(value) for value in inputs)
    made.call((x, b))
    assert given == [[x.data_ptr(), b.data_ptr()]]
    x.contiguous, b.negative = False, True
    results = made.call((x, b))
    assert not set(given[1]) & {x.data_ptr(), b.data_ptr()}
    assert np.array_equal(results[0].numpy(), toy_outputs(*inputs)[0])


def test_arrays_on_the_cpu_run_on_torchs_current_gpu(fake_torch: FakeTorch) -> None:
    machine, inputs = Gpus(), toy_inputs(3)
    made = gpu(machine)
    assert np.array_equal(made.call(inputs)[0], toy_outputs(*inputs)[0])
    assert machine.asked == [1]
    fake_torch.cuda.current_device = lambda: 0
    made.call(inputs)
    made.call([fake_torch.Tensor(x) for x in inputs])
    assert machine.asked == [1, 0]


def test_the_first_gpu_is_current_where_torch_uses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch.cuda.is_initialized() or current_device() == 0
    monkeypatch.delitem(sys.modules, "torch")
    assert current_device() == 0


def test_tensors_that_are_refused(fake_torch: FakeTorch) -> None:
    x, b = toy_inputs(2)
    made, tensor = gpu(), fake_torch.Tensor
    for inputs, message in (
        (
            (tensor(x), tensor(b, 1)),
            "input b lies on cuda:1, the first input on cuda:0\n  pass all",
        ),
        (
            (tensor(x, kind="mps"), tensor(b)),
            "input x lies on mps:0, the program runs on an NVIDIA",
        ),
        ((tensor(x), tensor(b[:1])), "the inputs have batches of different sizes (x: 2, b: 1)"),
        ((tensor(x),), "the program takes 2 inputs, got 1"),
        ((tensor(x.astype("f8")), tensor(b)), "input x is float64, the program takes float32[N, 3"),
        ((tensor(x[:, 0]), tensor(b)), "input x has the shape [2, 8], the program takes"),
        ((tensor(x), b), "input b is of type ndarray, the first input of type Tensor"),
    ):
        with pytest.raises(QCompileError) as caught:
            made.call(inputs)
        assert str(caught.value).startswith(message)


def test_steps_take_tensors_from_a_gpu(fake_torch: FakeTorch) -> None:
    inputs = toy_inputs(3)
    fake_torch.Tensor.cpu = lambda self: self.value
    run = gpu().steps([fake_torch.Tensor(x) for x in inputs])
    run(0)
    assert np.array_equal(run(1)["y"].view("f4").reshape(3, 3, 8), toy_outputs(*inputs)[0])


def test_an_emulated_gpu_reads_no_tensor_of_a_real_one(fake_torch: FakeTorch) -> None:
    x, b = (fake_torch.Tensor(value) for value in toy_inputs(2))
    with pytest.raises(QCompileError, match="input x lies on cuda:0, the program runs on the CPU"):
        gpu_program().emulated()(x, b)


# --- CuPy, and whatever else ---------------------------------------------------------------------


class FakeCupy:
    """What the runtime asks of CuPy."""

    def __init__(self, streams: Streams) -> None:
        self.streams, self.number = streams, 0
        self.taken: list[str] = []
        outer = self

        class Place:
            def __init__(self, number: int) -> None:
                self.id = number

            def __enter__(self) -> None:
                self.before, outer.number = outer.number, self.id

            def __exit__(self, *_: object) -> None:
                outer.number = self.before

        class Array(OnGpu):
            contiguous = True

            def __init__(self, value: np.ndarray[Any, Any], number: int = 0) -> None:
                super().__init__(value, number, outer.streams)
                self.value, self.dtype = value, value.dtype
                self.data = SimpleNamespace(ptr=self.memory.address)
                self.device = Place(number)

            __cuda_array_interface__ = property(lambda self: {})

        Array.__module__, Array.__qualname__ = "cupy", "ndarray"
        self.ndarray: Any = Array
        self.cuda = SimpleNamespace(
            Device=Place,
            get_current_stream=lambda: SimpleNamespace(ptr=streams.own[self.number].handle),
        )

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        return self.ndarray(np.zeros(shape, dtype), self.number)

    def ascontiguousarray(self, x: Any) -> Any:
        return x if x.contiguous else self.ndarray(x.value, x.number)

    def asarray(self, x: Any) -> Any:
        self.taken.append("interface")
        return self.ndarray(x.value, x.number)

    def from_dlpack(self, x: Any) -> Any:
        self.taken.append("dlpack")
        return self.ndarray(x.value, x.number)


@pytest.fixture
def fake_cupy(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> FakeCupy:
    fake = FakeCupy(streams)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    return fake


class Foreign:
    """An array of another library: by the CUDA array interface, or by DLPack alone."""

    def __init__(self, value: Any, device: tuple[int, int] | None = None) -> None:
        self.value, self.number = value, 0
        if device is None:
            self.__cuda_array_interface__: dict[str, Any] = {}
        else:
            self.__dlpack_device__ = lambda: device


def test_arrays_that_cupy_cannot_read(fake_cupy: FakeCupy) -> None:
    x, b = toy_inputs(2)

    def refuse(_: Any) -> None:
        raise BufferError("it is of bfloat16")

    fake_cupy.from_dlpack = refuse  # type: ignore[method-assign,assignment]
    with pytest.raises(QCompileError, match="input x cannot be read by CuPy: it is of bfloat16"):
        gpu().call((Foreign(x, (2, 0)), Foreign(b, (2, 0))))


@pytest.mark.parametrize("number", [0, 1])
def test_arrays_of_cupy(fake_cupy: FakeCupy, number: int) -> None:
    inputs, machine, streams = toy_inputs(9), Gpus(), fake_cupy.streams
    x, b = (fake_cupy.ndarray(value, number) for value in inputs)
    x.contiguous = False
    streams.used.clear()
    with streams.watched():
        results = gpu(machine).call((x, b))
    for got, wanted in zip(results, toy_outputs(*inputs), strict=True):
        assert isinstance(got, fake_cupy.ndarray)
        assert got.number == number
        assert np.array_equal(got.numpy(), wanted)
    assert set(streams.used) == {streams.own[number].handle}
    assert machine.asked == [number]
    assert fake_cupy.taken == []


def test_arrays_of_others_by_cupy(fake_cupy: FakeCupy) -> None:
    inputs = toy_inputs(2)
    results = gpu().call((Foreign(inputs[0]), Foreign(inputs[1], (2, 0))))
    assert fake_cupy.taken == ["interface", "dlpack"]
    assert np.array_equal(results[0].numpy(), toy_outputs(*inputs)[0])


def test_arrays_of_others_without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    x, b = toy_inputs(2)
    for device in (None, (2, 0), (13, 0)):
        with pytest.raises(QCompileError) as caught:
            gpu().call((Foreign(x, device), Foreign(b, device)))
        said = str(caught.value)
        assert said.startswith("input x is a ")
        assert ".Foreign on a GPU\n  pass torch.from_dlpack(x) or cupy.asarray(x), so" in said
    with pytest.raises(
        QCompileError, match="input x is of type Foreign, the program takes float32"
    ):
        gpu().call((Foreign(x, (1, 0)), Foreign(b, (1, 0))))


def test_arrays_that_are_refused(fake_cupy: FakeCupy) -> None:
    x, b = toy_inputs(2)
    made, array = gpu(), fake_cupy.ndarray
    for inputs, message in (
        ((array(x), array(b, 1)), "input b lies on GPU 1, the first input on GPU 0"),
        ((array(x), b), "input b is a numpy.ndarray, the first input lies on a GPU"),
        ((array(x), array(b[:1])), "the inputs have batches of different sizes (x: 2, b: 1)"),
        ((array(x),), "the program takes 2 inputs, got 1"),
        (
            (array(x), array(x)),
            "input b is float32, the program takes int32[N, 4]\n  pass x.astype",
        ),
        ((array(x[:, 0]), array(b)), "input x has the shape [2, 8], the program takes"),
        ((array(x[:0]), array(b[:0])), "input x is an empty batch"),
    ):
        with pytest.raises(QCompileError) as caught:
            made.call(inputs)
        assert str(caught.value).startswith(message)


def test_steps_take_arrays_of_cupy(fake_cupy: FakeCupy) -> None:
    inputs = toy_inputs(3)
    fake_cupy.ndarray.get = lambda self: self.value
    run = gpu().steps([fake_cupy.ndarray(x) for x in inputs])
    run(0)
    assert np.array_equal(run(1)["y"].view("f4").reshape(3, 3, 8), toy_outputs(*inputs)[0])


def test_the_driver_is_loaded_once(streams: Streams) -> None:
    assert driver(str(emulator.driver())) is streams.context.driver
