"""Writing leaves what stands at a path what it is, and refuses at once what cannot be written."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import caseback
from caseback.errors import CasebackError, WriteError
from caseback.jobs.checkpoint import Checkpoint
from caseback.jobs.safe_files import write_json, write_tensors
from caseback.jobs.whole_file import expect_writable, whole_file

WRITERS = {
    "text": lambda path: write(path, "new"),
    "tensors": lambda path: write_tensors(path, {"x": torch.ones(3)}),
    "json": lambda path: write_json(path, {"a": 1}),
    "checkpoint": lambda path: Checkpoint(path, {}).write({"x": torch.ones(3)}),
}


def write(path, text):
    with whole_file(path) as draft:
        draft.write_text(text)


@pytest.fixture(params=WRITERS)
def writer(request):
    return WRITERS[request.param]


def test_a_symbolic_link_is_written_through(writer, tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "file", tmp_path / "link"
    for content in (None, "old"):  # a link to nothing yet, and one to a file
        if content is not None:
            target.write_text(content)
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        writer(link)
        assert link.is_symlink() and target.read_bytes() not in (b"", b"old")
        assert os.listdir(tmp_path / "there") == ["file"]
        target.unlink()


def test_the_other_names_of_a_file_see_what_is_written(writer, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("old and much longer than what comes after it" * 100)
    os.link(one, other)
    writer(one)
    assert one.read_bytes() == other.read_bytes() != b"" and b"old" not in one.read_bytes()
    assert one.stat().st_ino == other.stat().st_ino and sorted(os.listdir(tmp_path)) == ["one", "other"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o755])
def test_a_file_keeps_its_mode(writer, mode, tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(mode)
    writer(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode and path.read_bytes() != b"old"


def test_a_new_file_has_the_mode_of_any_other(writer, tmp_path):
    (tmp_path / "other").write_text("")
    writer(tmp_path / "file")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_name_may_be_as_long_as_file_systems_allow(writer, tmp_path):
    path = tmp_path / ("x" * 255)
    writer(path)
    assert os.listdir(tmp_path) == [path.name]


def test_what_is_not_a_file_is_refused_and_stays(writer, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, os.devnull):
        with pytest.raises(WriteError, match="a device, a pipe or a socket"):
            writer(path)
    assert stat.S_ISFIFO(pipe.stat().st_mode) and stat.S_ISCHR(os.stat(os.devnull).st_mode)
    with pytest.raises(CasebackError, match="folder"):
        writer(tmp_path)


# /proc may be written by nobody, not even by root
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="there is no /proc here")
@pytest.mark.parametrize("path", ["/proc/self/new", "/proc/new", "x" * 256, "no/such/folder/file", "a\0b"])
def test_what_cannot_be_written_is_refused_before_the_block(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WriteError, match="cannot write"):
        expect_writable(path)
    with pytest.raises(WriteError, match="cannot write"), whole_file(path):
        pytest.fail("the block ran")
    assert os.listdir(tmp_path) == []


FULL = """
import resource, signal, sys, torch
from caseback.errors import WriteError
from caseback.jobs.safe_files import write_tensors
from caseback.jobs.whole_file import whole_file
from caseback.jobs.checkpoint import Checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
big, path = torch.zeros(100_000), sys.argv[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))  # as a disk that is full after 10,000 bytes
def text():
    with whole_file(path) as draft:
        draft.write_text("x" * 100_000)
for write in (text, lambda: write_tensors(path, {"x": big}), lambda: Checkpoint(path, {}).write({"x": big})):
    try:
        write()
    except WriteError as error:
        print(error)
"""


def test_a_full_disk_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    source = {"PYTHONPATH": str(Path(caseback.__file__).parents[1])}
    ran = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, env=os.environ | source
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("cannot write") == 3, ran.stdout + ran.stderr
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]
