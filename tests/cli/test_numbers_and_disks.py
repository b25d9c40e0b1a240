"""Numbers in every option of every command, and disks that are full: one line, status 2, nothing half written."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import caseback
from bad_inputs import commands
from caseback import cli

pytestmark = pytest.mark.usefixtures("plain")

NUMERIC = [
    (door, parameter.opts[0], parameter.type_descriptor.annotation, parameter.name)
    for door in commands.doors()
    for parameter in commands.parameters(door)
    if parameter.type_descriptor.annotation in (int, float) and parameter.param_type_name == "option"
]
NO_NUMBER = {int: ["nan", "inf", "1.5", "x", "", "9" * 5000], float: ["x", ""]}
OUT_OF_BOUNDS = {int: [str(2**33), str(-(2**33)), str(10**30)], float: ["nan", "inf", "-inf", "1e999"]}


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands")
    return commands.lines(folder), folder


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    printed = capsys.readouterr()
    refusal = commands.BESIDE.sub("", printed.err)
    assert (ended.value.code, printed.out) == (2, "") and refusal.count("\n") == 1 and len(refusal) < 1000
    return refusal


def test_there_are_numeric_options():
    assert len(NUMERIC) > 40 and {kind for *_, kind, _ in NUMERIC} == {int, float}


@pytest.mark.parametrize(("door", "flag", "kind", "name"), NUMERIC)
def test_no_number_and_none_that_can_be_meant_is_one_line(capsys, valid, door, flag, kind, name):
    # no model is there: what is refused, is refused before one is looked for
    for text in NO_NUMBER[kind] + OUT_OF_BOUNDS[kind]:
        line = [part if Path(part).name != "tiny" else "nowhere/a-model" for part in valid[0][door]]
        err = refused(capsys, *door.split(), *line, f"{flag}={text}")
        assert flag in err and "nowhere/a-model" not in err, text


COUNTS = (
    "top words count sets steps stop_at threads batch_size samples window k epochs rank dim max_length "
    "experts group_size windows window_tokens"
).split()


@pytest.mark.parametrize(("door", "flag", "name"), [(d, f, n) for d, f, _, n in NUMERIC if n in (*COUNTS, "seed")])
def test_none_of_something_is_refused_where_some_are_needed(capsys, valid, door, flag, name):
    line = [part if Path(part).name != "tiny" else "nowhere/a-model" for part in valid[0][door]]
    err = refused(capsys, *door.split(), *line, f"{flag}={-1 if name == 'seed' else 0}")
    assert "expected at least" in err and "nowhere/a-model" not in err


WRITING = [
    ("explain", "--html"),
    ("attribute", "--html"),
    ("dla", "--html"),
    ("patch", "--html"),
    ("patch", "--checkpoint"),
    ("ablate", "--html"),
    ("trace", "--html"),
    ("trace", "--checkpoint"),
    ("circuit", "--save"),
    ("circuit", "--html"),
    ("circuit", "--graph"),
    ("circuit", "--graphml"),
    ("drivers", "--html"),
    ("graph", "--html"),
    ("graph", "--save"),
    ("align", "--html"),
    ("atlas", "--html"),
    ("atlas", "--out"),
    ("atlas", "--parquet"),
    ("erase", "--save"),
    ("erase", "--html"),
    ("behavior", "--html"),
    ("behavior", "--save"),
    ("facts", "--html"),
    ("recall", "--html"),
    ("requests", "--html"),
    ("heuristics", "--html"),
    ("needle", "--html"),
    ("binding", "--html"),
    ("routing", "--html"),
    ("function", "--html"),
    ("learner", "--html"),
    ("world", "--html"),
    ("truth", "--html"),
    ("emergence", "--html"),
    ("emergence", "--save"),
    ("emergence", "--checkpoint"),
    ("universality", "--html"),
    ("edit", "--save"),
    ("edit", "--html"),
    ("steer", "--save"),
    ("steer", "--html"),
    ("lens", "--html"),
    ("patchscope", "--html"),
    ("weights", "--html"),
    ("activating", "--html"),
    ("activating", "--store"),
    ("probe", "--html"),
    ("probe", "--save"),
    ("directions", "--html"),
    ("directions", "--save"),
    ("collect", "--store"),
    ("dictionary train", "--store"),
    ("dictionary train", "--html"),
    ("dictionary features", "--html"),
    ("dictionary show", "--html"),
    ("dictionary judge", "--html"),
    ("dictionary judge", "--checkpoint"),
    ("dictionary eval", "--html"),
    ("organisms learn", "--save"),
]


def test_every_option_that_writes_is_tried():
    known = {
        (door, p.opts[0])
        for door in commands.doors()
        for p in commands.parameters(door)
        if p.opts[0] in ("--html", "--save", "--graph", "--graphml", "--store", "--checkpoint", "--out", "--parquet")
    }
    # `lens --save` needs --fit, `explain --checkpoint` and `attribute --checkpoint` --task; `influence --store` a method of gradients; `align` keeps files in a folder
    rest = {
        ("lens", "--save"),
        ("explain", "--checkpoint"),
        ("attribute", "--checkpoint"),
        ("influence", "--store"),
        ("align", "--checkpoint"),
        ("circuit", "--checkpoint"),
        ("organisms train", "--out"),
        ("mcp", "--out"),  # written call by call: tests/server
    }
    assert known == {*WRITING} | rest


@pytest.mark.parametrize(("door", "flag"), WRITING)
def test_a_full_disk_is_one_line_and_leaves_nothing(capsys, valid, monkeypatch, tmp_path, door, flag):
    target = tmp_path / "out"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main([*door.split(), *valid[0][door], flag, str(target)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    err = commands.BESIDE.sub("", capsys.readouterr().err)
    assert ended.value.code == 2 and err.startswith("caseback: cannot write ") and err.count("\n") == 1
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left == []


def test_a_full_disk_keeps_the_file_that_was_there(capsys, valid, tmp_path):
    target = tmp_path / "out.html"
    target.write_text("mine")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(SystemExit):
            cli.main(["lens", *valid[0]["lens"], "--html", str(target)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert target.read_text() == "mine" and list(tmp_path.iterdir()) == [target]


def test_output_that_finds_no_room_is_one_line():
    paths = os.environ | {"PYTHONPATH": str(Path(caseback.__file__).parents[1])}
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "caseback", "techniques"], stdout=full, stderr=subprocess.PIPE, env=paths
        )
    # on a slow machine signs of life come first
    lines = [line for line in ran.stderr.splitlines() if not line.startswith(b"working: ")]
    assert ran.returncode == 2 and lines == [b"caseback: cannot write the output: No space left on device"]


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/full"])
@pytest.mark.parametrize(
    "line",
    [
        ("circuit", "ioi", "--load"),
        ("circuit", "ioi", "--compare"),
        ("lens", "a prompt", "--kind", "tuned", "--lens"),
        ("lens", "a prompt", "--kind", "tuned", "--fit"),
        ("influence", "a query", "--corpus"),
        ("activating", "--layer", "0"),
    ],
)
def test_a_device_that_never_ends_is_not_read(capsys, valid, line, device):
    model = str(valid[1] / "tiny")
    assert device in refused(capsys, line[0], "--model", model, *line[1:], device)


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"PK\x03\x04" + bytes(60)])
@pytest.mark.parametrize("door", ["patch", "trace"])
def test_a_damaged_checkpoint_is_refused_and_not_taken_for_an_interrupt(capsys, valid, tmp_path, door, content):
    checkpoint = tmp_path / "job"
    checkpoint.write_bytes(content)
    err = refused(capsys, door, *valid[0][door], "--checkpoint", str(checkpoint))
    assert str(checkpoint) in err and "remove it" in err and checkpoint.read_bytes() == content
