"""One relation in several sets of pairs, such as two languages: who carries it, and whether heads serve both.

    v_h(c) = mean over a set's pairs of label c of   z_h(counterfactual) - z_h(prompt)          at the last token
    do(z_h <- z_h + v_h(c))  for all heads proved in that set, in other prompts of label c    ->   log p(foil)

The foil is what follows the counterfactual: where the vectors of one language make it likelier in another's prompts,
both read the same signal from the same heads. Beside them: random vectors of each head's norm, and the vectors of as
many heads of like depth that are not proved. (PRIMER 5.4.11)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from caseback.behaviors.mechanisms.judging import like
from caseback.behaviors.mechanisms.measure import behavior
from caseback.behaviors.mechanisms.report import BehaviorReport, Transfer
from caseback.behaviors.mechanisms.role import Behavior, Role
from caseback.behaviors.mechanisms.scene import Part, name_of, parts_of
from caseback.errors import CasebackError
from caseback.model.registry import technique
from caseback.model.running.edits import Add, Edit
from caseback.model.running.metrics import log_prob, logit_diff
from caseback.model.running.model import Model
from caseback.tasks.prompts import Pair, Prompts
from caseback.tasks.task import Task

ROLE = "answer head"
DRAWS = 100
WORDS = {"other": "other heads'", "shown": "in the counterfactuals"}
Vectors = Mapping[Part, Mapping[str, Float[Tensor, " d_head"]]]
"""Of each head, by label, what takes a prompt of that label to its counterfactual."""


@technique(
    entry=("5.4.11", "5.4.18"),
    citation="Ferrando & Costa-jussà 2024",
    cost="a behavior of each set, and a sweep of 100 random vectors for each two sets",
)
def pair_sets(
    model: Model,
    sets: Mapping[str, Sequence[Pair]],
    *,
    prompts: int = 20,
    top: int = 5,
    draws: int = DRAWS,
    seed: int = 0,
    progress: bool = False,
) -> list[BehaviorReport]:
    """Find the heads that carry a relation in several sets of pairs, and move each set's vectors into the others.

    Parameters
    ----------
    model
        The model.
    sets
        Pairs by the name of their set, such as those of ``cb.tasks.formats.agreement_pairs``. ``group`` is a pair's
        label (its clean prompt's: singular, plural), the same words in all sets; ``foil`` follows the counterfactual.
    prompts
        Pairs of each set that heads and vectors are taken from, and as many others that they are judged on.
    top
        Candidates at most.
    draws
        Random vectors of the same norms.
    seed
        Same seed, same result. Draws pairs, shuffled answers, random heads and vectors.
    progress
        Show a progress bar.

    Returns
    -------
    list
        A ``BehaviorReport`` of each set: its margin, its heads by their effect (role ``"answer head"``), and as
        ``transfers`` what its own vectors and those of each other set do to its held-out prompts. ``overlap`` says
        which heads two of them share, beside chance. Of a set that the model does not do there are no heads and no
        transfers, from it or into it.

    Raises
    ------
    CasebackError
        For no set, a pair without a label, foil or counterfactual's answer, and labels that are not the same in all
        sets.
    TokensError
        For a set with too few pairs that this tokenizer cuts alike.

    References
    ----------
    Ferrando & Costa-jussà 2024, "On the similarity of circuits across languages"; who steer the verb's number in
    Spanish along the direction of English.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> tasks = {name: cb.tasks.agreement(structure=name) for name in ("simple", "noun_phrase")}
    >>> drawn = {name: task.prompts(model, 40).pairs for name, task in tasks.items()}
    >>> sets = {name: [replace(p, group=p.group.split()[1]) for p in pairs] for name, pairs in drawn.items()}
    >>> simple, noun_phrase = pair_sets(model, sets, prompts=12, draws=20)
    >>> [one.vector for one in noun_phrase.transfers], noun_phrase.present
    (['heads of simple', 'heads of noun_phrase'], True)
    """
    _expect_labelled(sets)
    reports: dict[str, BehaviorReport] = {}
    drawn: dict[str, tuple[Prompts, Prompts]] = {}
    for name, pairs in sets.items():
        task = _task(name, pairs)
        # the same draw as the behavior's
        whole = task.prompts(model, 2 * prompts, seed=seed)
        drawn[name] = whole[:prompts], whole[prompts:]
        how = {"prompts": prompts, "top": top, "seed": seed, "progress": progress}
        reports[name] = behavior(model, _behavior(name, task), places=False, **how)
    able = {name: _heads(model, report) for name, report in reports.items() if report.present and report.proved()}
    vectors = {name: _vectors(model, drawn[name][0], [*heads, *_others(model, heads)]) for name, heads in able.items()}
    return [
        replace(
            report,
            transfers=tuple(
                _transfer(model, drawn[name][1], source, able[source], vectors[source], name, draws, seed, progress)
                for source in able
            ),
        )
        if report.present
        else report
        for name, report in reports.items()
    ]


def _expect_labelled(sets: Mapping[str, Sequence[Pair]]) -> None:
    if not sets:
        raise CasebackError("no set of pairs is given: expected one or more by name")
    labels = {name: sorted({pair.group for pair in pairs}) for name, pairs in sets.items()}
    first = next(iter(labels))
    for name, own in labels.items():
        if not own or "" in own:
            raise CasebackError(f"{name}: a pair has no label: expected its group, such as singular or plural")
        if own != labels[first]:
            raise CasebackError(
                f"the labels of {name} are {', '.join(own)}, those of {first} {', '.join(labels[first])}: expected the "
                "same words in all sets"
            )
        if any(not (pair.foil and pair.corrupt_target) for pair in sets[name]):
            raise CasebackError(
                f"{name}: a pair lacks a foil or its counterfactual's answer, which is what is moved to"
            )


def _task(name: str, pairs: Sequence[Pair]) -> Task:
    own = list(pairs)
    return Task(name, f"Pairs of {name}.", lambda rng, fillers: rng.choice(fillers["pairs"]), {"pairs": lambda _: own})


def _behavior(name: str, task: Task) -> Behavior:
    role = Role(ROLE, "brings to the last token what tells the answer from its foil", "end")
    about = "One of two answers follows, by what the prompt says."
    return Behavior(name, about, lambda: task, (role,), "5.4.11", "Ferrando & Costa-jussà 2024", ("end",))


def _heads(model: Model, report: BehaviorReport) -> list[Part]:
    proved = report.proved()
    return [part for part in parts_of(model, "head") if name_of(part) in proved]


def _others(model: Model, heads: Sequence[Part]) -> list[Part]:
    """As many heads of like depth that are not among them, as far as there are."""
    return like(heads, parts_of(model, "head"), heads)[: len(heads)]


def _vectors(model: Model, prompts: Prompts, heads: Sequence[Part]) -> Vectors:
    sites = list(dict.fromkeys(("z", layer) for _, layer, _ in heads))
    rows = torch.arange(len(prompts), device=prompts.clean.ids.device)
    runs = [(model.run(side, read=sites), side.column(-1)) for side in (prompts.clean, prompts.corrupt)]
    apart = {at: runs[1][0][at][rows, runs[1][1]] - runs[0][0][at][rows, runs[0][1]] for at in sites}
    label = np.array([pair.group for pair in prompts.pairs])
    own = {c: torch.from_numpy(np.flatnonzero(label == c)).to(rows) for c in dict.fromkeys(label.tolist())}
    return {
        (sort, layer, head): {c: apart["z", layer][at, head].mean(0) for c, at in own.items()}
        for sort, layer, head in heads
    }


def _transfer(
    model: Model,
    on: Prompts,
    source: str,
    heads: Sequence[Part],
    vectors: Vectors,
    name: str,
    draws: int,
    seed: int,
    progress: bool,
) -> Transfer:
    """What a set's vectors do to held-out prompts, beside random ones and those of other heads."""
    rng = torch.Generator().manual_seed(seed)
    label = np.array([pair.group for pair in on.pairs])
    rows = {c: np.flatnonzero(label == c).tolist() for c in dict.fromkeys(label.tolist())}

    def put(parts: Sequence[Part], *, random: bool = False) -> list[Edit]:
        return [
            Add("z", _like(vectors[part][c], rng) if random else vectors[part][c], layer=part[1], head=part[2], pos=-1,
                prompt=at)
            for part in parts
            for c, at in rows.items()
            if c in vectors[part]
        ]  # fmt: skip

    others = [part for part in vectors if part not in heads]
    variants = [put(heads), put(others), *(put(heads, random=True) for _ in range(draws))]
    by: dict[str, dict[str, float | None]] = {}
    answers, foils = ([row[0] for row in ids] for ids in (on.target, on.foil))
    metrics = {"log_prob": log_prob(foils), "accuracy": logit_diff(foils, answers)}
    shown = model.run(on.corrupt)
    for measure, metric in metrics.items():
        swept = model.sweep(on.clean, variants, metric, progress=progress)
        count = (lambda x: np.asarray(x) > 0) if measure == "accuracy" else np.asarray
        means = count(swept.values).mean(1)
        by[measure] = {
            "without": float(count(swept["clean"].values).mean()),
            "with": float(means[0]),
            "band": float(np.quantile(means[2:], 0.95)) if draws else None,
            "other": float(means[1]) if others else None,
            "shown": float(count(metric(shown).double().cpu().numpy()).mean()),
        }
    return Transfer(f"heads of {source}", name, heads[0][1], by, WORDS)


def _like(vector: Tensor, rng: torch.Generator) -> Tensor:
    """A random vector of the same norm."""
    drawn = torch.randn(vector.shape, generator=rng).to(vector)
    return drawn * vector.norm() / drawn.norm()
