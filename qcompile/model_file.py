"""The user's model file: what is read from it, and what is said when it does not work.

A model file is plain Python that defines

    model                a torch.nn.Module, or a program of torch.export, which has its example inputs;
                         or build_model() that returns one
    example_inputs       a tensor or a tuple of them, or input_shape, a tuple of sizes, batch first
    train(model, ...)    optional: trains the model in place; `epochs` and `progress` are passed if
                         it takes them, progress(done, total) moves a bar
    calibration_data()   optional: an iterable of inputs, each a tensor, or a tuple that begins with
                         the model's inputs; what follows, such as labels, is not looked at
    evaluate(model)      optional: a number, accuracy from 0 to 1; the model is the float network,
                         the fake-quant one, or the compiled program; `samples`, how many to look at,
                         is passed if it takes it and somebody asks for less than all
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from qcompile import api
from qcompile.calibration import inputs_of
from qcompile.errors import QCompileError
from qcompile.ir.graph import TensorSpec

Inputs = tuple[Tensor, ...]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ModelFile:
    """A model and what its file knows to do with it; whatever fails in there names its line.

    Attributes:
        name: the file's stem, for the names of what is made of it.
        path: the file.
        model: the float network.
        example_inputs: one tensor for each argument of `model.forward`.
        module: where `train`, `calibration_data` and `evaluate` are, if anywhere.
        made_up: whether the example inputs are random numbers, since only their shape was given.
    """

    name: str
    path: Path
    model: nn.Module
    example_inputs: Inputs
    module: ModuleType
    made_up: bool = False

    def has(self, function: str) -> bool:
        """Whether the file defines the function."""
        return callable(getattr(self.module, function, None))

    def takes_epochs(self) -> bool:
        """Whether `train` has an argument `epochs`."""
        return self.has("train") and "epochs" in _keywords(self.module.train, "epochs")

    def train(self, model: nn.Module, epochs: int | None, progress: Progress) -> None:
        """Train a model in place by the file's `train`; it is in eval mode after that.

        Raises:
            QCompileError: the user's code fails.
        """
        wanted = {"progress": progress} | ({} if epochs is None else {"epochs": epochs})
        accepted = _keywords(self.module.train, *wanted)
        with users_code(self.path, "train"):
            self.module.train(model, **{name: wanted[name] for name in accepted})
        model.eval()

    def calibration_data(self) -> Iterator[Inputs]:
        """The file's batches of inputs.

        Raises:
            QCompileError: the user's code fails, or gives nothing or something else.
        """
        with users_code(self.path, "calibration_data"):
            data = self.module.calibration_data()
        if not hasattr(data, "__iter__") and not hasattr(data, "__getitem__"):
            raise QCompileError(
                f"calibration_data returns {data!r}, and not batches of inputs",
                where=str(self.path),
                hint="return a list or a DataLoader, or yield batch for batch",
            )
        with users_code(self.path, "calibration_data"):
            batches = iter(data)
        for number in count():
            with users_code(self.path, "calibration_data"):
                try:
                    batch = next(batches)
                except StopIteration:
                    break
            yield self._inputs(batch, number)
        if number == 0:
            raise QCompileError("calibration_data() gives no batch", where=str(self.path))

    def takes_samples(self) -> bool:
        """Whether `evaluate` has an argument `samples`."""
        return self.has("evaluate") and "samples" in _keywords(self.module.evaluate, "samples")

    def evaluate(self, model: nn.Module, samples: int | None = None) -> float:
        """Accuracy of a model, by the file's `evaluate`.

        Args:
            samples: how many it is to look at, if it takes that; None leaves it to the file.

        Raises:
            QCompileError: the user's code fails, or returns no number.
        """
        wanted = {} if samples is None or not self.takes_samples() else {"samples": samples}
        with users_code(self.path, "evaluate"), torch.no_grad():
            value = self.module.evaluate(model, **wanted)
        value = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        if not isinstance(value, Real) or not math.isfinite(value):
            raise QCompileError(
                f"evaluate returns {value!r}, not a number",
                where=str(self.path),
                hint="return the share of right answers, as a float from 0 to 1",
            )
        return float(value)

    def _inputs(self, batch: object, number: int) -> Inputs:
        takes = len(self.example_inputs)
        values = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
        inputs = tuple(x for x in values[:takes] if isinstance(x, Tensor))
        if len(inputs) != takes:
            raise QCompileError(
                f"calibration_data gives {_kind(batch)}, the model takes {takes} input(s)",
                where=str(self.path),
                hint="a batch is a tensor, or a tuple of which the first are the model's inputs",
            )
        specs = [TensorSpec(tuple(x.shape), x.dtype) for x in self.example_inputs]
        try:
            return inputs_of(inputs, specs, number)
        except QCompileError as error:
            where = f"{self.path}: calibration_data(), batch {number}"
            raise QCompileError(error.what, where=where, hint=error.hint) from error


@contextmanager
def users_code(path: Path, doing: str) -> Iterator[None]:
    """Turn whatever the user's code raises into a QCompileError that names the line.

    Only here may every exception be caught: nothing is known of that code.
    """
    try:
        yield
    except QCompileError:
        raise
    except (Exception, SystemExit) as error:
        text = str(error).strip().splitlines()
        raise QCompileError(
            f"{doing} fails with {type(error).__name__}{': ' + text[0] if text else ''}",
            where=_line(error, path),
            hint="--debug shows the whole traceback",
        ) from error


def _line(error: BaseException, path: Path) -> str:
    """The innermost line of the user's file that led to the error."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path]
    return f"{path}:{frames[-1].lineno} ({frames[-1].line})" if frames else str(path)


def _keywords(function: Callable[..., Any], *wanted: str) -> list[str]:
    parameters = inspect.signature(function).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return [name for name in wanted if takes_all or name in parameters]


# --- reading the file ----------------------------------------------------------------------------


def read(spec: str, input_shape: Sequence[int] | None = None) -> ModelFile:
    """Load what the command line calls MODEL: a file, or `package.module:name`.

    Args:
        input_shape: sizes of the input, batch first, for a file that does not say.

    Raises:
        QCompileError: no such file or module, an exception inside it, no model in it.
    """
    dotted, _, attribute = spec.partition(":")
    module = _import(dotted) if attribute else _run(Path(spec))
    path = Path(module.__file__ or spec)
    model = _model(module, path, attribute)
    if isinstance(model, ExportedProgram):
        own = api.examples_of(model) if input_shape is None else None
        examples = own or _examples(module, path, input_shape)
        network: nn.Module = api.from_exported(model, examples)
    else:
        own, examples, network = None, _examples(module, path, input_shape), model
    made_up = own is None and (input_shape is not None or not hasattr(module, "example_inputs"))
    return ModelFile(attribute or path.stem, path, network, examples, module, made_up)


def _run(file: Path) -> ModuleType:
    path = file.resolve()
    if not path.is_file():
        raise QCompileError(
            f"there is no file {str(file)!r}",
            hint="MODEL is a Python file, or package.module:name for an installed model",
        )
    # As `python file.py` does: what lies beside the file can be imported.
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(f"qcompile_model_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise QCompileError("not a Python file", where=str(file), hint="its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    with users_code(path, "the file"):
        spec.loader.exec_module(module)
    return module


def _import(dotted: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.util.find_spec(dotted)
    except (ModuleNotFoundError, ValueError):
        found = None
    if found is None:
        raise QCompileError(
            f"there is no module {dotted!r}",
            hint="MODEL is a Python file, or package.module:name for an installed model",
        )
    with users_code(Path(found.origin or dotted), f"importing {dotted}"):
        return importlib.import_module(dotted)


def _model(module: ModuleType, path: Path, attribute: str) -> nn.Module | ExportedProgram:
    name = attribute or next((n for n in ("model", "build_model") if hasattr(module, n)), "")
    if not name:
        raise QCompileError(
            "the file defines neither model nor build_model()",
            where=str(path),
            hint="name the network `model`, or write a function build_model() that returns it",
        )
    if not hasattr(module, name):
        raise QCompileError(f"there is no {name!r} in {module.__name__}", where=str(path))
    value = getattr(module, name)
    if isinstance(value, (nn.Module, ExportedProgram)):
        return value
    if not callable(value) or (name == "model" and not inspect.isclass(value)):
        raise QCompileError(
            f"{name} is {_kind(value)}, not a torch.nn.Module",
            where=str(path),
            hint="write a function build_model() that returns the network"
            if callable(value)
            else None,
        )
    with users_code(path, f"{name}()"):
        built = value()
    if not isinstance(built, (nn.Module, ExportedProgram)):
        raise QCompileError(
            f"{name}() returns {_kind(built)}, not a torch.nn.Module", where=str(path)
        )
    return built


def _examples(module: ModuleType, path: Path, input_shape: Sequence[int] | None) -> Inputs:
    if input_shape is None and hasattr(module, "example_inputs"):
        inputs = _tensors(module.example_inputs)
        if not inputs:
            raise QCompileError(
                f"example_inputs is {_kind(module.example_inputs)}, not a tensor or a tuple of them",
                where=str(path),
            )
        return inputs
    shape = input_shape or getattr(module, "input_shape", None)
    if shape is None:
        raise QCompileError(
            "nothing says what the model's input looks like",
            where=str(path),
            hint="define example_inputs or input_shape beside the model, or pass --input-shape "
            "1,1,28,28 (the first size is the batch)",
        )
    sizes = list(shape) if isinstance(shape, (tuple, list)) else [shape]
    if not sizes or not all(type(n) is int and n > 0 for n in sizes):
        raise QCompileError(
            f"input_shape is {shape!r}, not a tuple of sizes from 1 up",
            where=str(path),
            hint="for several inputs define example_inputs, a tuple of tensors",
        )
    return (torch.randn(*sizes, generator=torch.Generator().manual_seed(0)),)


def _tensors(value: object) -> Inputs | None:
    items = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return items if all(isinstance(item, Tensor) for item in items) else None


def _kind(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__} of {', '.join(map(_kind, value)) or 'nothing'}"
    return f"the class {value.__name__}" if inspect.isclass(value) else type(value).__name__
