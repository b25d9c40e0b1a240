"""The proofs of all candidates, an experiment at a time: within a time, and kept in a folder as they are done.

    FOLDER/proofs/EXPERIMENT.json       outcomes by kind and unit, and a digest of all that they depend on

An interrupted atlas runs the experiments again that are not there. A proof that a time cut short is not there either:
the next one may have the time.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from caseback.behaviors.costs import proof_operations, shape_of
from caseback.behaviors.evidence import Evidence
from caseback.behaviors.kinds import Kind, Look
from caseback.behaviors.proofs.experiment import Recipe
from caseback.behaviors.proofs.experiments import EXPERIMENTS
from caseback.behaviors.proofs.proving import Outcome, fitting, outcomes_of, plans_of
from caseback.behaviors.within import Within, duration
from caseback.errors import CasebackError, LoadError, TokensError
from caseback.jobs.fingerprint import fingerprint
from caseback.jobs.progress import progress_bar
from caseback.jobs.safe_files import expect_whole, read_json, write_json
from caseback.jobs.whole_file import make_folder
from caseback.version import __version__

Outcomes = dict[tuple[str, int], Outcome]
Units = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Candidates:
    """What is put to the proof.

    Attributes
    ----------
    kinds, looks
        By name.
    chosen
        By kind the candidates' numbers.
    labelled
        By kind the numbers of all units with the label.
    """

    kinds: Mapping[str, Kind]
    looks: Mapping[str, Look]
    chosen: Units
    labelled: Units


@dataclass
class Proofs:
    """The proofs of some candidates.

    Attributes
    ----------
    evidence
        What was measured.
    candidates
        Of whom.
    within
        The time that they may take; None for as long as it takes.
    folder
        Where finished ones are kept.
    progress
        Show progress bars.
    """

    evidence: Evidence
    candidates: Candidates
    within: Within | None = None
    folder: Path | None = None
    progress: bool = False

    def run(self) -> tuple[Outcomes, dict[str, str]]:
        """Outcomes by kind and unit, and why an experiment was not run."""
        outcomes: Outcomes = {}
        unproved: dict[str, str] = {}
        of = {name: self._of(name) for name in EXPERIMENTS}
        to_come = [name for name, own in of.items() if own]
        if self.within is not None:
            to_come.sort(key=lambda name: self._least(of[name], name))
        for number, name in enumerate(progress_bar(to_come, "proofs", show=self.progress, unit="experiment")):
            own, why = self._experiment(name, of[name], len(to_come) - number)
            outcomes |= own
            if why:
                unproved[name] = why
            if self.within is not None:
                every = [(kind, unit) for kind, units in of[name].items() for unit in units]
                if many := sum(one not in outcomes for one in every):
                    least = duration(self.within.takes(self._least(of[name], name)))
                    self.within.left_out.append(
                        f"the proof of {many} of {len(every)} candidates by {name!r} (about {least} at least)"
                    )
        return outcomes, unproved

    def _of(self, name: str) -> dict[str, Sequence[int]]:
        chosen = self.candidates.chosen
        return {kind: chosen[kind] for kind in chosen if self.candidates.kinds[kind].proof == name}

    def _least(self, own: Units, name: str) -> float:
        """Operations of an experiment's first set of units, or of one for each candidate where each has its own."""
        each = EXPERIMENTS[name].each is not None
        return proof_operations(self._shape) * (sum(map(len, own.values())) if each else 1)

    @cached_property
    def _shape(self) -> Any:
        return shape_of(self.evidence)

    def _experiment(self, name: str, own: Units, to_come: int) -> tuple[Outcomes, str]:
        """Outcomes of one experiment, and why it has none or not all."""
        recipe = EXPERIMENTS[name]
        parts: list[tuple[str, Units]] = [(name, own)]
        if recipe.each is not None:
            unit_name = self.evidence.names
            parts = [
                (f"{name} {kind} {unit_name(self.candidates.kinds[kind].sort)[unit]}", {kind: [unit]})
                for kind, units in own.items()
                for unit in units
            ]
        finished = {called: self._finished(called, units) for called, units in parts}
        outcomes: Outcomes = {}
        for of in finished.values():
            outcomes |= of or {}
        waiting = [(called, units) for called, units in parts if finished[called] is None]
        if not waiting:
            return outcomes, ""
        share = None
        if self.within is not None:
            least, left = self.within.takes(proof_operations(self._shape)), self.within.left
            if not left or least > left:
                return outcomes, f"left out for time: it would take about {duration(least)} at least"
            share = max(left / to_come, least) / len(waiting)
        why = ""
        for called, units in waiting:
            try:
                own_outcomes, why = self._prove(called, units, share, recipe)
                outcomes |= own_outcomes
            except TokensError:
                why = "the text has no prompt for it"
            except CasebackError as error:  # the model has no such part, or its tokenizer no such words
                why = str(error)
        return outcomes, why

    def _prove(self, called: str, units: Units, share: float | None, recipe: Recipe) -> tuple[Outcomes, str]:
        """Outcomes of one experiment for some candidates, and why there are none."""
        together = recipe.each is None
        if recipe.make is not None:
            experiment = recipe.make(self.evidence)
        elif recipe.each is not None:
            (kind,) = units
            experiment = recipe.each(self.evidence, self.candidates.looks[kind], units[kind][0])
        past = {kind: self.candidates.labelled[kind] for kind in units}
        plans = whole = plans_of(self.evidence, experiment, units, past, self.candidates.kinds, together=together)
        if share is not None:
            plans, why = fitting(self.evidence, experiment, whole, share)
            if not plans:
                return {}, why
        outcomes = outcomes_of(self.evidence, experiment, plans, progress=self.progress)
        if self.folder is not None and plans is whole:
            parts = [[kind, unit, asdict(outcome)] for (kind, unit), outcome in outcomes.items()]
            make_folder(self._path(called).parent, "finished proofs")
            write_json(self._path(called), {"of": self._digest(called, units), "outcomes": parts})
        return outcomes, ""

    def _finished(self, called: str, units: Units) -> Outcomes | None:
        """The outcomes that the folder has of the same experiment; None where there are none, or they are damaged."""
        if self.folder is None or not os.path.isfile(self._path(called)):
            return None
        try:
            data = read_json(self._path(called))
            expect_whole(data, self._path(called))
            if data["of"] != self._digest(called, units):
                return None
            return {(kind, unit): Outcome(**outcome) for kind, unit, outcome in data["outcomes"]}
        except (LoadError, KeyError, TypeError, ValueError):
            return None

    def _path(self, called: str) -> Path:
        assert self.folder is not None
        return self.folder / "proofs" / f"{called.replace(' ', '-')}.json"

    @cached_property
    def _model(self) -> str:
        return fingerprint(self.evidence.model)

    def _digest(self, called: str, units: Units) -> str:
        looks, labelled = self.candidates.looks, self.candidates.labelled
        parts: dict[str, Any] = {"experiment": called, "model": self._model, "version": __version__}
        parts |= {"seed": self.evidence.seed, "tokens": self.evidence.n_tokens, "prompts": self.evidence.prompts}
        for kind, own in units.items():
            look = looks[kind]
            # scores are of all the text, from which means are that stand in for units
            parts[kind] = [list(own), list(labelled[kind]), look.score, look.ranked_by, list(look.classes)]
        return fingerprint(parts)
