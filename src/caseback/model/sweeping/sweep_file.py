"""A sweep as a file in its folder, so that ``caseback work`` can join it: prompts, edits and metric as plain data.

    sweep.safetensors    metadata["sweep"] = JSON of prompts, edits and metric, and the tensors that it mentions

A function is code and never data: a sweep with one has no such file, and is joined by the call that began it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from caseback.errors import LoadError
from caseback.jobs.job import Job
from caseback.jobs.json_text import expect_form, parse_json
from caseback.jobs.safe_files import read_tensors, write_tensors
from caseback.model.remote.messages import reader_of, tokens_of
from caseback.model.remote.records import Writer
from caseback.model.running.edits import Edit
from caseback.model.running.metrics import Metric
from caseback.model.running.tokens import Tokens

if TYPE_CHECKING:
    from caseback.model.running.model import Model

_NAME = "sweep"


class SweepData(NamedTuple):
    """What a sweep is made of, besides its budgets.

    Attributes
    ----------
    tokens
        The prompts.
    variants
        The edits of each variant.
    metric
        What is measured.
    given
        Edits of the embeddings that all variants share.
    standing
        Edits that the model stands under.
    """

    tokens: Tokens
    variants: Sequence[Sequence[Edit]]
    metric: Metric
    given: Sequence[Edit]
    standing: Sequence[Edit]


def sweep_path(folder: Path) -> Path:
    """The file that a sweep's folder has of it."""
    return folder / "sweep.safetensors"


def write_sweep(job: Job, sweep: SweepData) -> None:
    """Write a sweep down in its job's folder.

    Raises
    ------
    EditError, TargetError
        For an edit or a metric that is a function.
    WriteError
        Where the file cannot be written.
    """
    writer = Writer()

    def edits(of: Sequence[Edit], name: str) -> list[dict[str, Any]]:
        return [writer.edit(edit, f"{name}.{i}") for i, edit in enumerate(of)]

    data = {
        "edits_digest": job.plan.depends_on["edits"],
        "ids": writer.value(sweep.tokens.ids, "ids"),
        "mask": writer.value(sweep.tokens.mask, "mask"),
        "text": sweep.tokens.text,
        "variants": [edits(variant, f"variant{i}") for i, variant in enumerate(sweep.variants)],
        "metric": writer.metric(sweep.metric),
        "given": edits(sweep.given, "given"),
        "standing": edits(sweep.standing, "standing"),
    }
    data["runs"] = writer.written_runs()
    write_tensors(sweep_path(job.folder), writer.tensors, {_NAME: json.dumps(data, allow_nan=False)})


def read_sweep(job: Job, model: Model) -> SweepData:
    """The sweep of a job's folder, for a model.

    Raises
    ------
    LoadError
        For a folder without the file, one that is damaged or of another sweep.
    """
    path = sweep_path(job.folder)
    if not os.path.isfile(path):
        raise LoadError(
            f"{str(job.folder)!r} is a sweep whose edits or metric are Python functions, or of sites that a program "
            "registered, which a folder does not hold: join it by the call that began it, made again in another "
            "process with the same folder="
        )
    tensors, metadata = read_tensors(path)
    with expect_form(f"{str(path)!r} is not as caseback writes a sweep: remove it, and make the sweep's call again"):
        data = parse_json(metadata[_NAME])
        if data["edits_digest"] != job.plan.depends_on["edits"]:
            raise LoadError(f"{str(path)!r} is of another sweep: remove it, and make the sweep's call again")
        reader = reader_of(model, data, tensors)
        ids, mask = (reader.value(data[name]) for name in ("ids", "mask"))

        def edits(records: Sequence[Any]) -> list[Edit]:
            return [reader.sent_edit(record) for record in records]

        return SweepData(
            replace(tokens_of(model, ids, mask), text=data["text"]),
            [edits(variant) for variant in data["variants"]],
            reader.metric(data["metric"]),
            edits(data["given"]),
            edits(data["standing"]),
        )
