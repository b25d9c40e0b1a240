"""Readers of JSON as doors: a valid file, of which one node is another value, or missing.

The files are those of the readers' own examples, what the package itself writes, and the config of a model's folder.
"""

import copy
import functools
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import safetensors
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import load_file, save_file

import caseback as cb
from bad_inputs import commands
from bad_inputs.examples import arguments_of_example
from bad_inputs.outcome import Fault, attempt
from bad_inputs.valid import OTHER, TEXT, Valid
from caseback.decode.steering import contrastive_addition
from caseback.decode.vocabulary import weights_as_words
from caseback.decode.vocabulary.activating import activating_inputs
from caseback.decode.vocabulary.lenses.saved_lenses import load_lens
from caseback.reports.attributions import compare_attributions
from caseback.reports.circuit import circuit_document
from caseback.reports.concepts.steering import steering_document
from caseback.reports.explain import explain
from caseback.reports.graphs.flow import flow_graph_document
from caseback.reports.unit import unit_document
from caseback.reports.weights import weights_document
from caseback.tasks import formats
from caseback.views.page.kinds import page_html
from caseback.views.text.attributions import print_attributions
from caseback.views.text.circuit import print_circuit
from caseback.views.text.concepts.steering import print_steering
from caseback.views.text.explanation import print_explanation
from caseback.views.text.graphs.graph import print_graph
from caseback.views.text.unit import print_units

GONE = object()
Mutation = tuple[tuple[Any, ...], Any]
"""Which node of a document, as the keys that lead to it, and what it becomes."""
Door = tuple[str, st.SearchStrategy[Any], Callable[[Any], Fault | None]]
"""A name, inputs, and what is wrong with what came of one."""


def _deep() -> list[Any]:
    nested: list[Any] = []
    for _ in range(300):
        nested = [nested]
    return nested


INSTEAD = (
    None,
    GONE,
    0,
    -1,
    1.5,
    10**30,
    "",
    "x",
    "0",
    True,
    [],
    {},
    [None],
    [[0]],
    {"a": None},
    _deep(),
    "x" * 5_000,
)
READERS = ("blimp", "blimp_sentences", "agreement_pairs", "function_vectors", "known_facts", "counterfact", "ravel")
READERS += ("relations", "mib_mcqa")


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every node of a document stands, the whole of it first."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, held in inside:
        yield from nodes(held, (*path, key))


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A document with another value at one node."""
    if not path:
        return None if value is GONE else value
    document = copy.deepcopy(document)
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    if value is GONE:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return document


def mutations(document: Any) -> st.SearchStrategy[Mutation]:
    """Which node gets which value."""
    return st.tuples(st.sampled_from([*nodes(document)]), st.sampled_from(INSTEAD))


def doors(folder: Path) -> Iterator[Door]:
    """Each reader's name, the mutations of a file of its own, and what is wrong with what came of one."""
    folder.mkdir()
    for name in READERS:
        reader = getattr(formats, name)
        example = arguments_of_example(reader)
        assert example is not None, f"the example of {name} calls it otherwise"
        yield _file_door(
            f"JSON of {name}", Path(example["path"]), folder, lambda p, e=example, r=reader: r(**e | {"path": p})
        )
    circuit = cb.Circuit.of("embed -> L0H1.v", "L0H1 -> logits", "MLP 0 -> logits")
    circuit.save(folder / "circuit.json")
    yield _file_door("JSON of Circuit.load", folder / "circuit.json", folder, cb.Circuit.load)
    yield _document_door("JSON of Circuit.from_json", circuit.to_json(), cb.Circuit.from_json)
    model = commands.tiny_folder(folder / "model")
    yield from _drawn_doors(cb.load(model), circuit)
    yield from _steering_doors(cb.load(model))
    yield from _command_doors(folder, model, circuit)
    yield _file_door(
        "JSON of a model's config", model / "config.json", folder, lambda p: cb.load(_beside(p, model, "config.json"))
    )
    yield _header_door("header of load_edits", folder, cb.load_edits)
    yield _header_door("header of load_lens", folder, load_lens)


def _drawn_doors(model: cb.Model, circuit: cb.Circuit) -> Iterator[Door]:
    """Documents of every kind, as a page and in the terminal."""
    collected = activating_inputs(model, [TEXT, OTHER], "mlp_post", layer=0, units=[0])
    drawn: list[tuple[Any, Callable[[Any], None] | None]] = [
        (circuit_document(model, TEXT, circuit, counterfactual=OTHER), print_circuit),
        (flow_graph_document(model, TEXT), print_graph),
        (explain(model, TEXT, corrupt=OTHER), print_explanation),
        (compare_attributions(model, TEXT, generate=1), print_attributions),
        (unit_document(model, collected, [0]), print_units),
        (weights_document(model, weights_as_words(model, layer=0, matrix="in", k=2)), None),
    ]
    for document, in_terminal in drawn:
        kind = document["kind"].rpartition(".")[2]
        yield _document_door(f"JSON of a page of {kind}", document, page_html)
        if in_terminal is not None:
            to_nowhere = Console(file=io.StringIO())
            read = functools.partial(in_terminal, console=to_nowhere)
            yield _document_door(f"JSON of {in_terminal.__name__}", document, read)


def _steering_doors(model: cb.Model) -> Iterator[Door]:
    """The document of steering, in the terminal and as a page."""
    found = contrastive_addition(model, TEXT, OTHER).at("resid_post.0")
    document = steering_document(model, found, "Mary went", cb.logit(5), "logit", strengths=[0.5], generate=1)
    in_terminal: Any = print_steering
    read = functools.partial(in_terminal, console=Console(file=io.StringIO()))
    yield _document_door("JSON of print_steering", document, read)
    yield _document_door("JSON of a page of steering", document, page_html)


def _command_doors(folder: Path, model: Path, circuit: cb.Circuit) -> Iterator[Door]:
    """Files of JSON that options and arguments of commands name."""
    room, of = folder / "here", ["--model", str(model)]
    room.mkdir()
    circuit.save(folder / "loaded.json")
    records = folder / "records.jsonl"
    records.write_text("".join(json.dumps({"text": text, "id": 1}) + "\n" for text in (TEXT, OTHER)), encoding="utf-8")
    listed = folder / "records.json"
    listed.write_text(json.dumps([{"text": TEXT}, {"text": OTHER}]), encoding="utf-8")
    judged = ["--count", "2", "--sets", "1", "--judge", "0"]
    lines: dict[tuple[str, Path], Callable[[str], list[str]]] = {
        ("circuit --load", folder / "loaded.json"): lambda f: ["ioi", *of, "--load", f, *judged],
        ("circuit --compare", folder / "loaded.json"): lambda f: [
            *("ioi", *of, "--compare", f, "--method", "eap", "--edges", "3"),
            *judged,
        ],
        ("influence --corpus", records): lambda f: ["Mary went", *of, "--corpus", f, "--method", "bm25"],
        ("lens --fit", listed): lambda f: [TEXT, *of, "--kind", "translator", "--fit", f],
        ("activating", records): lambda f: [f, *of, "--layer", "0", "--units", "0"],
        ("collect", listed): lambda f: [f, *of, "--tables", "stream_moments"],
    }
    for (name, file), line in lines.items():
        document, written = _read(file)
        spoiled = folder / f"given{file.suffix}"

        def fault_of(mutation: Mutation, name=name, document=document, written=written, spoiled=spoiled, line=line):
            spoiled.write_text(written(changed(document, *mutation)), encoding="utf-8")
            fault = commands.fault_at(name.partition(" ")[0], line(str(spoiled)), room)
            return None if fault is None else Fault(_shown(f"JSON of caseback {name}", mutation), fault.what)

        yield f"JSON of caseback {name}", mutations(document), fault_of


def _read(file: Path) -> tuple[Any, Callable[[Any], str]]:
    text = file.read_text(encoding="utf-8")
    try:
        return json.loads(text), json.dumps
    except json.JSONDecodeError:
        lines = [json.loads(line) for line in text.splitlines() if line.strip()]
        return lines, lambda rows: "\n".join(map(json.dumps, rows if isinstance(rows, list) else [rows]))


def _file_door(name: str, file: Path, folder: Path, read: Callable[[Path], Any]):
    document, written = _read(file)

    def fault_of(mutation: Mutation) -> Fault | None:
        path, value = mutation
        spoiled = folder / f"spoiled{file.suffix}"
        spoiled.write_text(written(changed(document, path, value)), encoding="utf-8")
        return fault_of_mutation(name, mutation, lambda: read(spoiled))

    return name, mutations(document), fault_of


def _document_door(name: str, document: Any, read: Callable[[Any], Any]):
    return name, mutations(document), lambda m: fault_of_mutation(name, m, lambda: read(changed(document, *m)))


def _header_door(name: str, folder: Path, read: Callable[[Path], Any]):
    """What a safetensors file says of itself: its texts, and the JSON inside of them."""
    valid = Valid(cb.load(commands.tiny_folder(folder / f"model for {name}")), folder / f"room for {name}")
    file = valid.room / ("edits.safetensors" if "edits" in name else "kept.safetensors")
    tensors = load_file(file)
    with safetensors.safe_open(file, "pt") as opened:
        header = dict(opened.metadata())

    def fault_of(mutation: Mutation) -> Fault | None:
        spoiled = folder / "spoiled.safetensors"
        texts = changed(header, *mutation)
        texts = texts if isinstance(texts, dict) else {}
        save_file(tensors, spoiled, {str(k): v if isinstance(v, str) else json.dumps(v) for k, v in texts.items()})
        return fault_of_mutation(name, mutation, lambda: read(spoiled))

    return name, mutations(header), fault_of


def _beside(file: Path, model: Path, name: str) -> Path:
    """The model's folder with this file in its place."""
    (model / name).write_bytes(file.read_bytes())
    return model


def fault_of_mutation(name: str, mutation: Mutation, call: Callable[[], Any]) -> Fault | None:
    """What is wrong with what came of one mutation, so named; None where all is well."""
    _, what = attempt(call)
    return None if what is None else Fault(_shown(name, mutation), what)


def _shown(name: str, mutation: Mutation) -> str:
    path, value = mutation
    given = "gone" if value is GONE else repr(value)[:80]
    return f"{name}: {'/'.join(map(str, path)) or 'the whole'} = {given}"
