"""The atlas of a model: which units are of a known kind, seen and proved, with the control beside every score.

    one pass over text, short passes over random tokens, weights  ->  looks at every unit
    the best candidates of every kind                             ->  proofs, one sweep an experiment

A kind that the model or the input does not allow is left out, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from caseback.behaviors import heads, neurons  # noqa: F401 - each registers its kinds
from caseback.behaviors.cards import Card, cards_of
from caseback.behaviors.costs import card_operations, shape_of
from caseback.behaviors.evidence import Evidence, collect_evidence, needed
from caseback.behaviors.kinds import KINDS, Kind, Look, beside_of, beyond, false_labels, in_order, kinds_of, labels
from caseback.behaviors.looking import Step, run_steps
from caseback.behaviors.proofs.experiments import EXPERIMENTS
from caseback.behaviors.proofs.of_candidates import Candidates, Proofs
from caseback.behaviors.proofs.proving import Outcome
from caseback.behaviors.stream.fact import Fact
from caseback.behaviors.stream.facts import ENTRIES as FACT_ENTRIES
from caseback.behaviors.stream.facts import STREAM_NEEDS, WAYS, Way, fact_of, missing_fact
from caseback.behaviors.within import OF_CARDS, OF_PROOFS, Within, duration, seconds_of
from caseback.errors import CasebackError
from caseback.jobs.launch import HERE
from caseback.model.arguments import checked
from caseback.model.display import Displayed
from caseback.model.findings import Finding, Findings
from caseback.model.registry import technique
from caseback.model.running.model import Model
from caseback.stream.documents import Corpus
from caseback.tasks.formats.treebank import Sentence


@dataclass(frozen=True)
class KindReport:
    """What was found of one kind.

    Attributes
    ----------
    kind
        Its name.
    sort
        What the units are.
    entry, citation, looks_at, control_is, threshold
        As of ``Kind``.
    band
        What the best unit reaches by chance (the largest, where units have bands of their own).
    labelled
        How many units have the label.
    false_labels
        How many would have it on the control.
    units
        How many units there are.
    experiment
        What proves it, empty where nothing does; and in ``unproved`` why it was not run.
    missing
        Why the kind was not looked for; empty where it was.
    unproved
        Why no proof was run; empty where one was.
    """

    kind: str
    sort: str
    entry: str
    citation: str
    looks_at: str
    control_is: str
    threshold: float
    band: float | None = None
    labelled: int = 0
    false_labels: int = 0
    units: int = 0
    experiment: str = ""
    missing: str = ""
    unproved: str = ""


@dataclass(frozen=True)
class Atlas(Displayed):
    """What an atlas holds.

    Attributes
    ----------
    kinds
        One report a kind.
    candidates
        The best units of every kind with their grades, "unseen" among them.
    scores
        Every look at every unit: by kind a frame of ``unit``, ``score``, ``control``, ``ranked_by``, ``band``, and
        ``class`` where units are of a class of texts, a relation or a letter.
    facts
        Facts of the stream, each with its control, or why it is missing.
    about
        Of which model, of how many tokens, and how it was made.
    cards
        By the name of each candidate that has a label its words and windows of text, see ``behaviors.cards``.
    """

    kinds: tuple[KindReport, ...]
    candidates: Findings
    scores: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    facts: tuple[Fact, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    cards: Mapping[str, Card] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Atlas({self.about.get('model', '')}: {len(self.kinds)} kinds, {len(self.findings)} findings)"

    @property
    def findings(self) -> Findings:
        """The candidates that have a label."""
        return Findings(tuple(f for f in self.candidates if f.grade != "unseen"), self.candidates.about)

    def of(self, component: str) -> tuple[Finding, ...]:
        """A unit's labels, the proved ones first, the others by how far their score is past the band."""
        own = [f for f in self.findings if f.component == component]
        return tuple(sorted(own, key=lambda f: (f.grade != "proved", f.band - f.score)))

    @checked
    def expect_of(self, model: Model) -> None:
        """Refuse another model than the atlas is of.

        Parameters
        ----------
        model
            The model.

        Raises
        ------
        CasebackError
            Naming what differs.
        """
        own = model.provenance()
        for name in ("model", "revision", "family", "model_class", "edits"):
            if self.about.get(name) != own.get(name):
                raise CasebackError(
                    f"this atlas is of another model: its {name} is {self.about.get(name)!r}, of this one it is "
                    f"{own.get(name)!r}. Make the atlas of this model"
                )

    def labels(self) -> dict[str, list[str]]:
        """Every label of every unit, candidates or not: the kinds by unit."""
        by_unit: dict[str, list[str]] = {}
        for report in self.kinds:
            frame = self.scores.get(report.kind)
            if frame is None:
                continue
            for unit in frame.unit[beyond(frame.score, frame.band, report.threshold)]:
                by_unit.setdefault(unit, []).append(report.kind)
        return by_unit


@technique(
    entry=tuple(sorted({*(kind.entry for kind in KINDS.values()), *FACT_ENTRIES, "B.18", "B.19"}, key=in_order)),
    citation="Elhage et al. 2021, Olsson et al. 2022, Gurnee et al. 2024",
    cost="one forward per token of text, and sweeps of the candidates",
)
def atlas(
    model: Model,
    corpus: Corpus | None = None,
    *,
    treebank: Sequence[Sentence] | None = None,
    kinds: Sequence[str] | str | None = None,
    n_tokens: int | None = None,
    length: int | None = None,
    top: int = 5,
    proofs: bool = True,
    budget: str | float | None = None,
    folder: str | Path | None = None,
    workers: int = 1,
    on: str = HERE,
    threads: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Atlas:
    """What is inside a model: its heads and neurons by known kinds, each with its control and its proof.

    Parameters
    ----------
    model
        The model.
    corpus
        Plain text, as ``caseback.stream.collect`` takes it. Without it, kinds that need text are left out. Records, and
        pairs of a text and a mapping, may have labels (``domain``, ``language``, ``skill``, ``concept``, ``sentiment``,
        or numbers ``latitude``, ``longitude``, ``year``); kinds that need one are left out where no text has it.
    treebank
        Sentences as ``caseback.tasks.formats.conllu`` reads them. Without them, kinds of syntax are left out.
    kinds
        Names of kinds (``caseback.behaviors.KINDS``); by default all, and facts of the stream.
    n_tokens
        Stop the text with the rows in which so many tokens are reached; by default it is read to its end.
    length
        Tokens per row of text; 128 by default, or the context where that is shorter.
    top
        How many candidates of each kind go to its proof.
    proofs
        Whether proofs are run.
    budget
        About how long it may take: seconds, or ``"90s"``, ``"5m"``, ``"1h"``. How much text, how many random rows and
        which proofs fit follows from the speed of a first batch; what is left out is in ``about["left out"]``.
    folder
        Where the pass over text is kept as a job, so that it resumes, and may have ``workers``; and finished proofs.
    workers, on, threads
        Where that pass runs; see ``caseback.jobs.launch``.
    seed
        Same seed, same result. It draws random tokens and resamples controls.
    progress
        Show a progress bar.

    Returns
    -------
    Atlas

    Raises
    ------
    CasebackError
        For no kind or an unknown one, a corpus of one document, fewer than one candidate, a budget that is no time.

    References
    ----------
    Ferrando et al. 2024, "A primer on the inner workings of transformer-based language models", section 5.

    Examples
    --------
    >>> import caseback as cb
    >>> found = atlas(cb.load("meadow"), kinds=["induction"], top=1)
    >>> [(f.component, f.kind, f.grade) for f in found.findings]
    [('L2H2', 'induction', 'proved')]
    """
    if top < 1:
        raise CasebackError(f"top={top}: expected 1 candidate of each kind at least")
    wanted = kinds_of(kinds)
    within = None if budget is None else Within(seconds_of(budget))
    needs = needed(
        *(one.needs for one in wanted),
        *(_of_proof(one) for one in wanted if proofs and one.proof in EXPERIMENTS),
        STREAM_NEEDS if kinds is None else {},
    )
    evidence = collect_evidence(
        model,
        corpus,
        needs,
        sentences=treebank or (),
        n_tokens=n_tokens,
        length=length,
        folder=None if folder is None else Path(folder),
        workers=workers,
        on=on,
        threads=threads,
        within=within,
        seed=seed,
        progress=progress,
    )
    return atlas_of(
        evidence,
        wanted,
        ways=WAYS if kinds is None else (),
        top=top,
        proofs=proofs,
        within=within,
        folder=None if folder is None else Path(folder),
        progress=progress,
    )


def _of_proof(kind: Kind) -> dict[str, tuple[str, ...]]:
    """The tables that a kind's experiment needs, and those that its units are matched by."""
    moments = {"head": "head_moments", "neuron": "neuron_moments", "expert": "router_counts"}[kind.sort]
    return {stream: (*tables, moments) for stream, tables in EXPERIMENTS[kind.proof].needs.items()}


def atlas_of(
    evidence: Evidence,
    kinds: Sequence[Kind],
    *,
    ways: Sequence[Way] = (),
    top: int = 5,
    proofs: bool = True,
    within: Within | None = None,
    folder: Path | None = None,
    progress: bool = False,
) -> Atlas:
    """The atlas that evidence gives, with some facts of the stream; see ``atlas``."""
    steps = [
        *(Step(kind.name, kind.works, partial(kind.look, evidence)) for kind in kinds),
        *(Step(_fact_name(way), way.works, partial(fact_of, way, evidence)) for way in ways),
    ]
    results, missing = run_steps(steps, evidence, within, keep=OF_PROOFS if proofs else 0.0, progress=progress)
    looks: dict[str, Look] = {kind.name: results[kind.name] for kind in kinds if kind.name in results}
    facts = [results.get(name) or missing_fact(way, missing[name]) for way in ways for name in [_fact_name(way)]]
    by_name = {kind.name: kind for kind in kinds}
    chosen = {name: _best(look, top) for name, look in looks.items()}
    past_of = {name: labels(look, by_name[name].threshold) for name, look in looks.items()}
    labelled = {name: np.flatnonzero(past).tolist() for name, past in past_of.items()}
    shown = [(by_name[name].sort, unit) for name, units in chosen.items() for unit in units if past_of[name][unit]]
    cards = _cards(evidence, shown, within)
    outcomes: dict[tuple[str, int], Outcome] = {}
    unproved: dict[str, str] = {}
    if proofs:
        candidates = Candidates(by_name, looks, chosen, labelled)
        outcomes, unproved = Proofs(evidence, candidates, within, folder, progress).run()
    reports, findings, scores = [], [], {}
    for kind in kinds:
        if kind.name in missing:
            reports.append(_report(kind, missing=missing[kind.name]))
            continue
        look, names, past = looks[kind.name], evidence.names(kind.sort), past_of[kind.name]
        reports.append(
            _report(
                kind,
                band=float(np.max(look.band)),
                labelled=int(past.sum()),
                false_labels=false_labels(look, kind.threshold),
                units=len(names),
                unproved=unproved.get(kind.proof, "") if kind.proof in EXPERIMENTS else "no intervention is built",
            )
        )
        band = np.broadcast_to(look.band, look.score.shape)
        columns = {"unit": names, "score": look.score, "control": look.control, "ranked_by": look.ranked_by}
        of_class = {"class": list(look.classes)} if look.classes else {}
        scores[kind.name] = pd.DataFrame({**columns, "band": band, **of_class})
        for unit in chosen[kind.name]:
            outcome = outcomes.get((kind.name, unit))
            findings.append(_finding(kind, look, unit, names[unit], bool(past[unit]), outcome))
    about = dict(evidence.model.provenance()) | {
        "layers": evidence.model.n_layers,
        "heads": len(evidence.heads),
        "tokens": evidence.n_tokens,
        "seed": evidence.seed,
    }
    if within is not None:
        about |= {"budget": within.seconds, "left out": "; ".join(within.left_out) or "nothing"}
    return Atlas(tuple(reports), Findings(tuple(findings), about), scores, tuple(facts), about, cards)


def _fact_name(way: Way) -> str:
    """What its step is called, among kinds."""
    return f"the stream's {way.name}"


def _cards(evidence: Evidence, units: Sequence[tuple[str, int]], within: Within | None) -> dict[str, Card]:
    """Cards of units by their sorts and numbers; none where they would take the time of the proofs."""
    names = {sort: evidence.names(sort) for sort in {sort for sort, _ in units}}
    own = list(dict.fromkeys(names[sort][unit] for sort, unit in units))
    if within is not None and own:
        takes = within.takes(card_operations(shape_of(evidence), len(own), evidence.n_tokens // 2))
        if takes > OF_CARDS * within.left:
            within.left_out.append(f"words and windows of {len(own)} units (about {duration(takes)})")
            return {}
    return cards_of(evidence, own)


def _best(look: Look, top: int) -> list[int]:
    """The units that the first half ranks highest."""
    among_equals = np.zeros(len(look.ranked_by)) if look.among_equals is None else look.among_equals
    return [int(i) for i in np.lexsort((-among_equals, -look.ranked_by))[:top]]


def _report(kind: Kind, **results: Any) -> KindReport:
    same = ("sort", "entry", "citation", "looks_at", "control_is", "threshold")
    return KindReport(kind.name, **{name: getattr(kind, name) for name in same}, experiment=kind.proof, **results)


def _finding(kind: Kind, look: Look, unit: int, name: str, labelled: bool, outcome: Outcome | None) -> Finding:
    proved = outcome.proved if outcome is not None and labelled else ""
    shown: dict[str, Any] = {"ranked by": float(look.ranked_by[unit]), **beside_of(look, unit)}
    if outcome is not None:
        shown |= {
            "error of the effect": outcome.error,
            "matched units": outcome.bound,
            "all of the kind": outcome.together,
            "matched sets": outcome.together_bound,
            "restores": outcome.restores,
        }
    return Finding(
        component=name,
        kind=kind.name,
        score=float(look.score[unit]),
        control=float(look.control[unit]),
        band=float(np.broadcast_to(look.band, look.score.shape)[unit]),
        effect=None if outcome is None else outcome.effect,
        unit="" if outcome is None else outcome.unit,
        grade="unseen" if not labelled else "proved" if proved else "seen",
        draw={"proved": proved} | {key: value for key, value in shown.items() if value is not None},
    )
