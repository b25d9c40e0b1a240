"""`docs/beyond.md` lists what came after the Primer exactly as the registry has it."""

import re
from pathlib import Path

import caseback as cb

PAGE = Path(__file__).parents[1] / "docs" / "beyond.md"


def test_the_table_is_what_is_registered():
    rows = re.findall(r"^\| (B\.\d+) \|.*\| ([^|]*) \| ([^|]*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    written = {(entry, name) for entry, names, _ in rows for name in re.findall(r"`(\w+)`", names)}
    registered = {(e, t.function.__name__) for t in cb.techniques() for e in t.entry if e.startswith("B.")}
    assert written == registered


def test_identifiers_stand_behind_the_primers_numbers():
    for technique in cb.techniques():
        beyond = [entry.startswith("B.") for entry in technique.entry]
        assert beyond == sorted(beyond), technique.name
