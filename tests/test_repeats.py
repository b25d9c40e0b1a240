"""No more than a hundredth of the code stands there twice, to the letter, in six lines or more; pylint counts."""

import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import caseback

SOURCE = Path(caseback.__file__).parent
MOST = 0.01


def repeated_lines(folder: Path) -> int:
    """Lines of all but the first of the places that share six lines or more; pyproject.toml says what counts."""
    command = [sys.executable, "-m", "pylint", "--disable=all", "--enable=duplicate-code", "-f", "json2"]
    options = [f"--rcfile={Path(__file__).parents[1] / 'pyproject.toml'}", str(folder)]
    ran = subprocess.run([*command, *options], capture_output=True, text=True)
    spans = defaultdict(set)
    for message in json.loads(ran.stdout)["messages"]:
        places = re.findall(r"^==(\S+):\[(\d+):(\d+)\]", message["message"], re.MULTILINE)
        for file, first, past in places[1:]:
            spans[file].update(range(int(first), int(past)))
    return sum(map(len, spans.values()))


@pytest.mark.slow
def test_hardly_any_code_stands_twice():
    lines = sum(len(path.read_text("utf-8").splitlines()) for path in SOURCE.rglob("*.py"))
    assert repeated_lines(SOURCE) <= MOST * lines


def test_a_repeat_is_counted(tmp_path):
    body = "\n".join(f"x{i} = {i} + {i}" for i in range(9))
    for name in ("a", "b"):
        (tmp_path / f"{name}.py").write_text(f"{name} = 1\n{body}\n{name} = 2\n")
    assert repeated_lines(tmp_path) == 9
