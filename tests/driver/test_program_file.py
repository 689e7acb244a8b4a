"""The file of a program: the same bytes for the same program, whole or not at all, checked first."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_library import affine_info, affine_library, affine_program

import qcompile
from qcompile import QCompileError
from qcompile.program_file import pack, unpack
from qcompile.program_info import InfoError, ProgramInfo, from_json, to_json


def small_file() -> bytes:
    """A file whose library is no library: nothing of it is to run."""
    return pack(affine_info(), [bytes(range(256)) * 4]).data


def test_save_and_load(tmp_path: Path) -> None:
    program = affine_program()
    path = tmp_path / "net.qcp"
    program.save(path)
    assert path.stat().st_size == program.size
    loaded = qcompile.load(str(path))
    assert (loaded.info, loaded.size) == (program.info, program.size)
    x = torch.randn(3, 3, 8)
    assert torch.equal(loaded(x), program(x))
    loaded.save(tmp_path / "again.qcp")
    assert (tmp_path / "again.qcp").read_bytes() == path.read_bytes()


def test_the_same_program_gives_the_same_bytes(tmp_path: Path) -> None:
    affine_program().save(tmp_path / "one")
    affine_program().save(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_file_holds_members_that_any_unzip_reads(tmp_path: Path) -> None:
    path = tmp_path / "net.qcp"
    affine_program().save(path)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["program.json", "constants", "generic.so"]
        assert archive.read("generic.so") == affine_library()
        assert archive.testzip() is None


def test_info_survives_json_with_odd_names() -> None:
    info = replace(affine_info(), model='"\\ ünï\ncode ]', notes=("", "ü"), returns_tuple=True)
    archive = unpack(pack(info, [b"code"]).data, "x.qcp")
    assert archive.info == info
    assert archive.library(info.variants[0]) == b"code"


VARIANT = {"machine": "x86_64", "arch": "a", "features": [], "kernels": []}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": 3}, "program.model is of type int, not str"),
        ({"returns_tuple": 1}, "program.returns_tuple is of type int, not bool"),
        ({"inputs": "x"}, "program.inputs is no list"),
        ({"inputs": ["x"]}, r"program.inputs\[0\] is no object"),
        ({"inputs": []}, "has inputs and outputs"),
        ({"inputs": [{"name": "x", "shape": [-1], "dtype": "float32"}]}, "x has the shape"),
        ({"inputs": [{"name": "x", "shape": [1], "dtype": "object"}]}, "x has the dtype 'object'"),
        ({"versions": {"tvm": 1}}, "does not map strings to strings"),
        ({"colour": "red"}, "unknown field 'colour'"),
        ({"variants": []}, "a program has variants"),
        ({"variants": [VARIANT, VARIANT]}, "2 variants are called 'a'"),
        ({"variants": [{**VARIANT, "arch": ""}]}, "a variant is called ''"),
        ({"variants": [{**VARIANT, "arch": "../a"}]}, "a variant is called '../a'"),
        ({"variants": [{**VARIANT, "features": "avx"}]}, r"variants\[0\].features is no list"),
        ({"variants": [{"arch": "a"}]}, r"program.variants\[0\] lacks features"),
    ],
)
def test_info_is_checked_field_by_field(change: dict[str, object], message: str) -> None:
    import json

    value = json.loads(json.dumps(to_json(affine_info())))
    assert from_json(value) == affine_info()
    with pytest.raises(InfoError, match=message):
        from_json({**value, **change})


def test_info_lacks_a_field() -> None:
    value = to_json(affine_info())
    del value["model"]
    with pytest.raises(InfoError, match="program lacks model"):
        from_json(value)


# --- damage --------------------------------------------------------------------------------------


def test_every_truncation_is_noticed() -> None:
    data = small_file()
    for length in range(len(data)):
        with pytest.raises(QCompileError):
            unpack(data[:length], "x.qcp")


def content_of(data: bytes) -> tuple[ProgramInfo, list[bytes]]:
    archive = unpack(data, "x.qcp")
    return archive.info, [archive.library(variant) for variant in archive.info.variants]


def test_a_changed_byte_is_noticed_or_does_no_harm() -> None:
    data = small_file()
    content = content_of(data)
    noticed = 0
    generator = random.Random(0)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= generator.randrange(1, 256)
        try:
            assert content_of(bytes(damaged)) == content  # a time stamp, say
        except QCompileError:
            noticed += 1
    assert noticed > 0.8 * len(data)


# --- saving --------------------------------------------------------------------------------------


def test_saving_keeps_a_link_and_the_mode(tmp_path: Path) -> None:
    real, link = tmp_path / "real.qcp", tmp_path / "link.qcp"
    real.write_bytes(b"old")
    real.chmod(0o600)
    link.symlink_to(real)
    program = affine_program()
    program.save(link)
    assert link.is_symlink()
    assert real.stat().st_size == program.size
    assert stat.S_IMODE(real.stat().st_mode) == 0o600


def test_saving_obeys_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        affine_program().save(tmp_path / "net.qcp")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "net.qcp").stat().st_mode) == 0o640


SAVE = """
import os, resource, signal, sys
sys.modules["torch"] = None
sys.path.insert(0, "tests")
import qcompile
program = qcompile.load(sys.argv[1])
"""


def save_in_process(tmp_path: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter that has loaded a program from `good.qcp`."""
    good = tmp_path / "good.qcp"
    affine_program().save(good)
    (tmp_path / "net.qcp").write_bytes(b"the old file")
    command = [sys.executable, "-c", SAVE + code, str(good), str(tmp_path / "net.qcp")]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_kill_while_saving_leaves_the_old_file(tmp_path: Path) -> None:
    code = """
os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
program.save(sys.argv[2])
"""
    assert save_in_process(tmp_path, code).returncode == -signal.SIGKILL
    assert (tmp_path / "net.qcp").read_bytes() == b"the old file"


def test_no_room_while_saving_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    code = """
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    program.save(sys.argv[2])
except qcompile.QCompileError as error:
    print(error)
"""
    done = save_in_process(tmp_path, code)
    assert "net.qcp: cannot save the program: File too large" in done.stdout
    assert "what was there before still is" in done.stdout
    assert (tmp_path / "net.qcp").read_bytes() == b"the old file"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["good.qcp", "net.qcp"]
