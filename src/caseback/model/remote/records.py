"""Edits and metrics as plain data: what a file holds of them, and what a remote model is sent.

    Zero("z", layer=1)     ->   {"edit": "Zero", "site": "z", "layer": 1}
    logit_diff(" a", 3)    ->   {"metric": "logit_diff", "args": [" a", 3], "options": {}}

Numbers, text, slices and lists are JSON; a tensor stands beside it by name, and so does a run: its prompts and what was
read of it. A function is code and never data: ``Apply``, ``cb.function`` and classes of one's own are refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caseback.errors import CasebackError, EditError, TargetError
from caseback.jobs.sent_calls import OfACall
from caseback.model.anatomy.sites import Site
from caseback.model.running import metrics
from caseback.model.running.affine import Affine, Codebook, Fade, Rotate, SideMemory, SideTerm, Tilt
from caseback.model.running.answer_metrics import answer_log_prob
from caseback.model.running.edits import (
    Add,
    Edit,
    Freeze,
    Mean,
    Noise,
    Project,
    Replace,
    Resample,
    Scale,
    Swap,
    Zero,
)
from caseback.model.running.run import Run
from caseback.model.running.site_metrics import activation

OWN = {
    action.__name__: action
    for action in (
        *(Zero, Replace, Add, Scale, Mean, Noise, Project, Affine, Tilt, Fade, Rotate),
        *(SideTerm, Codebook, SideMemory),
    )
}
"""The edits that hold by themselves."""

OF_RUNS = {action.__name__: action for action in (Resample, Swap, Freeze)}
"""Those that hold another run, which is data where its prompts and activations are sent along."""

METRICS = {
    make.__name__: make
    for make in (
        *(metrics.logit, metrics.logit_diff, metrics.prob, metrics.log_prob, metrics.is_first, metrics.prob_diff),
        *(metrics.kl, metrics.loss, activation, answer_log_prob),
    )
}


class Writer:
    """Writes values as data; their tensors and runs gather in it.

    Attributes
    ----------
    tensors
        By the names under which the data mention them.
    runs
        The runs that were met, with what is needed of each.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.runs: list[tuple[Run, set[Site]]] = []
        self._names: dict[int, tuple[Tensor, str]] = {}

    def value(self, value: Any, name: str, needs: Sequence[Site] = ()) -> Any:
        """A value as data; ``needs`` are the sites that are needed of a run."""
        if isinstance(value, Tensor):
            return {"tensor": self._tensor(value, name)}
        if isinstance(value, np.ndarray):
            return self.value(torch.as_tensor(value), name)
        if isinstance(value, Run):
            return {"run": self._run(value, needs)}
        if isinstance(value, slice):
            return {"slice": [value.start, value.stop, value.step]}
        if isinstance(value, float) and not math.isfinite(value):
            return {"number": str(value)}
        if isinstance(value, np.generic):
            return self.value(value.item(), name)
        if isinstance(value, list | tuple | set | range):
            return [self.value(one, f"{name}.{i}") for i, one in enumerate(value)]
        if value is None or isinstance(value, str | int | float):
            return value
        raise CasebackError(f"{value!r} is no data: expected numbers, text, tensors, or lists of them")

    def edit(self, edit: Edit, name: str) -> dict[str, Any]:
        """An edit as data.

        Raises
        ------
        EditError
            For what is no edit, or one of a function.
        """
        if not isinstance(edit, Edit):
            raise EditError(f"a {type(edit).__name__} is not an edit: expected cb.Zero, cb.Add, cb.Replace ...")
        action = type(edit).__name__
        if {**OWN, **OF_RUNS}.get(action) is not type(edit):
            raise EditError(_is_code(action, EDITS_ARE))
        record: dict[str, Any] = {"edit": action}
        for part in fields(edit):
            value = getattr(edit, part.name)
            if value is not None:
                needs = _sites_of(edit, value) if isinstance(value, Run) else ()
                record[part.name] = self.value(value, f"{name}.{part.name}", needs)
        return record

    def metric(self, metric: metrics.Metric, name: str = "metric") -> dict[str, Any]:
        """A metric as the call that makes it.

        Raises
        ------
        TargetError
            For one that is a function.
        """
        call = getattr(metric.bind, "call", None) if isinstance(metric.bind, OfACall) else None
        if call is None or METRICS.get(call[1]) is None or METRICS[call[1]].__module__ != call[0]:
            raise TargetError(_is_code(metric.name, METRICS_ARE))
        _, maker, args, options = call
        return {
            "metric": maker,
            "args": [self.value(one, f"{name}.{i}", [Site("logits")]) for i, one in enumerate(args)],
            "options": {key: self.value(one, f"{name}.{key}", [Site("logits")]) for key, one in options.items()},
        }

    def written_runs(self) -> list[dict[str, Any]]:
        """The runs that were met, as data."""
        records = []
        for number, (run, needs) in enumerate(self.runs):
            at = f"run{number}"
            held = {site: run[site.key] for site in needs if site in run.sites}
            if Site("logits") in needs:
                held[Site("logits")] = run.logits
            records.append(
                {
                    "ids": self.value(run.tokens.ids, f"{at}.ids"),
                    "mask": self.value(run.tokens.mask, f"{at}.mask"),
                    "edited": run.edited,
                    "sites": {str(site): self.value(x, f"{at}.{site}") for site, x in held.items()},
                }
            )
        return records

    def _tensor(self, tensor: Tensor, name: str) -> str:
        """The name of a tensor's copy; one that many edits share is there once."""
        if id(tensor) not in self._names:
            self.tensors[name] = tensor.detach().cpu().contiguous().clone()  # several may share their memory
            self._names[id(tensor)] = tensor, name  # held, so that nothing else is given its id meanwhile
        return self._names[id(tensor)][1]

    def _run(self, run: Run, needs: Sequence[Site]) -> int:
        for number, (known, sites) in enumerate(self.runs):
            if known is run:
                sites.update(needs)
                return number
        self.runs.append((run, set(needs)))
        return len(self.runs) - 1


class Reader:
    """Reads what a ``Writer`` wrote.

    Parameters
    ----------
    tensors
        That the data mention.
    runs
        Likewise, by number.
    """

    def __init__(self, tensors: Mapping[str, Tensor], runs: Sequence[Run] = ()) -> None:
        self.tensors, self.runs = tensors, runs

    def value(self, value: Any) -> Any:
        """A value from data."""
        if isinstance(value, list):
            return [self.value(one) for one in value]
        if not isinstance(value, dict):
            return value
        ((form, held),) = value.items()
        if form == "slice":
            return slice(*held)
        if form == "number":
            return float(held)
        if form == "run":
            return self.runs[held]
        if form != "tensor":
            raise ValueError(form)
        return self.tensors[held]

    def edit(self, record: Mapping[str, Any], actions: Mapping[str, type[Edit]] = OWN) -> Edit:
        """An edit from data; of another kind than ``actions`` it is a ``KeyError``."""
        action = actions[record["edit"]]
        known = {part.name for part in fields(action)}
        if unknown := set(record) - known - {"edit"}:
            raise ValueError(sorted(unknown)[0])
        return action(**{name: self.value(value) for name, value in record.items() if name != "edit"})

    def sent_edit(self, record: Mapping[str, Any]) -> Edit:
        """An edit that was sent, those of runs included.

        Raises
        ------
        EditError
            For ``Apply`` or a name that is no edit's.
        """
        actions = {**OWN, **OF_RUNS}
        if record["edit"] not in actions:
            raise EditError(_is_code(str(record["edit"])[:60], EDITS_ARE))
        return self.edit(record, actions)

    def metric(self, record: Mapping[str, Any]) -> metrics.Metric:
        """A metric that was sent.

        Raises
        ------
        TargetError
            For a function, or a name that is no metric's.
        """
        if record["metric"] not in METRICS:
            raise TargetError(_is_code(str(record["metric"])[:60], METRICS_ARE))
        args = [self.value(one) for one in record["args"]]
        return METRICS[record["metric"]](*args, **{key: self.value(one) for key, one in record["options"].items()})


EDITS_ARE = ", ".join([*OWN, *OF_RUNS, "Knockout"])
METRICS_ARE = ", ".join(METRICS)


def _is_code(name: str, choices: str) -> str:
    return f"{name} is code, or nothing that is known: a remote model is sent data alone. Choose one of {choices}"


def _sites_of(edit: Edit, run: Run) -> list[Site]:
    """The sites of a run that an edit reads."""
    layers = edit.layer
    if isinstance(layers, slice):
        layers = range(*layers.indices(run.anatomy.n_layers))
    layers = list(layers) if isinstance(layers, Sequence) else [layers]
    return [site for i in layers for site in run.anatomy.sites(edit.site if i is None else (edit.site, i))]
