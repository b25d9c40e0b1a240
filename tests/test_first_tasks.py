"""The ten first tasks of the documentation are ten, short, and each has a command that there is."""

import re
from pathlib import Path

import pytest

from caseback.cli import COMMANDS as FUNCTIONS

PAGE = Path(__file__).parents[1] / "docs" / "first-tasks.md"
TASKS = re.split(r"(?m)^## ", PAGE.read_text("utf-8"))[1:]
COMMANDS = {function.__name__ for function in FUNCTIONS}


def test_there_are_ten():
    assert [task.partition(".")[0] for task in TASKS] == [str(i) for i in range(1, 11)]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.splitlines()[0])
def test_a_task_is_at_most_fifteen_lines_and_has_a_command(task):
    lines = [line for line in task.splitlines() if line.startswith((">>> ", "... "))]
    assert 0 < len(lines) <= 15
    named = re.findall(r"`caseback ([a-z]+)", task)
    assert named and set(named) <= COMMANDS, named
