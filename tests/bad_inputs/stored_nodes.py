"""Files that the package itself writes as doors: JSON and headers in stores, jobs and checkpoints, one node changed.

Some are changed as they stand, which their digests must notice; others are sealed again, as another program or version
might have written them, so that what reads them meets the wrong content itself. The file is put back afterwards.
"""

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import safetensors
import torch
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import caseback as cb
from bad_inputs import commands
from bad_inputs.json_nodes import Door, Mutation, changed, fault_of_mutation, mutations
from bad_inputs.outcome import Fault
from caseback.decode.vocabulary.activating import activating_inputs, load_activating
from caseback.jobs import checkpoint
from caseback.jobs.safe_files import DIGESTS, write_json, write_tensors
from caseback.jobs.status import statuses
from caseback.localize.components import ablate
from caseback.localize.inputs import tracin
from caseback.model.graph.attribution_graph import (
    load_attribution_graph,
    save_attribution_graph,
    to_attribution_graph,
)

TEXTS = ["Mary and John went to the store.", "John gave a drink to Mary."]


def doors(folder: Path) -> Iterator[Door]:
    """Each file, read in every way in which it is read."""
    folder.mkdir()
    model = cb.load(commands.tiny_folder(folder / "model"))
    yield from _collections(folder / "collection", model)
    yield from _examples(folder / "examples", model)
    yield from _gradients(folder / "gradients", model)
    yield from _graphs(folder / "graphs")
    yield from _codes(folder / "codes")
    yield _checkpoint(folder / "ablation.npz", model)


def _collections(folder: Path, model: cb.Model) -> Iterator[Door]:
    def collect() -> Any:
        return cb.stream.collect(
            model, TEXTS, "stream_moments", activations=["resid_post.0"], folder=folder, shard_tokens=8
        )

    collect()
    readers: dict[str, Callable[[], Any]] = {
        "collect": collect,
        "open_store": lambda: list(cb.stream.from_store(cb.stream.open_store(folder, "resid_post.0"))),
        "open_collection": lambda: cb.stream.open_collection(folder, model)["stream_moments"],
        "nearest": lambda: cb.stream.nearest(
            cb.stream.open_store(folder, "resid_post.0"), model.run(TEXTS[0], read=["resid_post"])["resid_post", 0][0]
        ),
        "statuses": lambda: [status.as_dict() for status in statuses(folder)],
    }
    for name, read in readers.items():
        yield _in_place(f"job.json of {name}", folder / "job.json", read, folder)
    for file in sorted(folder.rglob("00000.safetensors")):
        yield _in_place(f"{file.relative_to(folder)} of open_collection", file, readers["open_collection"], folder)
        yield _in_place(f"{file.relative_to(folder)} of open_store", file, readers["open_store"], folder)
    broken = shutil.copytree(folder, folder.with_name("broken job"))
    (broken / "shards" / "00000.safetensors").unlink()
    for room, record in (("claims", {"host": "here", "pid": 1}), ("failed", {"error": "e", "shard": 0})):
        file = broken / room / ("00000" if room == "claims" else "00000.json")
        file.write_text(json.dumps(record), encoding="utf-8")
        yield _in_place(f"{room} of statuses", file, lambda: [s.as_dict() for s in statuses(broken)], broken)


def _examples(folder: Path, model: cb.Model) -> Iterator[Door]:
    def collect() -> Any:
        return activating_inputs(model, TEXTS, "mlp_post", layer=0, units=[0], store=folder)

    collect()
    for file in sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors")):
        yield _in_place(f"{file.relative_to(folder)} of load_activating", file, lambda: load_activating(folder), folder)
        yield _in_place(f"{file.relative_to(folder)} of activating_inputs", file, collect, folder)


def _gradients(folder: Path, model: cb.Model) -> Iterator[Door]:
    def compare() -> Any:
        return tracin(model, TEXTS[:1], TEXTS, store=folder)

    compare()
    for file in sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors")):
        yield _in_place(f"{file.relative_to(folder)} of tracin", file, compare, folder)


def _codes(folder: Path) -> Iterator[Door]:
    cb.stream.write_codes(folder, [torch.eye(3), torch.zeros(2, 3)])
    for file in sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors")):
        yield _in_place(
            f"{file.relative_to(folder)} of open_codes",
            file,
            lambda: [cb.stream.open_codes(folder).feature(number) for number in range(3)],
            folder,
        )


def _graphs(folder: Path) -> Iterator[Door]:
    folder.mkdir()
    circuit = cb.Circuit.of("embed -> L0H1.v", "L0H1 -> logits", "MLP 0 -> logits")
    graph = to_attribution_graph(circuit, ["Mary", " went"], layers=2)
    save_attribution_graph(graph, folder / "circuit.json")
    yield _in_place(
        "load_attribution_graph",
        folder / "circuit.json",
        lambda: load_attribution_graph(folder / "circuit.json"),
        folder,
    )
    yield _in_place(
        "graph-metadata.json",
        folder / "graph-metadata.json",
        lambda: save_attribution_graph(graph, folder / "circuit.json"),
        folder,
    )


def _checkpoint(path: Path, model: cb.Model) -> Door:
    def go_on() -> Any:
        return ablate(model, TEXTS[0], cb.logit(" to"), checkpoint=path)

    go_on()
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        header = json.loads(archive.read("checkpoint.json"))

    def fault_of(given: tuple[Mutation, bool]) -> Fault | None:
        mutation, sealed = given
        with zipfile.ZipFile(path) as old:
            entries = {info.filename: old.read(info) for info in old.infolist()}
            comment = old.comment
        entries["checkpoint.json"] = json.dumps(changed(header, *mutation)).encode()
        with zipfile.ZipFile(path, "w") as new:
            for name, content in entries.items():
                new.writestr(zipfile.ZipInfo(name), content)
            new.comment = comment
        if sealed:
            checkpoint._seal(path)  # pyright: ignore[reportPrivateUsage]
        try:
            return fault_of_mutation("header of a checkpoint", mutation, go_on)
        finally:
            path.write_bytes(whole)

    return "JSON of a checkpoint", st.tuples(mutations(header), st.booleans()), fault_of


def _in_place(name: str, file: Path, read: Callable[[], Any], folder: Path) -> Door:
    """A file in its folder, which is afterwards as it was."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    tensors = file.suffix == ".safetensors"
    document = _header_of(file) if tensors else json.loads(before[file])

    def fault_of(given: tuple[Mutation, bool]) -> Fault | None:
        mutation, sealed = given
        spoiled = changed(document, *mutation)
        if tensors:
            _write_header(file, spoiled, sealed)
        elif sealed and "digest" in document and isinstance(spoiled, dict):
            write_json(file, spoiled)
        else:
            file.write_text(json.dumps(spoiled), encoding="utf-8")
        try:
            return fault_of_mutation(f"JSON of {name}", mutation, read)
        finally:
            for path in [path for path in folder.rglob("*") if path.is_file() and path not in before]:
                path.unlink()
            for path, content in before.items():
                path.write_bytes(content)

    return f"JSON of {name}", st.tuples(mutations(document), st.booleans()), fault_of


def _header_of(file: Path) -> dict[str, str]:
    with safetensors.safe_open(file, "pt") as opened:
        return dict(opened.metadata())


def _write_header(file: Path, header: Any, sealed: bool) -> None:
    texts = header if isinstance(header, dict) else {}
    texts = {str(name): text if isinstance(text, str) else json.dumps(text) for name, text in texts.items()}
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    if sealed:
        write_tensors(file, tensors, {name: text for name, text in texts.items() if name != DIGESTS})
    else:
        save_file(tensors, file, texts)
