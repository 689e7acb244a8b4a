"""What is benchmarked: a program made from a model, or one that was given."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from qcompile import api, job, kernels, model_file, weights
from qcompile.bench import words
from qcompile.bench.built import Built, Made
from qcompile.bench.handing import some
from qcompile.bench.messages import PROGRAM
from qcompile.bench.results import AS_GIVEN, NOT_TRAINED, Accuracy, Subject
from qcompile.bench.widths import trained_at
from qcompile.building import build_program
from qcompile.codegen.machine import host_family, machine_of
from qcompile.dump import Dump
from qcompile.errors import QCompileError
from qcompile.files import read
from qcompile.ir.plan import FLOAT_BITS
from qcompile.ir.target import Target
from qcompile.job import Job
from qcompile.machine import named, runnable
from qcompile.model_file import ModelFile
from qcompile.program import Program
from qcompile.program_file import unpack
from qcompile.program_info import CUDA, ProgramInfo
from qcompile.quant.recipe import Recipe
from qcompile.recording import Recording
from qcompile.rivals.pytorch import weight_bytes
from qcompile.steps import Steps
from qcompile.trial import calibration_of, evaluate
from qcompile.verification import verify

VERIFIED = 2  # samples at first, before anything is measured; then each time as many more
_MORE = 4
VERIFYING = 2.0  # seconds
_GPUS = "benchmarks/bench_cuda.py times programs on GPUs"


# --- a model -------------------------------------------------------------------------------------


def from_model(asked: Job, steps: Steps, *, train: bool, widths: Sequence[int] = ()) -> Built:
    """Compile a model file's network for this machine, trained or as it is.

    Args:
        train: as `qcompile MODEL` does; else nothing is trained, and ranges are calibrated.
        widths: at which it is trained later on, which is said beforehand.

    Raises:
        QCompileError: as of `qcompile MODEL`; or the target is of another machine.
    """
    check_targets(asked.targets)
    file = model_file.read(asked.model, asked.input_shape)
    asked = _as_trained(asked, file, train)
    job.check(asked, file, None)
    if asked.weights is not None:
        weights.load(file.model, asked.weights)
    if train:
        steps.note(_ahead(asked, file, trained_at(asked.recipe, widths)))
    job.train_float(asked, file, steps)
    nothing = Dump(None, None)
    prepared = job.prepare(asked, file, nothing)
    job.quantize(asked, file, prepared, steps)
    with steps("convert and lower"):
        converted = api.convert(prepared)
        selection, lowered = kernels.lower(converted, asked.targets, asked.kernels)
    choose = selection.choose()
    program = build_program(converted, lowered, asked.targets, (), steps, choose)
    program.library()
    made = Made(
        file=file,
        recipe=asked.recipe,
        prepared=prepared,
        converted=converted,
        lowered=lowered,
        calibration=tuple(some(calibration_of(file))),
        trained=_training(asked, file, train),
        targets=asked.targets,
        choose=choose,
    )
    _verify(made, program, steps)
    return Built(program, asked.model, made)


def _verify(made: Made, program: Program, steps: Steps) -> None:
    """On as many samples as go into VERIFYING, a few at least.

    Raises:
        QCompileError: the program computes something else than what it was made of.
    """
    whole = [torch.cat(column) for column in zip(*made.calibration, strict=True)]
    done, size = 0, VERIFIED
    with steps("verify"):
        end = time.perf_counter() + VERIFYING
        while done < len(whole[0]):
            began = time.perf_counter()
            part = tuple(x[done : done + size] for x in whole)
            if not verify(program, made.converted, [part]).ok:
                raise QCompileError(
                    "the program is wrong: it differs from the network that it was compiled from",
                    hint="`qcompile MODEL` with the same options says where; please report it",
                )
            done, size = done + len(part[0]), _MORE * size
            now = time.perf_counter()
            if now + _MORE * (now - began) > end:
                break
    source = "calibration_data()" if made.file.has("calibration_data") else "the example inputs"
    steps.note(f"Verified on {words.plural(done, 'sample')} of {source}.")


def _ahead(asked: Job, file: ModelFile, names: Sequence[str]) -> str:
    """What is about to be trained, and for how long."""
    found = ["the float network"] if job.trains_float(asked, file) else []
    found += [f"quantized at {words.listed(list(names))}"] if names else []
    total = len(names) + job.trains_float(asked, file)
    epochs = words.plural(asked.epochs, "epoch") if asked.epochs is not None else ""
    each = f", {epochs or 'as long as train() does by itself'}{' each' * (total > 1)}"
    more = "; --widths none leaves the other widths out" if len(names) > 1 else ""
    what = " and ".join(found) or "nothing"
    return f"To be trained, {words.plural(total, 'time')}: {what}{each if total else ''}{more}."


def _as_trained(asked: Job, file: ModelFile, train: bool) -> Job:
    """The job with its mode settled.

    Raises:
        QCompileError: it contradicts what is to be trained.
    """
    if train and not file.has("train"):
        raise QCompileError(
            "--train: there is no train(model)",
            where=str(file.path),
            hint="define it, or leave --train out",
        )
    if not train and asked.mode_given and asked.recipe.mode == "qat":
        raise QCompileError(
            "--mode qat trains the quantized network, and without --train nothing is trained",
            hint="add --train, or take --mode static",
        )
    if train:
        return job.with_mode(asked, file)
    return replace(job.with_mode(replace(asked, epochs=0), file), mode_given=True)


def _training(asked: Job, file: ModelFile, train: bool) -> str:
    """What the weights are, as `Subject.training` says it."""
    told = [] if asked.weights is None else [f"from {asked.weights.name}"]
    if train:
        epochs = "" if asked.epochs is None else f", {words.plural(asked.epochs, 'epoch')}"
        told.append(f"trained{epochs}")
    return ", ".join(told) or (NOT_TRAINED if file.has("train") else AS_GIVEN)


def check_targets(targets: Sequence[Target]) -> None:
    """Raises: QCompileError: code for one of them runs on no processor, or on none of this kind."""
    if any(target.is_gpu for target in targets):
        raise QCompileError("--target cuda: bench is of processors", hint=_GPUS)
    machines = [machine_of(variant) for target in targets for variant in target.variants()]
    if not any(machine.family == host_family() for machine in machines):
        raise QCompileError(
            f"code for {machines[0].arch} does not run here: this machine is {host_family()}",
            hint="run the benchmark where the program is to run",
        )


# --- a program -----------------------------------------------------------------------------------


def from_program(path: str, arch: str | None) -> Program:
    """A program that was saved, as the variant that is asked for, or the best for processors.

    Raises:
        QCompileError: it is no program, or runs on no processor here.
    """
    archive = unpack(read(path), path)
    if arch is not None:
        named(archive.info, arch, path)
    fit = [v for v in archive.info.variants if arch in (None, v.arch)]
    if all(variant.machine == CUDA for variant in fit):
        what = "this code is for GPUs, and bench is of processors"
        raise QCompileError(what, where=path, hint=_GPUS)
    here = next((v.arch for v in runnable(archive.info) if v in fit and v.machine != CUDA), None)
    program = Program(archive, here or arch)
    program.library()
    return program


def beside(program: Program, path: str, file: ModelFile) -> Built:
    """A program and the float network that it came from.

    Raises:
        QCompileError: the network takes something else.
    """
    takes = [(tuple(x.shape[1:]), str(x.dtype).removeprefix("torch.")) for x in file.example_inputs]
    wants = [(value.shape, value.dtype) for value in program.info.inputs]
    if takes != wants:
        mine = ", ".join(map(str, program.info.inputs))
        theirs = ", ".join(f"{kind}{['N', *sizes]}".replace("'", "") for sizes, kind in takes)
        raise QCompileError(
            f"the program takes {mine}, the model {theirs}",
            where=str(file.path),
            hint="--model is the network that the program was made of",
        )
    return Built(program, path, beside=file)


# --- what is said of it --------------------------------------------------------------------------


def accuracy(built: Built, steps: Steps) -> Accuracy:
    """By the model file's `evaluate`, of the float network and of the program."""
    file = built.file
    if file is None or not file.has("evaluate"):
        return Accuracy()
    before = evaluate(file, file.model, "evaluate the float network", steps)
    after = evaluate(file, Recording(built.program, 0), "evaluate the program", steps)
    return Accuracy(before, after)


def describe(built: Built, folder: Path, target: str) -> Subject:
    """What the report says of it, but for its accuracy.

    Args:
        folder: where `handing.hand_over` put the program's file.
        target: as the user wrote it.
    """
    program, file = built.program, built.file
    info = program.info
    known = Subject(
        name=info.model if file is None else file.name,
        source=built.source,
        sha256=hashlib.sha256((folder / PROGRAM).read_bytes()).hexdigest(),
        inputs=tuple(f"{value.name} {value}" for value in info.inputs),
        size=program.size,
        macs=sum(kernel.macs for kernel in program.variant.kernels),
        target=target or info.target,
        arch=program.variant.arch,
    )
    if file is not None:
        count = sum(p.numel() for p in file.model.parameters())
        known = replace(known, parameters=count, size_before=weight_bytes(file.model))
    if built.made is None:
        return replace(known, bits=bits_of(info), mode=_mode_of(info))
    recipe = built.made.recipe
    return replace(
        known,
        bits=recipe.body_bits(),
        mode=recipe.mode,
        method=_method(recipe),
        training=built.made.trained,
    )


def bits_of(info: ProgramInfo) -> tuple[int, int] | None:
    """Bits of weights and activations that most weights of a program have; None without layers."""
    counts: Counter[tuple[int, int]] = Counter()
    for layer in info.layers:
        counts[layer.weight_bits, layer.activation_bits] += layer.weights
    return max(counts, key=counts.__getitem__, default=None)


def _mode_of(info: ProgramInfo) -> str:
    """As far as a program tells: whether it was trained it does not say."""
    if any(layer.dynamic for layer in info.layers):
        return "dynamic"
    bits = bits_of(info)
    return "weight-only" if bits and bits[0] < FLOAT_BITS <= bits[1] else ""


def _method(recipe: Recipe) -> str:
    """Whose quantizers most layers have: methods that are of 1 bit, or of training, are "affine" beyond that."""
    learns = recipe.method in ("lsq", "pact") and recipe.mode == "qat"
    own = recipe.method in ("affine", "dorefa") or learns or 1 in recipe.body_bits()
    return recipe.method if own else "affine"
