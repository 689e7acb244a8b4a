"""The main job, from a model file to a verified program on disk: `run`, read from top to bottom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from torch.fx import GraphModule

from qcompile import api, model_file, report, tuning_search, weights
from qcompile.calibration import calibrate, constant_note, knows_ranges, needs_calibration
from qcompile.codegen.cuda import nvcc
from qcompile.codegen.cuda.gpu import architectures_of
from qcompile.codegen.linker import find_linker
from qcompile.codegen.machine import machine_of
from qcompile.dump import Dump, make_folder
from qcompile.errors import QCompileError
from qcompile.files import check_writable
from qcompile.ir.plan import FLOAT_BITS, LayerPlan
from qcompile.ir.target import Target, processors
from qcompile.kernels import lower, wanted
from qcompile.model_file import ModelFile
from qcompile.passes.choose_quantized import FIRST, LAST
from qcompile.program_file import SUFFIX
from qcompile.quant.recipe import Recipe
from qcompile.recording import BUDGET, Recording
from qcompile.steps import Steps
from qcompile.trial import Trial, calibration_of, evaluate
from qcompile.tuning import Tuning
from qcompile.tuning_search import Tuned


@dataclass(frozen=True)
class Job:
    """What is asked for: the options of the command line, under their own names.

    Attributes:
        recipe_file: where the recipe was read, if it was.
        mode_given: whether the user said the recipe's mode; if not, what is not trained is "static".
    """

    model: str
    recipe: Recipe
    targets: tuple[Target, ...]
    recipe_file: Path | None = None
    mode_given: bool = False
    output: Path | None = None
    weights: Path | None = None
    save_weights: Path | None = None
    epochs: int | None = None
    input_shape: tuple[int, ...] | None = None
    seed: int = 0
    threads: int | None = None
    verify: bool = True
    benchmark: bool = False
    dump_dir: Path | None = None
    print_after_each: bool = False
    tuning: Tuning | None = None
    kernels: tuple[str, ...] = ()


def run(job: Job, out: Console, err: Console) -> bool:
    """Do it; results go to `out`, progress to `err`.

    Returns:
        Whether the program is verified, or was not to be; if False, no file was written.

    Raises:
        QCompileError: something the user gave does not work; most of it is found before training.
    """
    steps = Steps(err)
    torch.manual_seed(job.seed)
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    file = model_file.read(job.model, job.input_shape)
    job = with_mode(job, file)
    output = job.output or Path(f"{file.name}-{_bits(job.recipe)}{SUFFIX}")
    check(job, file, output)
    if job.kernels and any(target.is_gpu for target in job.targets):
        steps.note(
            "--kernel is for the processors' code; a layer that it keeps in bytes is in bytes on the GPU too."
        )
    dump = Dump(job.dump_dir, out.print if job.print_after_each else None)

    train_float(job, file, steps)
    float_accuracy = evaluate(file, file.model, "evaluate the float network", steps)
    prepared = prepare(job, file, dump)
    if unreached := _unreached(job.recipe, prepared.meta["plans"]):
        steps.note(unreached)
    quantize(job, file, prepared, steps)
    with steps("convert to integers"):
        converted = api.convert(prepared, after_each=dump)
    # Only now: convert froze the observers, and the digits of the test must not move them.
    # Of a program that this machine cannot run, what `evaluate` feeds the quantized network is verified.
    recording = Recording(prepared, BUDGET if any(t.is_gpu for t in job.targets) else 0)
    fake_accuracy = evaluate(file, recording, "evaluate the quantized network", steps)
    tuned = _tune(job, converted, steps, out)
    program = api.compile(
        converted,
        target=job.targets,
        after_each=dump,
        step=steps,
        tune=tuned,
        kernel=job.kernels,
    )
    report.show(out, program.summary())
    trial = Trial(
        file,
        prepared,
        converted,
        before=(float_accuracy, fake_accuracy),
        seen=recording.batches,
        threads=job.threads,
        verified=job.verify,
        long=job.benchmark,
        steps=steps,
        out=out,
    )
    how = trial.run(program)
    if how is None:
        return False
    program.save(output)
    report.show(out, report.saved(str(output), program.size, how))
    return True


def with_mode(job: Job, file: ModelFile) -> Job:
    """The job with the mode that it has where the user said none: without training, "static"."""
    if job.mode_given or (file.has("train") and job.epochs != 0):
        return job
    return replace(job, recipe=replace(job.recipe, mode="static"))


def _bits(recipe: Recipe) -> str:
    weight, activation = recipe.body_bits()
    asked = recipe.bits if recipe.activation_bits is None else recipe.activation_bits
    if weight == asked == FLOAT_BITS and recipe.overrides:
        return "mixed"
    return f"w{weight}a{activation}" + ("-dynamic" if recipe.mode == "dynamic" else "")


# --- before anything takes long ------------------------------------------------------------------


def check(job: Job, file: ModelFile, output: Path | None) -> None:
    """Find what is wrong before minutes of training are spent.

    Raises:
        QCompileError: what it is.
    """
    for path in (output, job.save_weights):
        if path is not None:
            check_writable(path)
    if job.dump_dir is not None:
        make_folder(job.dump_dir)
    if job.weights is not None:
        weights.load(file.model, job.weights)
    if job.epochs and not file.takes_epochs():
        raise QCompileError(
            "--epochs is for train(model, epochs=...)",
            where=str(file.path),
            hint="the file's train has no such argument" if file.has("train") else None,
        )
    _check_mode(job, file)
    if job.save_weights is not None and not trains_float(job, file):
        raise QCompileError("--save-weights: no float network is trained here")
    for target in processors(job.targets):
        find_linker(machine_of(target).family)
    for target in job.targets:
        if target.is_gpu:
            nvcc.check(*architectures_of(target, nvcc.known_architectures()))
    if job.tuning is not None:
        tuning_search.check(job.targets, job.tuning)
    try:
        prepared = api.prepare(file.model, file.example_inputs, job.recipe)
    except QCompileError as error:
        if job.recipe_file is None:
            raise
        hints = [*([error.hint] if error.hint else []), f"the recipe is that of {job.recipe_file}"]
        raise QCompileError(error.what, where=error.where, hint="; ".join(hints)) from error
    _check_kernels(job, file, prepared)


def _check_kernels(job: Job, file: ModelFile, prepared: GraphModule) -> None:
    """See that layers can have the kernels that are forced; nothing about that is learned."""
    wanted(job.kernels, prepared.meta["plans"])
    if job.kernels:
        # Two rows, without which BatchNorm has no variance.
        calibrate(prepared, [tuple(torch.cat([x, x]) for x in file.example_inputs)])
        lower(api.convert(prepared), job.targets, job.kernels)


def _check_mode(job: Job, file: ModelFile) -> None:
    if job.recipe.mode == "qat" and job.recipe.correct_bias:
        raise QCompileError(
            "--correct-bias is for calibration, and the quantized network is trained here",
            hint="take --mode static, dynamic or weight-only, or leave it out",
        )
    if not job.mode_given or job.recipe.mode != "qat":
        return
    if not file.has("train"):
        raise QCompileError(
            "--mode qat trains the quantized network, and there is no train(model)",
            where=str(file.path),
            hint="define it, or take --mode static, dynamic or weight-only",
        )
    if job.epochs == 0:
        raise QCompileError(
            "--mode qat trains the quantized network, and --epochs 0 trains nothing",
            hint="leave one of them out, or take --mode static",
        )


# --- the network ---------------------------------------------------------------------------------


def trains_float(job: Job, file: ModelFile) -> bool:
    """Whether the float network is trained, before it is quantized."""
    return file.has("train") and job.epochs != 0 and job.weights is None


def train_float(job: Job, file: ModelFile, steps: Steps) -> None:
    """Train the float network, and keep its weights, where the job is to."""
    if not trains_float(job, file):
        return
    with steps("train the float network") as advance:
        file.train(file.model, job.epochs, advance)
    if job.save_weights is not None:
        weights.save(file.model, job.save_weights)


def prepare(job: Job, file: ModelFile, dump: Dump) -> GraphModule:
    """The network with its quantizers, under the model file's name."""
    if dump.wanted:
        dump.traced(api.traced(file.model, file.example_inputs))
    prepared = api.prepare(file.model, file.example_inputs, job.recipe, after_each=dump)
    prepared.meta["model"] = file.name
    return prepared


def _unreached(recipe: Recipe, plans: Mapping[str, LayerPlan]) -> str | None:
    """What the user should know where no layer got the bits that were asked for; None elsewhere."""
    weight, activation = recipe.body_bits()
    if weight == FLOAT_BITS:
        return None
    if not plans:
        return "The model has no layer with weights: nothing is quantized."
    if not all(plan.reason in (FIRST, LAST) for plan in plans.values()):
        return None
    bits = (
        f"{weight} bit{'s' * (weight > 1)}"
        if weight == activation
        else f"{weight}/{activation} bits"
    )
    *others, last = plans
    names = f"{', '.join(others)} and {last} are" if others else f"{last} is"
    return f"No layer has {bits}: {names} first and last (--first-last-bits)."


def quantize(job: Job, file: ModelFile, prepared: GraphModule, steps: Steps) -> None:
    """Train the prepared network, or calibrate it if anything in it follows from what it sees."""
    if job.recipe.mode == "qat":
        with steps("train the quantized network") as advance:
            file.train(prepared, job.epochs, advance)
        return
    known = knows_ranges(prepared) and not file.has("calibration_data")
    if needs_calibration(prepared) and not known:
        _calibrate(file, prepared, steps)
    if what := api.untrained(prepared):
        steps.note(
            f"{what} are untrained ({_why_untrained(job, file)}): expect the "
            "accuracy of a guess. Such networks have to be trained with their quantizers."
        )


def _why_untrained(job: Job, file: ModelFile) -> str:
    if job.mode_given:
        return f"--mode {job.recipe.mode}"
    return "--epochs 0" if file.has("train") else "the model file has no train(model)"


def _calibrate(file: ModelFile, prepared: GraphModule, steps: Steps) -> None:
    with steps("calibrate"):
        calibrate(prepared, calibration_of(file))
    if constant := constant_note(prepared):
        steps.note(constant)
    if not file.has("calibration_data"):
        steps.note(
            "The model file has no calibration_data(): the range of activations is that of "
            "example_inputs alone."
        )


# --- the program ---------------------------------------------------------------------------------


def _tune(job: Job, converted: GraphModule, steps: Steps, out: Console) -> Tuned | bool:
    """Find the fastest kernels; Ctrl-C ends that, and the rest goes on with what was found."""
    if job.tuning is None:
        return False

    def interrupted() -> None:
        steps.note("Tuning was interrupted; what it found is used. Ctrl-C once more ends it all.")

    tuned = tuning_search.tune(converted, job.targets, job.tuning, steps, interrupted, job.kernels)
    for note in tuned.notes:
        steps.note(note)
    report.show(out, report.tuning_table(tuned))
    return tuned
