"""What features are about, as Neuronpedia exports it: ``explanations/batch-{n}.jsonl.gz``, an explanation a line.

    {"modelId": "gemma-2-2b", "layer": "20-gemmascope-res-16k", "index": "4232", "description": "...",
     "typeName": "human", "explanationModelName": "", "notes": "..."}

``layer`` is the layer with the dictionary's name behind it, and numbers are texts there.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from caseback.errors import ArgumentError, LoadError
from caseback.jobs.json_text import expect_form, parse_json
from caseback.jobs.whole_file import make_folder, whole_file
from caseback.model.arguments import checked
from caseback.model.graph.names import parse_name
from caseback.model.notes import Notes


@dataclass(frozen=True)
class FeatureExplanation:
    """What somebody, or something, says of one feature.

    Attributes
    ----------
    index
        Its number in the dictionary.
    description
        What it is about.
    kind
        How that was found: ``"human"``, or a method's name.
    by
        The model that explained, or the person.
    notes
        What else is said.
    """

    index: int
    description: str
    kind: str = "human"
    by: str = ""
    notes: str = ""


@checked
def explanations_of_notes(notes: Notes, layer: int, site: str = "") -> list[FeatureExplanation]:
    """People's notes on the features of one dictionary.

    Parameters
    ----------
    notes
        Notes on any units; those on features of this layer and site are taken.
    layer, site
        Where the features are written; empty for the MLP's output.

    Examples
    --------
    >>> from caseback.model.notes import Notes
    >>> notes = Notes().put("L2F5:resid_post", "York", by="ann").put("L1H4", "induction")
    >>> [(one.index, one.description) for one in explanations_of_notes(notes, 2, "resid_post")]
    [(5, 'York')]
    """
    own = "" if site == "mlp_out" else site
    named = [(parse_name(note.unit), note) for note in notes]
    return [
        FeatureExplanation(name.index, note.label, "human", note.by, note.text)
        for name, note in named
        if (name.kind, name.layer, name.site) == ("feature", layer, own)
    ]


@checked
def write_explanations(
    explanations: Sequence[FeatureExplanation],
    folder: str | Path,
    *,
    model: str,
    layer: int,
    dictionary: str,
    size: int = 1024,
) -> None:
    """Write explanations in batches, as Neuronpedia exports them.

    Parameters
    ----------
    explanations
        Any number, several of one feature too.
    folder
        Is there afterwards, with ``batch-{n}.jsonl.gz`` in it.
    model, layer, dictionary
        Neuronpedia's names: a feature is then ``model/{layer}-{dictionary}/{index}``.
    size
        Explanations a file.

    Raises
    ------
    ArgumentError
        For an explanation of something else than a feature's number, or a size that holds none.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     york = [FeatureExplanation(5, "York")]
    ...     write_explanations(york, folder, model="meadow", layer=2, dictionary="topk")
    ...     read_explanations(folder)
    [FeatureExplanation(index=5, description='York', kind='human', by='', notes='')]
    """
    if size < 1:
        raise ArgumentError(f"size is {size}: expected 1 or more")
    if wrong := [one for one in explanations if one.index < 0]:
        raise ArgumentError(f"an explanation of feature {wrong[0].index}: expected a number from 0")
    place = make_folder(folder, "explanations")
    for number, start in enumerate(range(0, len(explanations), size)):
        lines = [
            {
                "modelId": model,
                "layer": f"{layer}-{dictionary}",
                "index": str(int(one.index)),
                "description": one.description,
                "typeName": one.kind,
                "explanationModelName": one.by,
                "notes": one.notes,
            }
            for one in explanations[start : start + size]
        ]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        packed = io.BytesIO()
        with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as file:  # no time: the same notes, the same file
            file.write(text.encode("utf-8", "replace"))
        with whole_file(place / f"batch-{number}.jsonl.gz") as draft:
            draft.write_bytes(packed.getvalue())


@checked
def read_explanations(path: str | Path) -> list[FeatureExplanation]:
    """Read explanations that Neuronpedia, or ``write_explanations``, wrote.

    Parameters
    ----------
    path
        A file, with or without gzip, or a folder of ``*.jsonl.gz`` and ``*.jsonl``.

    Raises
    ------
    LoadError
        For a file that cannot be read, or is of another form.
    """
    place = Path(path)
    files = [place]
    if os.path.isdir(place):
        files = sorted(file for file in place.iterdir() if file.name.endswith((".jsonl", ".jsonl.gz")))
        if not files:
            raise LoadError(f"{place} has no explanations: expected files such as batch-0.jsonl.gz")
    return [one for file in files for one in _read(file)]


def _read(file: Path) -> list[FeatureExplanation]:
    try:
        content = file.read_bytes()
        text = (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode("utf-8")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise LoadError(f"{file} cannot be read: {error}") from None
    read = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            with expect_form(f"line {number} of {file} is no explanation"):
                data = parse_json(line)
                texts = [data["description"], data.get("typeName"), data.get("explanationModelName"), data.get("notes")]
                read.append(FeatureExplanation(int(data["index"]), *(str(text or "") for text in texts)))
    return read
