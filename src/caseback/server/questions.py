"""The questions of the explorer: each a form and the report that answers it. Which are quick is said here too."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from caseback.errors import CasebackError, TokensError
from caseback.jobs.budget import limit
from caseback.jobs.warned import heard
from caseback.model.running.model import Model
from caseback.reports.attributions import compare_attributions
from caseback.reports.explain import explain
from caseback.reports.graphs.attribution import attribution_graph_document
from caseback.reports.quick.attention import prompt_attention
from caseback.reports.quick.drivers import unit_drivers
from caseback.reports.quick.effects import component_effects
from caseback.reports.quick.features import prompt_features
from caseback.reports.quick.patching import prompt_patching
from caseback.reports.quick.prediction import prediction
from caseback.reports.quick.table import table_of_records, table_of_task
from caseback.server import asked
from caseback.server.shelf import Shelf


@dataclass(frozen=True)
class Question:
    """One thing that can be asked.

    Attributes
    ----------
    form
        What is asked with.
    answer
        The report: a model, a filled form and the server's shelf to a document.
    title
        What people call it.
    quick
        Whether it is a pass or two of the model: answered at once, while other questions are jobs.
    """

    form: type[asked.Form]
    answer: Callable[[Model, Any, Shelf], dict[str, Any]]
    title: str
    quick: bool = False

    @property
    def line(self) -> str:
        """Where it waits."""
        return "quick" if self.quick else "jobs"

    def written(self, model: Model, form: Any, shelf: Shelf) -> bytes:
        """The answer as bytes of JSON; what was warned of meanwhile is in its ``warnings``."""
        with heard() as warned:
            document = self.answer(model, form, shelf)
        if warned:
            document = {**document, "warnings": [*document.get("warnings", []), *warned]}
        return json.dumps(document, allow_nan=False).encode()


def _prediction(model: Model, form: asked.Prediction, shelf: Shelf) -> dict[str, Any]:
    return prediction(model, _prompt(model, form.prompt), edits=form.edits(shelf), count=form.count)


def _features(model: Model, form: asked.Features, shelf: Shelf) -> dict[str, Any]:
    dictionary = shelf.dictionary(form.dictionary)
    prompt, edits = _prompt(model, form.prompt), form.edits(shelf)
    return prompt_features(model, prompt, dictionary, name=form.dictionary, edits=edits, top=form.top)


def _drivers(model: Model, form: asked.Drivers, shelf: Shelf) -> dict[str, Any]:
    unit, dictionaries = form.unit_named(model, shelf)
    prompt, pos = _prompt(model, form.prompt), -1 if form.pos is None else form.pos
    return unit_drivers(model, prompt, unit, dictionaries, pos=pos, key=form.looked_at, top=form.top)


def _table(model: Model, form: asked.Table, shelf: Shelf) -> dict[str, Any]:
    if (form.task is None) == (form.lines is None):
        raise CasebackError("a table is of a task or of lines of JSON: give one of them")
    edits = form.edits(shelf)
    if form.lines is not None:
        return table_of_records(model, form.lines, measure=form.measure, edits=edits)
    return table_of_task(model, form.task or "", form.count, seed=form.seed, measure=form.measure, edits=edits)


def _attention(model: Model, form: asked.Attention, shelf: Shelf) -> dict[str, Any]:
    return prompt_attention(model, _prompt(model, form.prompt), form.layer, edits=form.edits(shelf))


def _patching(model: Model, form: asked.Patching, _: Shelf) -> dict[str, Any]:
    prompt, corrupt = _prompt(model, form.prompt), _prompt(model, form.corrupt)
    return prompt_patching(model, prompt, corrupt, target=form.target, foil=form.foil)


def _story(model: Model, form: asked.Story, _: Shelf) -> dict[str, Any]:
    corrupt = None if form.corrupt is None else _prompt(model, form.corrupt)
    return explain(
        model, _prompt(model, form.prompt), target=form.target, foil=form.foil, corrupt=corrupt, depth=form.depth
    )


def _inputs(model: Model, form: asked.Inputs, _: Shelf) -> dict[str, Any]:
    return compare_attributions(model, _prompt(model, form.prompt), form.methods, target=form.target, foil=form.foil)


def _effects(model: Model, form: asked.Effects, _: Shelf) -> dict[str, Any]:
    corrupt = None if form.corrupt is None else _prompt(model, form.corrupt)
    return component_effects(model, _prompt(model, form.prompt), target=form.target, foil=form.foil, corrupt=corrupt)


def _graph(model: Model, form: asked.Graph, shelf: Shelf) -> dict[str, Any]:
    named = [shelf.dictionary(name) for name in form.dictionaries]
    units = named or (shelf.transcoders() if form.units == "transcoders" else "neurons")
    return attribution_graph_document(
        model, _prompt(model, form.prompt), units, targets=form.target, foil=form.foil, max_nodes=form.max_nodes
    )


def _prompt(model: Model, text: str) -> str:
    most, count = limit("server_prompt_tokens"), len(model.tokens(text).text[0])
    if count > most:
        raise TokensError(f"a prompt of {count} tokens: this explorer takes {most} at most")
    return text


QUESTIONS: Mapping[str, Question] = MappingProxyType(
    {
        "prediction": Question(asked.Prediction, _prediction, "What comes next?", quick=True),
        "effects": Question(asked.Effects, _effects, "Which heads and MLPs did it?"),
        "features": Question(asked.Features, _features, "Which features fire?", quick=True),
        "drivers": Question(asked.Drivers, _drivers, "What drives a unit?"),
        "attention": Question(asked.Attention, _attention, "Where do the heads look?", quick=True),
        "patching": Question(asked.Patching, _patching, "Which places carry it?"),
        "table": Question(asked.Table, _table, "On many prompts?"),
        "story": Question(asked.Story, _story, "Why?"),
        "inputs": Question(asked.Inputs, _inputs, "Which words mattered?"),
        "graph": Question(asked.Graph, _graph, "What led to it?"),
    }
)
