"""Doors in one form, and the trial of one: so many inputs from a fixed seed, and every fault among them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

import caseback as cb
from bad_inputs import commands, json_nodes, stored_nodes, values
from bad_inputs import python_doors as doors_of_python
from bad_inputs.outcome import Fault, restoring
from bad_inputs.results import Results
from bad_inputs.valid import Valid


@dataclass(frozen=True)
class Door:
    """One way in: inputs for it, what is wrong with what came of one, and why there is no valid input, if so."""

    name: str
    inputs: st.SearchStrategy[Any]
    fault_of: Callable[[Any], Fault | None]
    why_not: Callable[[], str | None] = lambda: None


def doors(folder: Path) -> Iterator[Door]:
    """Every door; files of theirs lie in the folder."""
    yield from python_doors(folder)
    yield from command_doors(folder)
    yield from json_doors(folder)


def command_doors(folder: Path) -> Iterator[Door]:
    """Every command, with a valid line for each."""
    files = values.write_files(folder / "files")
    valid = commands.lines(folder)
    room = folder / "here"
    room.mkdir()
    restore = restoring(folder / "files")
    names = [*commands.doors(), *(name for name in valid if "," in name)]
    for name in names:
        door = name.partition(",")[0]
        inputs = commands.bad_lines(door, valid[name], files)
        fault_of = _with_fresh_files(partial(commands.fault_at, door, folder=room), restore)
        yield Door(f"caseback {name}", inputs, fault_of)


def json_doors(folder: Path) -> Iterator[Door]:
    """Every reader of JSON, with a valid file for each."""
    for name, inputs, fault_of in (*json_nodes.doors(folder / "json"), *stored_nodes.doors(folder / "stored")):
        yield Door(name, inputs, fault_of)


def python_doors(folder: Path) -> Iterator[Door]:
    """Every public function, class and method, with a valid call for each."""
    files = values.write_files(folder / "files_of_functions")
    valid = Valid(cb.load(commands.tiny_folder(folder / "tiny_of_functions")), folder / "room")
    restore = restoring(folder / "files_of_functions")
    published = doors_of_python.published()
    valid.results = Results(published, partial(doors_of_python.result_of, published, valid), valid.room)
    for name, function in published.items():
        inputs = doors_of_python.inputs_of(name, function, files)
        fault_of = _with_fresh_files(partial(_fault_of_python, name, function, valid), restore)
        yield Door(name, inputs, fault_of, partial(_why_not, name, function, valid))


def _with_fresh_files(fault_of: Callable[[Any], Fault | None], restore: Callable[[], None]):
    def fault_with_fresh_files(given: Any) -> Fault | None:
        try:
            return fault_of(given)
        finally:
            restore()

    return fault_with_fresh_files


def _why_not(name: str, function: Callable[..., Any], valid: Valid) -> str | None:
    return doors_of_python.valid_call(name, function, valid)[1]


def _fault_of_python(name: str, function: Callable[..., Any], valid: Valid, given: Any) -> Fault | None:
    return doors_of_python.fault_at(name, function, given, valid)


def trial(door: Door, count: int, seed: int = 0) -> tuple[int, list[Fault]]:
    """How many inputs were tried at a door, and the faults, each place in the code once."""
    tried, faults = 0, {}

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(door.inputs)
    def one(given: Any) -> None:
        nonlocal tried
        tried += 1
        fault = door.fault_of(given)
        if fault is not None and fault.what.startswith("TookTooLong"):
            fault = door.fault_of(given)  # a machine that paused looks like a call that hangs, but only once
        if fault is not None:
            faults.setdefault(fault.what, fault)

    one()
    return tried, list(faults.values())
