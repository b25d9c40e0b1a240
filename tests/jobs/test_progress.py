"""Progress: bars where something can be drawn over, elsewhere lines with what, how many of how many, and how long still."""

import re
import sys
import time

import pytest
from tqdm.auto import tqdm

from caseback.jobs import progress
from caseback.jobs.progress import heartbeat, progress_bar


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Lines without delay; standard error is no terminal under pytest. Bars that interrupted tests left open are closed."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()
    monkeypatch.setattr(progress, "EVERY", 1e-9)


def test_a_line_says_what_how_many_of_how_many_and_how_long_still(capsys):
    with progress_bar(total=3, what="sweep", unit="variant", show=True) as bar:
        for _ in range(3):
            bar.update(1)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in lines] == ["sweep: 1 of 3", "sweep: 2 of 3", "sweep: 3 of 3"]
    assert all(re.search(r", \d\d:\d\d so far, about \S+ left$", line) for line in lines)


def test_work_without_a_name_or_an_end_is_counted_in_its_unit(capsys):
    with progress_bar(unit="token", show=True) as bar:
        bar.update(5)
    assert re.fullmatch(r"token: 5, \d\d:\d\d so far\n", capsys.readouterr().err)


def test_what_is_not_to_be_shown_or_is_soon_over_writes_nothing(capsys, monkeypatch):
    list(progress_bar(range(3), "sweep", show=False))
    monkeypatch.setattr(progress, "EVERY", 60.0)
    list(progress_bar(range(3), "sweep", show=True))
    with heartbeat("working"):
        pass
    assert capsys.readouterr().err == ""


def test_bars_that_a_program_watches_write_nothing_themselves(capsys):
    heard = []
    with progress.watched(lambda *where: heard.append(where)):
        list(progress_bar(range(3), "steps", show=True))
    assert heard[0] == ("steps", 0, 3)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_and_no_lines(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with heartbeat("working"):
        list(progress_bar(range(3), "sweep", show=True))
        time.sleep(0.05)
    drawn = capsys.readouterr().err
    assert "of 3" not in drawn and "working" not in drawn and "3/3" in drawn


def test_a_long_step_beats_with_the_bar_that_is_open_and_without_one_by_its_name(capsys, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.05)
    with heartbeat("working"):
        time.sleep(0.3)
        alone = capsys.readouterr().err
        with progress_bar(total=4, what="circuits", show=True) as bar:
            bar.update(1)
            time.sleep(0.3)
        inside = capsys.readouterr().err
    time.sleep(0.2)
    assert set(re.findall(r"^(\S+):", alone, re.MULTILINE)) == {"working"}
    assert "circuits: 1 of 4" in inside and capsys.readouterr().err == "", "it ends with the block"


def test_a_bar_within_another_writes_lines_without_a_terminal_s_signs(capsys, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    for _ in progress_bar(range(2), "outer", show=True):
        for _ in progress_bar(range(2), "inner", show=True):
            time.sleep(0.02)
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("inner: ") for line in lines) and not any("\x1b" in line for line in lines)
