"""The house stays fit to live in: sizes of folders and files, docstrings, names that say what they hold."""

import ast
from functools import cache
from pathlib import Path

import pytest

import caseback

SOURCE = Path(caseback.__file__).parent
MOST_FILES, MOST_LINES = 25, 450
SAYS_NOTHING = {"made", "found", "told", "said", "kept"}
# keywords of public functions since 0.1
PUBLIC = {"localize/components/subspace_illusion.py": {"kept"}, "localize/inputs/context_reliance.py": {"kept"}}


@cache
def modules() -> dict[str, tuple[str, ast.Module]]:
    """Every file's text and tree, by its path within the package."""
    texts = {path.relative_to(SOURCE).as_posix(): path.read_text("utf-8") for path in sorted(SOURCE.rglob("*.py"))}
    return {name: (text, ast.parse(text)) for name, text in texts.items()}


def bare_names(tree: ast.AST) -> set[str]:
    """Variables, arguments, functions and classes that are named after having been handled, not after what they are."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return {name for name in names if name.strip("_") in SAYS_NOTHING}


def test_no_folder_has_too_many_files():
    folders = [name.rpartition("/")[0] for name in modules()]
    assert {f: n for f in set(folders) if (n := folders.count(f)) > MOST_FILES} == {}


def test_no_file_is_too_long():
    assert {name: n for name, (text, _) in modules().items() if (n := text.count("\n")) > MOST_LINES} == {}


def test_every_file_says_what_it_is():
    assert [name for name, (_, tree) in modules().items() if not ast.get_docstring(tree)] == []


@pytest.mark.parametrize(
    "code", ["made = 1", "def f(found): ...", "def _said(): ...", "x.kept = 1", "for told in x: ..."]
)
def test_bare_names_are_seen(code):
    assert len(bare_names(ast.parse(code))) == 1


def test_names_say_what_they_hold():
    assert {name: names for name, (_, tree) in modules().items() if (names := bare_names(tree))} == PUBLIC


def test_the_package_carries_its_types_and_its_history():
    assert (SOURCE / "py.typed").is_file()
    root = SOURCE.parents[1]
    assert all((root / name).is_file() for name in ("CITATION.cff", "CHANGELOG.md"))
