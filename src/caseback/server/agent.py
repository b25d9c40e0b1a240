"""The agent's door: the registry's techniques and the explorer's questions as tools of the Model Context Protocol.

An agent looks for a technique, reads its signature, and runs it with plain values: prompts as text, a metric as its
name and tokens. What it gets back is short, the largest values with their labels, and a file that has all of it.
Work that takes longer than is allowed ends with a sentence that says so.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from caseback.errors import CasebackError, did_you_mean
from caseback.jobs.progress import watched
from caseback.jobs.warned import heard
from caseback.jobs.whole_file import make_folder, whole_file
from caseback.model.registry import Technique, techniques
from caseback.model.running import metrics
from caseback.model.running.model import Model
from caseback.reports.model_facts import model_facts
from caseback.reports.result_json import result_json
from caseback.reports.tables.techniques import technique_row, technique_rows
from caseback.server.asked import Effects, Graph, Inputs, Prediction, Story
from caseback.server.questions import QUESTIONS
from caseback.server.shelf import Shelf
from caseback.version import __version__
from caseback.views.page.kinds import PAGES, page_html

METRICS = ("logit_diff", "logit", "prob", "log_prob", "prob_diff")
OURS = frozenset({"model", "progress", "checkpoint", "folder", "workers", "on", "threads"})  # no agent sets these

INSTRUCTIONS = """Interpret one language model. Begin with `about_model` and `predict`. `explain` answers why;
`find_techniques` lists the techniques of the interpretability Primer, `describe_technique` gives the arguments of one,
`run_technique` runs it. Effects of heads are measured by intervention; attributions are estimates, so check them with
`effects`."""

# what plain values can give a technique that asks for it
PLAIN = frozenset(
    "tokens metric clean corrupt prompt prompts texts target targets foil layer head site unit units context current "
    "kind matrix count threshold edges".split()
)


def agent_server(model: Model, folder: str | Path, *, seconds: float = 120.0, rows: int = 20) -> MCPServer:
    """The tools over one model.

    Parameters
    ----------
    model
        The model.
    folder
        Where whole results and pages are written.
    seconds
        How long a call may take: it ends at the next step that reports progress.
    rows
        How many of the largest values of a result are given back.
    """
    desk = _Desk(model, make_folder(folder, "results"), seconds, rows)
    server = MCPServer("caseback", version=__version__, instructions=INSTRUCTIONS)
    of_registry = (desk.about_model, desk.find_techniques, desk.describe_technique, desk.run_technique)
    for tool in (*of_registry, desk.predict, desk.effects, desk.explain, desk.attribute, desk.graph):
        server.add_tool(_in_words(tool))
    return server


def _in_words(tool: Callable[..., Any]) -> Callable[..., Any]:
    """The tool, whose refusals and warnings reach the agent as they are written.

    Of other errors it hears that there was one.
    """

    @functools.wraps(tool)
    def in_words(*given: Any, **options: Any) -> Any:
        try:
            with heard() as warned:
                answer = tool(*given, **options)
        except CasebackError as error:
            raise ToolError(str(error)) from error
        except MemoryError as error:
            raise ToolError(f"more memory than there is ({error}): ask for less") from error
        return {**answer, "warnings": [*answer.get("warnings", []), *warned]} if warned else answer

    return in_words


class _Desk:
    """The tools: what they share is the model, the folder, and how much time and how many rows a call may take."""

    def __init__(self, model: Model, folder: Path, seconds: float, rows: int) -> None:
        self.model, self.folder, self.seconds, self.rows = model, folder, seconds, rows

    def about_model(self) -> dict[str, Any]:
        """The model's name, family and sizes."""
        return model_facts(self.model)

    def find_techniques(self, word: str = "") -> list[dict[str, Any]]:
        """Techniques whose name, summary, entry of the Primer or citation has the words; all of them without any.

        `run_technique` runs those that are `runnable`; the others need what only Python can give.
        """
        runnable = {one.name: not _only_in_python(one) for one in techniques()}
        return [
            {key: value for key, value in row.items() if key != "example"} | {"runnable": runnable[row["name"]]}
            for row in technique_rows(words=word.split())
        ]

    def describe_technique(self, name: str) -> dict[str, Any]:
        """One technique: its arguments with their defaults, and its documentation, example included."""
        one = _technique(name)
        given = inspect.signature(one.function).parameters
        arguments = {p: str(value) for p, value in given.items() if p not in OURS}
        return {
            **technique_row(one),
            "runnable": not _only_in_python(one),
            "arguments": arguments,
            "metric": f"an object with `name`, one of {', '.join(METRICS)}, and `target` and `foil` as it needs",
            "documentation": inspect.getdoc(one.function),
        }

    def run_technique(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Run a technique on the model: prompts are texts, `metric` an object with a name, a target and a foil."""
        one = _technique(name)
        if needs := _only_in_python(one):
            raise CasebackError(
                f"{one.name} needs {', '.join(needs)}, which only Python can give: `describe_technique` has an example"
            )
        if taken := sorted(OURS & set(arguments)):
            raise CasebackError(f"{', '.join(taken)} cannot be given here: the server sets them")
        values = dict(arguments)
        if "metric" in values:
            values["metric"] = _metric(values["metric"])
        with self._in_time():
            result = one.function(self.model, **values)
        return self._short(result, one.function.__name__)

    def predict(self, form: Prediction) -> dict[str, Any]:
        """What comes next after a prompt, under changes of the model's parts (a factor of 0 takes a part away)."""
        document = self._answer("prediction", form)
        rows = [{k: row[k] for k in ("text", "prob", "before")} for row in document["predictions"]]
        lens = document["lens"]
        last = {str(layer): texts[-1][0] for layer, texts in zip(lens["layers"], lens["top_text"], strict=True)}
        return {"predictions": rows, "each_layer_would_say": last, "tokens": [t["text"] for t in document["tokens"]]}

    def effects(self, form: Effects) -> dict[str, Any]:
        """What each head and MLP does to the answer, measured: silenced, or restored from a counterfactual."""
        document = self._answer("effects", form)
        heads = {f"L{i}H{j}": x for i, row in enumerate(document["head"]) for j, x in enumerate(row) if x is not None}
        parts = heads | {f"MLP {i}": x for i, x in enumerate(document["mlp"]) if x is not None}
        ranked = sorted(parts.items(), key=lambda item: -abs(item[1]))[: self.rows]
        return {
            "how": document["how"],
            "target": document["target"]["text"],
            "foil": document["foil"]["text"],
            "logit_difference": document["value"],
            "largest": [{"part": name, "effect": value} for name, value in ranked],
        }

    def explain(self, form: Story) -> dict[str, Any]:
        """Why the model answers as it does: a causal story with its evidence and checks, and a page of it."""
        document = self._answer("story", form)
        story = document["story"] or {}
        return {
            "target": document["target"]["text"],
            "foil": document["foil"]["text"],
            "logit_difference": document["metric"]["value"],
            "sentences": [one["text"] for one in story.get("sentences", [])],
            "checks": [{k: check.get(k) for k in ("name", "passed")} for check in document["checks"]],
            **self._files(document, "explanation"),
        }

    def attribute(self, form: Inputs) -> dict[str, Any]:
        """What each token of the prompt does to the answer, by several methods, and how faithful each is."""
        document = self._answer("inputs", form)
        texts = [token["text"] for token in document["tokens"]]
        places = [f"{pos} {text}" for pos, text in enumerate(texts)]
        methods = {m["name"]: dict(zip(places, m["scores"], strict=True)) for m in document["methods"]}
        return {"target": document["target"]["text"], "scores": methods, **self._files(document, "attributions")}

    def graph(self, form: Graph) -> dict[str, Any]:
        """What led to the answer, unit by unit: an attribution graph of neurons, with a page of it."""
        document = self._answer("graph", form)
        about = {"nodes": len(document["nodes"]["name"]), "warnings": document.get("warnings", [])}
        return about | self._files(document, "graph")

    def _answer(self, name: str, form: Any) -> dict[str, Any]:
        with self._in_time():
            return QUESTIONS[name].answer(self.model, form, Shelf())

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        over = time.monotonic() + self.seconds

        def watch(what: str, n: int, total: int | None) -> None:
            if time.monotonic() > over:
                done = f"{n} of {total}" if total else str(n)
                raise CasebackError(
                    f"not done within {self.seconds:g} s ({what}: {done}): ask for less, or start the server with more "
                    "--seconds"
                )

        with watched(watch):
            yield

    def _short(self, result: Any, name: str) -> dict[str, Any]:
        if not isinstance(result, xr.DataArray | xr.Dataset):
            return {"result": repr(result)[:4000]}
        path = self._free(name)
        _write(path, json.dumps(result_json(result)))
        whole = result if isinstance(result, xr.Dataset) else result.to_dataset(name=str(result.name or "value"))
        arrays = {str(name): array for name, array in whole.data_vars.items()}
        measured = sorted((n for n, a in arrays.items() if a.dtype.kind == "f" and a.size), key=lambda n: n != "effect")
        # all variables together have so many rows
        values = {n: _largest(arrays[n], max(3, self.rows // len(measured))) for n in measured}
        return {"dims": {str(k): v for k, v in result.sizes.items()}, "largest": values, "file": str(path)}

    def _files(self, document: Mapping[str, Any], name: str) -> dict[str, str]:
        path = self._free(name)
        _write(path, json.dumps(document))
        if document["kind"] not in PAGES:
            return {"file": str(path)}
        page = path.with_suffix(".html")
        _write(page, page_html(document))
        return {"file": str(path), "page": str(page)}

    def _free(self, name: str) -> Path:
        """A file of the folder that is not there yet: earlier results stay, whichever of them were taken away."""
        numbered = (self.folder / f"{name}-{number}.json" for number in itertools.count(1))
        return next(path for path in numbered if not os.path.lexists(path))


def _only_in_python(one: Technique) -> list[str]:
    """What must be given to it that is neither the model, as its first argument, nor a plain value."""
    first, *others = inspect.signature(one.function).parameters.values()
    required = [p.name for p in others if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return [first.name] * (first.name != "model") + [name for name in required if name not in PLAIN]


def _technique(name: str) -> Technique:
    every = {one.name: one for one in techniques()}
    whole = name.removeprefix("caseback.")
    named = [full for full in every if whole in (full, full.rpartition(".")[2])]
    if not named:
        short = [full.rpartition(".")[2] for full in every]
        raise CasebackError(f"no technique is called {name!r}. {did_you_mean(name, short)}")
    if len(named) > 1:
        raise CasebackError(f"{name!r} is the name of several techniques: give {' or '.join(named)}")
    return every[named[0]]


def _metric(given: Any) -> Any:
    if not isinstance(given, Mapping) or given.get("name") not in METRICS:
        names = ", ".join(METRICS)
        raise CasebackError(
            f"a metric is an object with a name, one of {names}, and its tokens: not {str(given)[:200]}"
        )
    options = {key: value for key, value in given.items() if key != "name"}
    function = getattr(metrics, given["name"])
    unknown = sorted(set(options) - set(inspect.signature(function).parameters))
    if unknown:
        raise CasebackError(f"{given['name']} takes no {', '.join(unknown)}")
    return function(**options)


def _largest(array: xr.DataArray, rows: int) -> list[dict[str, Any]]:
    """The entries of largest absolute value, each with its labels."""
    flat = np.nan_to_num(np.abs(array.values.astype(float)).ravel(), nan=-1.0)
    best = np.argsort(-flat, kind="stable")[:rows]
    entries = []
    for index in zip(*np.unravel_index(best[flat[best] >= 0], array.shape), strict=True):
        one = array[tuple(int(i) for i in index)]
        labels = {str(d): int(i) for d, i in zip(array.dims, index, strict=True)}
        labels |= {str(k): v.item() for k, v in one.coords.items() if v.ndim == 0 and v.notnull()}
        entries.append({**labels, "value": float(one)})
    return entries


def _write(path: Path, text: str) -> None:
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8", newline="\n")
