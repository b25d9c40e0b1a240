"""What the prompt claims against what the model knows: heads that speak for either, and a dial of each (PRIMER 5.4.22).

    prompts     In this tale, the capital of Italy is Oslo. The capital of Italy is      claimed Oslo, known Rome
                In this tale, the capital of Italy is Rome. The capital of Italy is      the claim agrees
    D(h)        direct share of head h in  logit(claimed) - logit(known),  on either:  D_claim, D_agree
    in-context  (D_claim - D_agree) / 2     speaks for what is claimed, whatever that is
    suppressing (D_agree - D_claim) / 2     speaks against what is claimed, whatever that is
    memory     -(D_claim + D_agree) / 2     speaks for what is known, whatever is claimed
    dial(a)     a z_h at the last token for a kind's heads at once: what the model says

The papers take D_claim alone, the difference of the first and the last, and so call suppressing heads memory heads.
Heads are chosen on one half of the subjects and judged on the other, beside random heads as near in depth.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from caseback.behaviors.mechanisms.choices import says
from caseback.edit.facts import Fact, spaced
from caseback.edit.places import pieces_of
from caseback.errors import CasebackError, OutOfRange
from caseback.localize.components.logit_attribution import logit_attribution
from caseback.model.registry import technique
from caseback.model.results import labelled_set
from caseback.model.running.edits import Edit, Scale, Zero
from caseback.model.running.metrics import Metric, is_first, logit_diff
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens

KINDS = ("in-context", "suppressing", "memory")
WORDING = "In this tale, {claim}. {question}"
_NO_NAMES = frozenset("the a an in on at to of for from by with it its this that people".split())
"""What a claim may begin with that is written small in the middle of a sentence."""
FACTORS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)
LEAST = 8
"""Facts that a model must know: half of them are chosen on, half are judged on."""
Head = tuple[int, int]


@technique(
    entry=("5.4.22",),
    citation="Yu et al. 2023, Ortu et al. 2024, Monea et al. 2024",
    cost="two forwards, a sweep of heads, and two of 3 x factors x (1 + draws), all at the last token",
)
def context_memory(
    model: Model,
    facts: Sequence[Fact],
    *,
    wording: str = WORDING,
    top: int = 3,
    factors: Sequence[float] = FACTORS,
    draws: int = 20,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Find the heads that speak for what a prompt claims, against it, and for what is known, and turn them.

    Parameters
    ----------
    model
        The model.
    facts
        Each with its ``true`` answer, which the model must give to the bare prompt, and the ``new`` one, which the
        context claims: a word that other facts have, or heads that favour common words look like memory. Others are
        left out, and those whose answers begin with the same token. ``relation_facts`` makes them.
    wording
        How a claim and its question are written: a text with ``{claim}``, the fact with the false answer, and behind it
        ``{question}``, the fact without one.
    top
        How many heads of each kind are turned; at most a quarter of all. A kind may have fewer, or none.
    factors
        What their outputs are multiplied by at the last token; 0 and 1 are always among them.
    draws
        Random sets of as many other heads, each as near in depth as there are.
    seed
        Same seed, same result. Halves the subjects, and draws heads.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        Over ``batch``, the facts that are known: ``direct`` and ``direct_agreeing`` (layer, head, batch), logits, a
        head's direct share in the claimed answer's logit less the known one's, where the context claims it and where
        it says what is true; ``knockout`` (layer, head, batch), by how much the difference falls without the head.
        By kind of head (``group``, those that there are) and factor (``dose``): ``says`` (group, dose, batch), 1 where
        the model's first choice is what the context claims, 2 where it is what is known, 0 otherwise, ``margin``
        (group, dose, batch), the difference of the logits, and both of random heads: ``says_control`` and
        ``margin_control`` (group, draw, dose, batch). ``agreeing`` and ``bare`` (group, dose, batch), whether the model
        still says what is true where the context does, or without any. All but ``direct`` are NaN on the half that
        heads are chosen on, which ``judged`` tells; ``kind`` (layer, head) names the heads.

    Raises
    ------
    CasebackError
        If the model knows fewer than 8 of the facts, a fact has no true answer, or ``wording`` is of another form.
    OutOfRange
        For no head, less than no draw, or factors that are not finite.

    References
    ----------
    Yu et al. 2023, "Characterizing mechanisms for factual recall in language models"; Ortu et al. 2024; Monea et al.
    2024.

    Examples
    --------
    >>> import caseback as cb
    >>> dial = context_memory(cb.load("meadow"), cb.edit.relation_facts("capital", count=16), top=2, draws=2)
    >>> dial["says"].dims, dial["says"].mean("batch").sel(group="in-context", dose=1).item()
    (('group', 'dose', 'batch'), 1.0)
    """
    doses = sorted({0.0, 1.0, *(float(factor) for factor in factors)})
    if not np.isfinite(doses).all():
        raise OutOfRange(f"factors {list(factors)}: expected finite numbers")
    if top < 1 or draws < 0:
        raise OutOfRange(f"top={top}, draws={draws}: expected 1 head or more, and 0 draws or more")
    if wording.count("{claim}") != 1 or wording.count("{question}") != 1 or not wording.endswith("{question}"):
        raise CasebackError(f"wording {wording!r}: expected a text with {{claim}} and, at its end, {{question}}")
    own, claimed, known = known_claims(model, facts)
    subjects = sorted({fact.subject for fact in own})
    random.Random(f"halves {seed}").shuffle(subjects)
    judged = np.array([fact.subject in subjects[len(subjects) // 2 :] for fact in own])
    texts = {
        "conflict": [written(wording, f, f.new) for f in own],
        "agreeing": [written(wording, f, str(f.true)) for f in own],
    }
    direct, direct_agreeing = (
        logit_attribution(model, some, logit_diff(claimed, known), by="head").values for some in texts.values()
    )
    heads = _chosen(direct[..., ~judged].mean(-1), direct_agreeing[..., ~judged].mean(-1), top)
    on = np.flatnonzero(judged)
    conflict, agreeing, bare = (
        model.tokens([some[i] for i in on]) for some in (*texts.values(), [fact.text for fact in own])
    )
    for_context, for_memory = [claimed[i] for i in on], [known[i] for i in on]
    margin, choice = logit_diff(for_context, for_memory), says(for_context, for_memory)
    every = [(i, h) for i, layer in enumerate(model.anatomy.layers) for h in range(layer.dims.n_heads)]
    silenced = model.sweep(conflict, [Zero("z", layer=i, head=h, pos=-1) for i, h in every], margin, progress=progress)
    knockout = np.full(direct.shape, np.nan)
    for at, row in zip(every, silenced["clean"].values - silenced.values, strict=True):
        knockout[(*at, on)] = row
    sets = [[some, *_near(some, list(heads.values()), every, draws, seed)] for some in heads.values()]
    dial = lambda tokens, metric, some: _dial(model, tokens, metric, some, doses, len(own), on, progress)  # noqa: E731
    alone = [one[:1] for one in sets]
    values: dict[str, tuple[np.ndarray, list[str]]] = {
        **{name: (v, ["layer", "head", "batch"]) for name, v in (("direct", direct), ("knockout", knockout))},
        "direct_agreeing": (direct_agreeing, ["layer", "head", "batch"]),
        "agreeing": (dial(agreeing, is_first(for_memory), alone)[:, 0], ["group", "dose", "batch"]),
        "bare": (dial(bare, is_first(for_memory), alone)[:, 0], ["group", "dose", "batch"]),
    }
    for name, metric in (("says", choice), ("margin", margin)):
        swept = dial(conflict, metric, sets)
        values[name] = swept[:, 0], ["group", "dose", "batch"]
        values[f"{name}_control"] = swept[:, 1:], ["group", "draw", "dose", "batch"]
    kinds = np.full(direct.shape[:2], "", dtype=object)
    for kind, some in heads.items():
        for at in some:
            kinds[at] = kind
    coords: dict[str, Any] = {"group": list(heads), "dose": doses}
    coords |= {name: list(range(n)) for name, n in zip(("layer", "head"), direct.shape, strict=False)}
    beside = {
        "prompt": [fact.text for fact in own],
        "context": texts["conflict"],
        "claimed": [fact.new for fact in own],
        "answer": [str(fact.true) for fact in own],
        "judged": judged,
    }
    coords |= {key: ("batch", of) for key, of in beside.items()}
    about = {"wording": wording, "facts": len(facts), "top": top, "draws": draws, "seed": seed}
    out = labelled_set(values, coords, technique=context_memory, model=model, **about)
    return out.assign_coords(kind=(("layer", "head"), kinds.astype(str)))


def written(wording: str, fact: Fact, answer: str) -> str:
    """A prompt: the fact with an answer as a claim, and the fact without one."""
    # not str.format: facts may contain braces
    before, _, between = wording.removesuffix("{question}").partition("{claim}")
    claim = fact.text
    inside = before.rstrip()[-1:].isalnum() or before.rstrip().endswith((",", ";"))  # in the middle of a sentence
    if inside and not claim.startswith(fact.subject) and claim.split(maxsplit=1)[0].lower() in _NO_NAMES:
        claim = claim[0].lower() + claim[1:]
    return f"{before}{claim}{spaced(answer)}{between}{fact.text}"


def known_claims(model: Model, facts: Sequence[Fact]) -> tuple[list[Fact], list[int], list[int]]:
    """The facts that the model answers rightly, and the first tokens of their claimed and known answers."""
    if lacking := [fact for fact in facts if fact.true is None]:
        raise CasebackError(f"the fact {lacking[0].text!r} has no true answer: give Fact(..., true=...)")
    if not facts:
        raise CasebackError(f"no fact: expected {LEAST} or more that the model knows")
    claimed, known = (
        [ids[0] for ids in pieces_of(model, answers)]
        for answers in ([fact.new for fact in facts], [str(fact.true) for fact in facts])
    )
    right = is_first(known)(model.run(model.tokens([fact.text for fact in facts]))).tolist()
    at = [i for i, yes in enumerate(right) if yes and claimed[i] != known[i]]
    if len(at) < LEAST or len({facts[i].subject for i in at}) < 2:
        raise CasebackError(
            f"of {len(facts)} facts the model knows {int(sum(right))}, {len(at)} of them with a first token of their "
            f"own: expected {LEAST} or more, of two subjects or more. Give facts that it knows"
        )
    return [facts[i] for i in at], [claimed[i] for i in at], [known[i] for i in at]


def _chosen(claim: np.ndarray, agree: np.ndarray, top: int) -> dict[str, list[Head]]:
    """The heads of each kind, the strongest first, at most a quarter of all; kinds without a head are left out.

    A head is of one kind, the one that it speaks for the most; one that speaks against what is known is of none.
    """
    copies, knows = (claim - agree) / 2, -(claim + agree) / 2
    parts = np.stack([copies, -copies, knows, -knows])
    of, most = parts.argmax(0), min(top, max(1, int((~np.isnan(claim)).sum()) // 4))
    out = {}
    for i, kind in enumerate(KINDS):
        able = [(int(x), int(y)) for x, y in np.argwhere((of == i) & (parts[i] > 0))]
        if able:
            out[kind] = sorted(able, key=lambda at: -parts[i][at])[:most]  # noqa: B023
    return out


def _near(own: Sequence[Head], taken: Sequence[Sequence[Head]], every: list[Head], draws: int, seed: int) -> Any:
    """Sets of other heads, each member as near in depth to one of a group's as there is."""
    free = [at for at in every if not any(at in some for some in taken)]
    rng, out = random.Random(f"heads {seed}"), []
    for _ in range(draws):
        rest, some = rng.sample(free, len(free)), []
        for layer, _ in own[: len(free)]:
            rest.sort(key=lambda at: abs(at[0] - layer))  # noqa: B023
            some.append(rest.pop(0))
        out.append(some)
    return out


def _dial(
    model: Model,
    tokens: Tokens,
    metric: Metric,
    sets: list[list[list[Head]]],
    doses: list[float],
    count: int,
    on: np.ndarray,
    progress: bool,
) -> np.ndarray:
    """(group, set, dose, batch): the metric with sets of heads scaled at the last token; NaN where none is judged."""
    variants: list[list[Edit]] = [
        [Scale("z", layer=i, head=h, pos=-1, factor=dose) for i, h in heads]
        for group in sets
        for heads in group
        for dose in doses
    ]
    swept = model.sweep(tokens, variants, metric, progress=progress)
    out = np.full((len(sets), len(sets[0]), len(doses), count), np.nan)
    out[..., on] = swept.values.reshape(*out.shape[:3], len(on))
    return out
