"""Whatever stands on the line, and wherever the output goes: no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import caseback
from caseback.cli.inputs import numbers
from caseback.errors import CasebackError

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(caseback.__file__).parents[1])}


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "caseback", *arguments],
        capture_output=True,
        env=ENVIRONMENT | options.pop("env", {}),
        **options,
    )


def test_bytes_that_are_not_utf8_are_refused():
    ran = run(b"explain", b"caf\xe9")
    assert ran.returncode == 2 and ran.stderr == b"caseback: the argument 'caf\\udce9' is not valid UTF-8\n"


def test_a_terminal_of_ascii_gets_what_it_can_show():
    ran = run("tasks", "ioi", "--count", "1", env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"})
    assert ran.returncode == 0 and b"Traceback" not in ran.stderr and ran.stdout.decode("ascii")
    ran = run("organisms", "path", "\u00e9", env={"PYTHONIOENCODING": "ascii"})
    assert ran.returncode == 2 and ran.stderr.startswith(b"caseback: ") and ran.stderr.count(b"\n") == 1


def test_a_closed_pipe_ends_quietly():
    process = subprocess.Popen(
        [sys.executable, "-m", "caseback", "techniques", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() in (1, 141)


def test_a_range_that_no_model_has_is_refused_before_it_is_made():
    with pytest.raises(CasebackError, match="more than 1,000,000 numbers"):
        numbers("0-300000000", "--layers")
    with pytest.raises(CasebackError, match="more than 1,000,000 numbers"):
        numbers(",".join(["0-999"] * 1001), "--layers")
    assert numbers("0-999", "--layers") == list(range(1000))
