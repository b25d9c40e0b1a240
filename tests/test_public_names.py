"""What people have written against caseback keeps working: `public_names.json` lists what 0.1.0 had before its rooms.

Files move; names that a caller imports, commands and techniques stay. A name may join the list, none may leave it.
"""

import importlib
import json
import pkgutil
from pathlib import Path

import pytest

import caseback as cb
from caseback import cli
from caseback.cli import retired

PUBLIC = json.loads(Path(__file__).with_name("public_names.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("package", PUBLIC["names"])
def test_every_published_name_is_where_it_was(package):
    module = importlib.import_module(package)
    assert [name for name in PUBLIC["names"][package] if not hasattr(module, name)] == []


@pytest.mark.parametrize("line", PUBLIC["imports"])
def test_every_import_of_the_readme_and_the_docs_works(line):
    exec(line, {})


def test_every_command_is_there():
    # one that moved answers with what it is called now
    assert set(PUBLIC["commands"]) <= {command.__name__ for command in cli.COMMANDS} | {"organisms", *retired.COMMANDS}


def test_every_technique_is_registered_under_its_entries():
    # more entries may join, such as a `B.n` of what came after the Primer
    registered = [(t.function.__name__, set(t.entry)) for t in cb.techniques()]
    lost = [
        [name, entries]
        for name, entries in PUBLIC["techniques"]
        if not any(name == other and set(entries) <= now for other, now in registered)
    ]
    assert lost == []


def test_every_name_of_the_views_has_a_home():
    files = [
        file for room in (cb.views, cb.reports) for file in pkgutil.walk_packages(room.__path__, f"{room.__name__}.")
    ]
    names = {name for file in files for name in getattr(importlib.import_module(file.name), "__all__", ())}
    assert [name for name in PUBLIC["views"] if name not in names] == []
