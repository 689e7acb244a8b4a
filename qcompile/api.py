"""The public functions: prepare, convert, compile."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.func import functional_call
from torch.fx import GraphModule
from torch.nn.parameter import UninitializedParameter
from torch.utils._pytree import tree_leaves

from qcompile import pipelines
from qcompile.calibration import (
    calibrate,
    constant_note,
    knows_ranges,
    needs_calibration,
    take_ranges,
)
from qcompile.errors import QCompileError
from qcompile.ir.batches import fixing
from qcompile.ir.exported import graph_of
from qcompile.ir.graph import TensorSpec, stage_of, trace, verify
from qcompile.ir.plan import LayerPlan
from qcompile.ir.stages import Stage
from qcompile.ir.target import Target, Targets
from qcompile.ir.torch_ao import check_not_converted, without_observers
from qcompile.passes.base import AfterEach, run
from qcompile.program import Program
from qcompile.quant.activations import UnitActivation
from qcompile.quant.observers import Observer
from qcompile.quant.recipe import Recipe
from qcompile.quant.weights import DorefaWeight

if TYPE_CHECKING:
    from qcompile.kernels import Kernels
    from qcompile.steps import Step
    from qcompile.tuning import Tuning
    from qcompile.tuning_search import Tuned

_log = logging.getLogger("qcompile")
UNTRAINED_BITS = 3  # from here down, weights that were not trained with their quantizer are noise


def prepare(
    model: nn.Module | ExportedProgram,
    example_inputs: Tensor | Sequence[Tensor] | None = None,
    recipe: Recipe | None = None,
    *,
    concrete_args: Mapping[str, Any] | None = None,
    leaf_modules: Collection[type[nn.Module]] = (),
    after_each: AfterEach | None = None,
) -> GraphModule:
    """Make a model that is quantized while it trains.

    The result is an ordinary module with parameters of its own, to be trained as any other, or
    calibrated: run in eval mode on a few real batches. It is in the mode the model is in.

    Args:
        model: a float network, or what `torch.export.export` made of one; it stays as it is. One that
            torch.ao prepared, or with its stubs, is read as the float network that it was: what
            torch.ao would leave in float stays float.
        example_inputs: float32, one for each argument of `forward`; dimension 0 is the batch.
            Arguments with a default that are not given keep it. None, for an exported program: those
            that it was exported with.
        recipe: `Recipe()` if None: one bit.
        concrete_args: values for arguments that are settings, not inputs.
        leaf_modules: classes to keep whole instead of tracing into them.
        after_each: called with every pass and its result.

    Raises:
        QCompileError: the model or the recipe has something that cannot be had, with its place.
    """
    recipe = Recipe() if recipe is None else recipe
    if not isinstance(recipe, Recipe):
        raise QCompileError(
            f"recipe is {recipe!r}", hint="pass qcompile.Recipe(bits=1), or any of its fields"
        )
    graph = traced(model, example_inputs, concrete_args=concrete_args, leaf_modules=leaf_modules)
    return run(pipelines.prepare_passes(recipe), graph, after_each).graph


def traced(
    model: nn.Module | ExportedProgram,
    example_inputs: Tensor | Sequence[Tensor] | None,
    *,
    concrete_args: Mapping[str, Any] | None = None,
    leaf_modules: Collection[type[nn.Module]] = (),
) -> GraphModule:
    """The graph that `prepare` begins with; its modules are the model's own.

    Raises:
        QCompileError: the model cannot be traced, computes something else than its graph, or the
            example inputs are not what it takes.
    """
    if isinstance(model, ExportedProgram):
        return from_exported(model, example_inputs)
    if not isinstance(model, nn.Module):
        raise QCompileError(
            f"a {type(model).__name__} is no model", hint="pass a torch.nn.Module, not its class"
        )
    check_not_converted(model)
    model = without_observers(model)
    inputs = _examples_for(model, example_inputs)
    if isinstance(model, GraphModule) and "stage" in model.meta:
        return _traced_already(model, inputs)
    _check_initialized(model)
    settled = _settled_arguments(model, len(inputs), concrete_args or {})
    graph = trace(model, inputs, concrete_args=settled, leaf_modules=leaf_modules)
    graph.meta["model"] = type(model).__name__
    _check_traced(model, graph, inputs, settled)
    return graph


def from_exported(
    program: ExportedProgram, example_inputs: Tensor | Sequence[Tensor] | None = None
) -> GraphModule:
    """The float network of an exported program, to be trained, evaluated, or prepared.

    Its parameters are copies. Its batch is open, and `train()` and `eval()` decide about
    Dropout and BatchNorm, whatever the program was exported for.

    Args:
        example_inputs: None takes those that it was exported with.

    Raises:
        QCompileError: the program has something that cannot be had, with its place.
    """
    inputs = _examples_for(program, example_inputs)
    graph = graph_of(program, inputs)
    # The shapes that it was exported for are the only ones that it can be called with.
    arguments, settings = program.example_inputs or (inputs, {})
    values = tuple(tree_leaves((arguments, settings)))
    # With copies: a program in training mode changes the statistics of its BatchNorms.
    state = {name: value.clone() for name, value in program.state_dict.items()}
    with torch.no_grad(), torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        module: Any = program.module()
        expected = tree_leaves(functional_call(module, state, arguments, settings))
        torch.manual_seed(0)
        got = tree_leaves(copy.deepcopy(graph)(*values))
    if not _alike(got, expected):
        raise QCompileError(
            "the graph of the exported program does not compute what the program does",
            hint="pass the model itself instead of the program",
        )
    return run(pipelines.read_passes(), graph).graph


def _traced_already(gm: GraphModule, inputs: tuple[Tensor, ...]) -> GraphModule:
    """A copy of what `from_exported` gave, for these inputs.

    Raises:
        QCompileError: it is another stage's, or was read for other inputs.
    """
    stage = stage_of(gm)
    if stage is not Stage.TRACED:
        what = f"this model is {stage.value} already"
        raise QCompileError(what, hint="prepare takes a float model")
    known: tuple[TensorSpec, ...] = gm.meta["inputs"]
    sizes, wanted = [tuple(x.shape[1:]) for x in inputs], [spec.shape[1:] for spec in known]
    if sizes != wanted:  # poolings to a size have become windows
        raise QCompileError(
            f"this graph was read for inputs of {_sizes(wanted)}, not {_sizes(sizes)}, in each sample",
            hint="qcompile.from_exported(program, example_inputs) with these example inputs",
        )
    gm = copy.deepcopy(gm)
    gm.meta["inputs"] = tuple(TensorSpec(tuple(x.shape), x.dtype) for x in inputs)
    verify(gm)
    return gm


def _sizes(shapes: Sequence[Sequence[int]]) -> str:
    return " and ".join(str(list(shape)) for shape in shapes)


def convert(prepared: GraphModule, *, after_each: AfterEach | None = None) -> GraphModule:
    """Make integers and functions of a prepared model that was trained or calibrated.

    The result runs in plain PyTorch and equals `prepared.eval()` bit for bit. So that it stays so,
    the observers of `prepared` record no more, unless it is trained again.

    Raises:
        QCompileError: it is not prepared; its observers saw nothing, or NaN or infinity; its biases
            were to be corrected, and were not.
    """
    if not isinstance(prepared, GraphModule) or stage_of(prepared) is not Stage.PREPARED:
        raise QCompileError(
            "convert takes a prepared model",
            hint="make one with qcompile.prepare(model, example_inputs, recipe)",
        )
    if prepared.meta.get("correct_bias"):
        raise QCompileError(
            "correct_bias is for a calibrated network, and this one was not calibrated",
            hint="qcompile.calibrate(prepared, batches); or leave correct_bias out",
        )
    take_ranges(prepared)
    converted = run(pipelines.convert_passes(), prepared, after_each).graph
    for module in prepared.modules():
        if isinstance(module, Observer):
            module.freeze()
    return converted


def compile(
    model: nn.Module | ExportedProgram,
    example_inputs: Tensor | Sequence[Tensor] | None = None,
    *,
    target: Targets = "cpu",
    calibration: Iterable[Any] | None = None,
    recipe: Recipe | None = None,
    after_each: AfterEach | None = None,
    step: Step = nullcontext,
    tune: bool | int | Tuning | Tuned = False,
    kernel: Kernels = None,
    **recipe_fields: Any,
) -> Program:
    """Compile a converted model, or do everything that leads there from a float one.

    Since nothing is trained here, the mode of the recipe is "static" where its fields do not say.

    Args:
        model: what `convert` gave; or a float network, which is prepared, calibrated and converted
            but not trained, so that one needs `example_inputs`.
        example_inputs: one tensor for each argument of `forward`; dimension 0 is the batch. None,
            for an exported program: those that it was exported with.
        target: "cpu" for this machine, "cpu:haswell" for another, "cpu:portable" for code for
            several in one program; "cuda" for GPUs of NVIDIA, "cuda:sm_86" for one architecture;
            several of these, "cuda,cpu", for code for all of them, of which a machine runs the first
            that it can; or a Target, or a sequence of such.
        calibration: batches of real inputs, each a tensor or a tuple that begins with the inputs;
            without it the example inputs have to do. Modes "dynamic" and "weight-only" need none.
        recipe, recipe_fields: a Recipe, or its fields: `bits=8`, `mode="dynamic"`, ...
        after_each: called with every pass and its result.
        step: entered around what takes long, with its title: once for each processor.
        tune: False gives every kernel its default, and reads no cache. True measures all ways to
            compute each kernel that the cache does not know, and takes the fastest; a number, so
            many of them at most; a `qcompile.Tuning` says all of it. For processors only.
        kernel: None lets a model of their costs choose. Else "int8", "lookup", "bit-planes" or
            "xnor-popcount" for all layers that can have it; or a name for each layer path, glob or
            class: `{"layer1.*": "lookup"}`. Results do not depend on it. For processors only.

    Raises:
        QCompileError: something in the model, the data or the recipe cannot be had.
    """
    targets = Target.parse_all(target)
    if isinstance(model, GraphModule) and model.meta.get("stage") is Stage.CONVERTED:
        unused = {"example_inputs": example_inputs, "calibration": calibration, "recipe": recipe}
        given = [name for name, value in (unused | recipe_fields).items() if value is not None]
        if given:
            raise QCompileError(
                f"a converted model takes no {', '.join(given)}: that is settled",
                hint="qcompile.compile(converted, target=...)",
            )
        return _compile_converted(model, targets, (), after_each, step, tune, kernel)
    if isinstance(model, GraphModule) and model.meta.get("stage") is Stage.PREPARED:
        raise QCompileError(
            "this model is prepared, not converted",
            hint="qcompile.compile(qcompile.convert(prepared))",
        )
    example_inputs = _examples_for(model, example_inputs)
    prepared = prepare(model, example_inputs, _recipe(recipe, recipe_fields), after_each=after_each)
    needed = needs_calibration(prepared) and not knows_ranges(prepared)
    if calibration is not None:
        calibrate(prepared, calibration)
    elif needed:
        calibrate(prepared, [example_inputs])
    notes = _notes(prepared, guessed=needed and calibration is None)
    for note in notes:
        _log.warning(note)
    converted = convert(prepared, after_each=after_each)
    return _compile_converted(converted, targets, notes, after_each, step, tune, kernel)


def _compile_converted(
    converted: GraphModule,
    targets: tuple[Target, ...],
    notes: tuple[str, ...],
    after_each: AfterEach | None,
    step: Step,
    tune: bool | int | Tuning | Tuned,
    kernel: Kernels,
) -> Program:
    from qcompile import kernels
    from qcompile.building import build_program  # the compiler, loaded only where it is needed
    from qcompile.tuning_search import as_tuned

    with step("lower to kernels"):
        selection, lowered = kernels.lower(converted, targets, kernel, after_each)
    tuned = as_tuned(tune, lowered, targets, step)
    if tuned is not tune:
        for note in tuned.notes:
            _log.warning(note)
    choose = selection.choose(tuned.choose)
    return build_program(converted, lowered, targets, notes, step, choose)


def _recipe(recipe: Recipe | None, fields: Mapping[str, Any]) -> Recipe:
    if recipe is not None and fields:
        raise QCompileError(
            f"recipe and {', '.join(fields)} are both given", hint="put them all into the recipe"
        )
    if recipe is not None:
        return recipe
    known = inspect.signature(Recipe).parameters
    if unknown := [name for name in fields if name not in known]:
        raise QCompileError(
            f"compile has no argument {unknown[0]!r}", hint=f"of a recipe: {', '.join(known)}"
        )
    return Recipe(**{"mode": "static", **fields})


def untrained(prepared: GraphModule) -> str | None:
    """What of a prepared model is of no use without training, in words; None if nothing is."""
    plans: Mapping[str, LayerPlan] = prepared.meta["plans"]
    bits = min((plan.weight_bits for plan in plans.values()), default=UNTRAINED_BITS + 1)
    if bits <= UNTRAINED_BITS:
        return f"{bits}-bit weights"
    if any(isinstance(module, (DorefaWeight, UnitActivation)) for module in prepared.modules()):
        # Weights are squashed by tanh, and activations clipped at 1: no rounding of the float ones.
        return "quantizers of DoReFa-Net"
    return None


def _notes(prepared: GraphModule, guessed: bool) -> tuple[str, ...]:
    """What the user of a model that was not trained should know."""
    notes = []
    if what := untrained(prepared):
        notes.append(
            f"its {what} are not trained: expect the accuracy of a guess, and train "
            "the prepared model to do better"
        )
    if guessed:
        notes.append(
            "without calibration data, activation ranges and new BatchNorms are those of the "
            "example inputs alone"
        )
    if constant := constant_note(prepared):
        notes.append(constant)
    return tuple(notes)


# --- what is given -------------------------------------------------------------------------------


def examples_of(program: ExportedProgram) -> tuple[Tensor, ...] | None:
    """What a program was exported with, if it kept that: its inputs, whatever their structure."""
    values = tree_leaves(program.example_inputs)
    known = program.example_inputs is not None and all(isinstance(x, Tensor) for x in values)
    return tuple(values) if known else None


def _examples_for(
    model: nn.Module | ExportedProgram, given: Tensor | Sequence[Tensor] | None
) -> tuple[Tensor, ...]:
    """The example inputs, or the program's own where none are given.

    Raises:
        QCompileError: there are none, or they are not what a model takes.
    """
    if given is not None:
        return _examples(given)
    own = examples_of(model) if isinstance(model, ExportedProgram) else None
    if own is None:
        what = "this program was exported without any" if isinstance(model, ExportedProgram) else ""
        raise QCompileError(
            f"there are no example inputs{what and ': '}{what}",
            hint="pass them behind the model: one tensor for each argument of forward",
        )
    return _examples(own)


def _examples(example_inputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    hint = (
        "pass a tensor, or a tuple with one for each argument of forward; dimension 0 is the batch"
    )
    if not inputs:
        raise QCompileError("there are no example inputs", hint=hint)
    for i, x in enumerate(inputs):
        name = f"example input {i}"
        if not isinstance(x, Tensor):
            raise QCompileError(f"{name} is a {type(x).__name__}, no tensor", hint=hint)
        if x.dtype != torch.float32:
            raise QCompileError(f"{name} is {x.dtype}, not torch.float32", hint="use x.float()")
        if x.device.type != "cpu":
            raise QCompileError(f"{name} is on {x.device}, not on the CPU", hint="use x.cpu()")
        if x.dim() == 0 or x.numel() == 0:
            raise QCompileError(f"{name} has the shape {list(x.shape)}", hint=hint)
        if x.shape[0] != inputs[0].shape[0]:
            raise QCompileError("the example inputs have batches of different sizes", hint=hint)
        if not x.isfinite().all():
            raise QCompileError(f"{name} holds NaN or infinity")
    return inputs


def _check_initialized(model: nn.Module) -> None:
    for name, value in model.named_parameters():
        if isinstance(value, UninitializedParameter):
            raise QCompileError(
                "it has no shape yet", where=name, hint="run the model once: model(example_inputs)"
            )
        if value.device.type != "cpu":
            raise QCompileError(f"it is on {value.device}", where=name, hint="use model.cpu()")


def _check_traced(
    model: nn.Module, graph: GraphModule, inputs: Sequence[Tensor], settled: Mapping[str, Any]
) -> None:
    """Run both: `y += 1` is traced as `y = y + 1`, which another name of y does not see."""
    results = []
    for module, settings in ((model, settled), (graph, {})):
        with torch.no_grad(), torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            # Copies, which the model may write to; two rows, without which BatchNorm cannot train.
            arguments = [torch.cat([x, x]) for x in inputs]
            # In the mode the model is in: F.dropout(x, training=self.training) was traced in it.
            try:
                results.append(tree_leaves(copy.deepcopy(module)(*arguments, **settings)))
            except (RuntimeError, ValueError, IndexError) as error:
                copy.deepcopy(module)(*inputs, **settings)  # where this fails too, it says why
                raise _of_one_size(type(model).__name__, graph, inputs, error) from error
    expected, got = results
    if not _alike(got, expected):
        raise QCompileError(
            f"the graph of {type(model).__name__} does not compute what the model does",
            hint="an operation that writes in place (y += 1, y[0] = 1) to a value with another name "
            "does not show in a trace: write y = y + 1",
        )


def _of_one_size(
    name: str, graph: GraphModule, inputs: Sequence[Tensor], error: Exception
) -> QCompileError:
    """That a model takes batches of one size; `error` is what another one gave."""
    one, more = len(inputs[0]), 2 * len(inputs[0])
    arguments = [torch.cat([x, x]) for x in inputs]
    why = str(error).partition("\n")[0]
    return QCompileError(
        f"{name} takes batches of {one} only: with {more} samples, {why}",
        where=fixing(graph, arguments),
        hint="keep the batch open: x.flatten(1), or x.reshape(x.shape[0], -1), in place of reshape(1, -1)",
    )


def _alike(got: Sequence[Any], expected: Sequence[Any]) -> bool:
    """Whether two runs gave the same tensors, but for the order of their sums."""
    return len(got) == len(expected) and all(
        isinstance(a, Tensor)
        and a.shape == b.shape
        and torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)
        for a, b in zip(got, expected, strict=True)
    )


def _settled_arguments(
    model: nn.Module, inputs: int, concrete_args: Mapping[str, Any]
) -> dict[str, Any]:
    """Values of the arguments of `forward` that are no inputs.

    Raises:
        QCompileError: more or fewer inputs than arguments.
    """
    parameters = inspect.signature(model.forward).parameters.values()
    names = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    free = [p for p in names if p.name not in concrete_args]
    needed = [p for p in free if p.default is p.empty]
    anything = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if len(needed) > inputs or (len(free) < inputs and not anything):
        takes = ", ".join(p.name for p in free) or "nothing"
        raise QCompileError(
            f"forward takes ({takes}), and there are {inputs} example inputs",
            hint="pass one for each argument, or its value in concrete_args",
        )
    return {**{p.name: p.default for p in free[inputs:]}, **concrete_args}
