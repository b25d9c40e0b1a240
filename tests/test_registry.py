import dataclasses
import re
import sys
import types
from pathlib import Path

import pytest

import caseback
from caseback.errors import CasebackError, RegistryError
from caseback.model import registry
from caseback.model.registry import Technique, technique, techniques

SOURCE = Path(caseback.__file__).parent


@pytest.fixture
def empty(monkeypatch):
    """A registry of the test's own, over no packages."""
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(registry, "PACKAGES", ())


def made_in(module: str, name: str, doc: str | None = "Does it."):
    """A function as if it were written in that module."""

    def function(model, tokens, metric):
        return model

    function.__module__, function.__qualname__, function.__name__, function.__doc__ = module, name, name, doc
    return function


def register(function, entry=("3.1.3",), citation="Sundararajan et al. 2017", cost="steps x (forward + backward)"):
    return technique(entry=entry, citation=citation, cost=cost)(function)


def test_a_registered_function_calls_the_same_function_and_carries_its_record(empty):
    function = made_in("caseback.localize.inputs.gradients", "integrated_gradients", "Sum\n  gradients.\n\n  More.")
    registered = register(function)
    assert registered.__wrapped__ is function and registered(1, 2, 3) == 1
    (listed,) = techniques()
    assert listed is registered.technique
    assert listed.function is registered
    assert listed.name == "localize.inputs.gradients.integrated_gradients"
    assert listed.entry == ("3.1.3",)
    assert listed.citation == "Sundararajan et al. 2017"
    assert listed.cost == "steps x (forward + backward)"
    assert listed.summary == "Sum gradients."


def test_a_record_cannot_be_changed(empty):
    record = register(made_in("caseback.decode.a", "f")).technique
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.cost = "nothing"


def test_the_name_leaves_out_the_file_where_the_folder_publishes_the_function(empty, monkeypatch):
    function = register(made_in("caseback.localize.made_up.one_file", "shine"))
    folder = types.ModuleType("caseback.localize.made_up")
    monkeypatch.setitem(sys.modules, folder.__name__, folder)
    assert function.technique.name == "localize.made_up.one_file.shine"
    folder.shine = lambda: "another function of that name"
    assert function.technique.name == "localize.made_up.one_file.shine"
    folder.shine = function
    assert function.technique.name == "localize.made_up.shine"


def test_entries_are_sorted_as_numbers_then_by_name(empty):
    for name, entry in [("b", "3.1.10"), ("d", "4.1.1"), ("c", "3.1.9"), ("a", "3.1.10"), ("e", "2.8")]:
        register(made_in("caseback.decode.m", name), entry=(entry,))
    assert [t.name[-1] for t in techniques()] == ["e", "c", "a", "b", "d"]


@pytest.mark.parametrize("number", ["3", "3.1.", "3.01", "1.1", "7.1", "3.1.3.1", "three", " 3.1", "3.1.0", ""])
def test_a_number_that_is_no_entry_is_refused(empty, number):
    with pytest.raises(RegistryError, match=re.escape(repr(number))):
        register(made_in("caseback.decode.m", "f"), entry=("3.1.3", number))
    assert techniques() == []


@pytest.mark.parametrize("entry", ["3.1.3", ()])
def test_entries_are_a_tuple(empty, entry):
    with pytest.raises(RegistryError, match="tuple of numbers"):
        register(made_in("caseback.decode.m", "f"), entry=entry)


@pytest.mark.parametrize("missing", ["citation", "cost"])
def test_an_empty_citation_or_cost_is_refused(empty, missing):
    with pytest.raises(RegistryError, match="needs a citation and a cost"):
        register(made_in("caseback.decode.m", "f"), **{missing: " "})


@pytest.mark.parametrize("doc", [None, "  \n"])
def test_a_function_without_docstring_is_refused(empty, doc):
    with pytest.raises(RegistryError, match="needs a docstring"):
        register(made_in("caseback.decode.m", "f", doc))


def test_a_name_is_registered_once(empty):
    register(made_in("caseback.decode.m", "f"))
    with pytest.raises(RegistryError, match=r"caseback\.decode\.m\.f is already registered"):
        register(made_in("caseback.decode.m", "f"))
    register(made_in("caseback.decode.other", "f"))
    assert issubclass(RegistryError, CasebackError)


def test_a_module_that_fails_to_import_is_not_passed_over(empty, tmp_path, monkeypatch):
    package = tmp_path / "broken_techniques"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "inner" / "__init__.py").write_text("import a_module_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "PACKAGES", ("broken_techniques",))
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        techniques()


def test_modules_are_found_at_any_depth(empty, tmp_path, monkeypatch):
    package = tmp_path / "deep_techniques"
    (package / "a" / "b").mkdir(parents=True)
    for folder in (package, package / "a", package / "a" / "b"):
        (folder / "__init__.py").touch()
    (package / "a" / "b" / "c.py").write_text(
        "from caseback.model.registry import technique\n"
        "@technique(entry=('2.8',), citation='Elhage 2021', cost='none')\n"
        "def found():\n    'Found.'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "PACKAGES", ("deep_techniques",))
    assert [t.name for t in techniques()] == ["deep_techniques.a.b.c.found"]


def test_the_list_is_whole_in_a_fresh_interpreter(fresh_python):
    # What the sources decorate, read as text, is what a process that imported nothing else lists.
    marks = re.compile(r"^@(?:registry\.)?technique\(", re.MULTILINE)
    packages = [SOURCE / name.removeprefix("caseback.") for name in registry.PACKAGES]
    written = sum(len(marks.findall(f.read_text("utf-8"))) for p in packages for f in p.rglob("*.py"))
    assert written > 0
    program = "from caseback.model.registry import techniques\nfor t in techniques(): print(t.name)"
    done = fresh_python(program)
    assert done.returncode == 0, done.stderr
    names = done.stdout.split()
    assert len(names) == written
    assert len(set(names)) == written


def test_every_technique_of_the_package_can_be_called_by_its_name():
    listed = techniques()
    assert listed
    for t in listed:
        assert isinstance(t, Technique)
        found = caseback
        for part in t.name.split("."):
            found = getattr(found, part)
        assert found is t.function, f"caseback.{t.name} is {found}, not the technique"


def test_the_package_itself_is_imported_without_torch(fresh_python):
    done = fresh_python("import sys, caseback\nassert caseback.__version__\nassert 'torch' not in sys.modules")
    assert done.returncode == 0, done.stderr


def test_a_technique_says_its_dimensions_only_where_they_surprise(empty):
    plain = register(made_in("caseback.localize.inputs.a", "one")).technique
    maps = technique(entry=("3.1.14",), citation="A 2020", cost="one forward", dims=("layer", "query", "key"))(
        made_in("caseback.localize.inputs.a", "two")
    )
    assert plain.dims is None and maps.technique.dims == ("layer", "query", "key")


def test_one_package_can_be_listed_by_itself():
    inputs = techniques("caseback.localize.inputs")
    assert inputs and all(t.function.__module__.startswith("caseback.localize.inputs.") for t in inputs)
    assert [t for t in techniques() if t in inputs] == inputs
