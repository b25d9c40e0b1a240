"""The questions of the explorer: each a form and the report that answers it. Which are quick is said here too."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from caseback.errors import CasebackError, TokensError
from caseback.jobs.budget import limit
from caseback.model.running.model import Model
from caseback.reports.attributions import compare_attributions
from caseback.reports.explain import explain
from caseback.reports.graphs.attribution import attribution_graph_document
from caseback.reports.quick.effects import component_effects
from caseback.reports.quick.prediction import prediction
from caseback.server import asked


@dataclass(frozen=True)
class Question:
    """One thing that can be asked.

    Attributes
    ----------
    form
        What is asked with.
    answer
        The report: a model and a filled form to a document.
    title
        What people call it.
    quick
        Whether it is a pass or two of the model: answered at once, while other questions are jobs.
    """

    form: type[asked.Form]
    answer: Callable[[Model, Any], dict[str, Any]]
    title: str
    quick: bool = False

    @property
    def line(self) -> str:
        """Where it waits."""
        return "quick" if self.quick else "jobs"

    def written(self, model: Model, form: Any) -> bytes:
        """The answer as bytes of JSON."""
        return json.dumps(self.answer(model, form), allow_nan=False).encode()


def _prediction(model: Model, form: asked.Prediction) -> dict[str, Any]:
    parts = [change.model_copy(update={"factor": 0.0}) for change in form.changes]
    if len(set(parts)) < len(parts):
        raise CasebackError("a part is changed twice: give each part one factor")
    edits = [change.edit() for change in form.changes]
    return prediction(model, _prompt(model, form.prompt), edits=edits, count=form.count)


def _story(model: Model, form: asked.Story) -> dict[str, Any]:
    corrupt = None if form.corrupt is None else _prompt(model, form.corrupt)
    return explain(
        model, _prompt(model, form.prompt), target=form.target, foil=form.foil, corrupt=corrupt, depth=form.depth
    )


def _inputs(model: Model, form: asked.Inputs) -> dict[str, Any]:
    return compare_attributions(model, _prompt(model, form.prompt), form.methods, target=form.target, foil=form.foil)


def _effects(model: Model, form: asked.Effects) -> dict[str, Any]:
    corrupt = None if form.corrupt is None else _prompt(model, form.corrupt)
    return component_effects(model, _prompt(model, form.prompt), target=form.target, foil=form.foil, corrupt=corrupt)


def _graph(model: Model, form: asked.Graph) -> dict[str, Any]:
    return attribution_graph_document(
        model, _prompt(model, form.prompt), targets=form.target, foil=form.foil, max_nodes=form.max_nodes
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
        "story": Question(asked.Story, _story, "Why?"),
        "inputs": Question(asked.Inputs, _inputs, "Which words mattered?"),
        "graph": Question(asked.Graph, _graph, "What led to it?"),
    }
)
