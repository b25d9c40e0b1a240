"""A relation as one affine map, from what the model holds of a subject to what it will say (PRIMER 5.4.19).

    s = resid_post[layer] at the subject's last token,   o = F(s) = resid_post[last] at the prompt's end
    W = mean of dF/ds,   b = mean of (F(s) - dF/ds s)   over some examples;        o ~ beta W s + b
    faithful   the first token of unembed(beta W s + b) is the answer
    causal     under  s + W_r^+ (o' - o)  the first token is the answer whose o' that is

W_r^+ is the pseudo-inverse of W's r largest singular values. beta, layer and r are chosen for each relation, on facts
of their own; a map is judged on others. Beside it stand maps that no Jacobian went into: the state itself (the lens),
the state moved by mean(o - s), and mean(o) alone, which says what is said most often. The map reads another fact's
subject as well, for chance.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.behaviors.facts.state_jacobians import state_jacobians
from caseback.edit.facts import Fact, spaced
from caseback.edit.places import located, pieces_of
from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.coerce import in_float64
from caseback.model.display import Displayed
from caseback.model.registry import technique
from caseback.model.results import labelled, labelled_set
from caseback.model.running.edits import Add
from caseback.model.running.metrics import is_first
from caseback.model.running.model import Model
from caseback.model.running.passing import undisturbed
from caseback.model.running.verify import unembed

BETAS = (1.0, 1.5, 2.0, 2.25, 2.5, 3.0, 4.0, 5.0)
RANKS = (4, 8, 16, 32, 64, 128, 256)
READINGS = ("map", "lens", "translation", "mean", "map of another subject")
LEAST = 4
"""Facts to choose on, and as many to judge on."""
MOST_LAYERS = 6


@dataclass(frozen=True, eq=False)
class RelationMap(Displayed):
    """An affine map of a relation, and how it does on facts that it was not made or chosen by.

    Attributes
    ----------
    weight, bias
        W (d_model, other) and b (d_model,), float64: o is about ``beta * weight @ s + bias``.
    layer, beta, rank
        What was chosen: behind which layer s is read, the factor, and of how many singular values W is inverted.
    chosen
        (layer, dose): the share of choosing facts that each layer and beta reads rightly.
    scores
        Of each judged fact: ``faithful`` (variant, batch), 1 where a reading's first token is the answer, by the map
        and what stands beside it; ``causal`` (batch), whether the model then says the other fact's answer, and beside
        it ``causal_control`` (draw, batch), under random vectors of that length, and ``replaced`` (batch), with the
        other fact's state itself. ``prompt``, ``answer`` and ``other_answer`` stand beside.
    about
        How many facts were known, made of, chosen on and judged on, and which were not known, with the answer's rank.
    """

    weight: Float[Tensor, "d_model other"]
    bias: Float[Tensor, " d_model"]
    layer: int
    beta: float
    rank: int
    chosen: xr.DataArray
    scores: xr.Dataset
    about: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        right = float(self.scores["faithful"].sel(variant="map").mean())
        return f"RelationMap(after layer {self.layer}, beta {self.beta:g}; {right:.0%} of {self.about['judged']} facts)"

    def of(self, states: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """What the map makes of states of subjects."""
        return self.beta * in_float64(states) @ self.weight.T.to(states.device) + self.bias.to(states.device)


@dataclass(frozen=True)
class _Asked:
    """Facts behind the same demonstrations, with what the model holds of them: by layer, and at the end."""

    facts: list[Fact]
    ids: list[list[int]]
    at: list[int]
    answers: list[int]
    states: Float[Tensor, "layer batch d_model"]
    ends: Float[Tensor, "batch d_model"]
    ranks: list[int]

    def __getitem__(self, some: Sequence[int]) -> _Asked:
        return _Asked(
            [self.facts[i] for i in some],
            [self.ids[i] for i in some],
            [self.at[i] for i in some],
            [self.answers[i] for i in some],
            self.states[:, list(some)],
            self.ends[list(some)],
            [self.ranks[i] for i in some],
        )

    def __len__(self) -> int:
        return len(self.facts)


@technique(
    entry=("5.4.19",),
    citation="Hernandez et al. 2024",
    cost="layers x d_model passes back of the examples, from the subject on; forwards of all facts",
)
def relation_map(
    model: Model,
    facts: Sequence[Fact],
    *,
    examples: int = 8,
    layers: Sequence[int] | None = None,
    betas: Sequence[float] = BETAS,
    demonstrations: bool = True,
    draws: int = 5,
    seed: int = 0,
    progress: bool = False,
) -> RelationMap:
    """Fit a relation's affine map to a few of its facts, choose its layer and factor on others, and judge it on more.

    Parameters
    ----------
    model
        The model.
    facts
        Of one relation, each with its ``true`` answer; ``relation_facts`` makes them. Those that the model does not
        answer are left out.
    examples
        How many facts the map is made of; 8 in the paper. Half of the rest choose, half are judged.
    layers
        Behind which layers the subject may be read; six between the first and the last but one by default.
    betas
        Which factors beta may be; the paper has one for all relations of a model, 2.25 for GPT-J.
    demonstrations
        Whether the other examples stand before each prompt with their answers, as in the paper.
    draws
        Random vectors of each intervention's length, beside it.
    seed
        Same seed, same result. It draws which facts are which, whose answer is asked for instead, and random vectors.
    progress
        Show a progress bar.

    Returns
    -------
    RelationMap

    Raises
    ------
    CasebackError
        For facts without an answer, and fewer known ones than examples and 8 more, with the numbers.
    OutOfRange
        For fewer than 2 examples, a layer that is not there or the last one, or factors that are not above 0.

    References
    ----------
    Hernandez et al. 2024, "Linearity of relation decoding in transformer language models".

    Examples
    --------
    >>> import caseback as cb
    >>> facts = cb.edit.relation_facts("capital")
    >>> fitted = relation_map(cb.load("meadow"), facts, examples=4, layers=[0], demonstrations=False, draws=1)
    >>> tuple(fitted.weight.shape), fitted.layer, fitted.scores["faithful"].dims
    ((160, 160), 0, ('variant', 'batch'))
    """
    layers = _layers(model, layers)
    if examples < 2 or draws < 0:
        raise OutOfRange(f"examples={examples}, draws={draws}: expected 2 or more examples, and 0 draws or more")
    if not betas or not all(0 < beta < float("inf") for beta in betas):
        raise OutOfRange(f"betas {list(betas)}: expected finite numbers above 0")
    if lacking := [fact for fact in facts if fact.true is None]:
        raise CasebackError(f"the fact {lacking[0].text!r} has no true answer: give Fact(..., true=...)")
    fitting, rest, unknown = _parted(model, list(facts), layers, examples, demonstrations, seed)
    half = len(rest) // 2
    choosing, judged = rest[range(half)], rest[range(half, len(rest))]
    maps = []
    for i, layer in enumerate(progress_bar(layers, show=progress, what="layers")):
        jacobians = state_jacobians(model, model.tokens(fitting.ids), fitting.at, layer, fitting.states[i])
        states, ends = fitting.states[i].cpu(), fitting.ends.cpu()
        biases = ends - torch.einsum("bde,be->bd", jacobians, states)
        maps.append((jacobians.mean(0), biases.mean(0)))
    right = np.array(
        [
            [_hits(model, beta * choosing.states[i].cpu() @ w.T + b, choosing.answers).mean() for beta in betas]
            for i, (w, b) in enumerate(maps)
        ]
    )
    best, dose = (int(i) for i in np.unravel_index(right.argmax(), right.shape))
    (weight, bias), layer, beta = maps[best], layers[best], float(betas[dose])
    rng = random.Random(f"targets {seed}")
    inverse = {rank: _inverse(weight, rank) for rank in (*(r for r in RANKS if r < len(weight)), len(weight))}
    tried = {rank: _causal(model, choosing, layer, w, _others(choosing, rng)) for rank, w in inverse.items()}
    rank = max(tried, key=lambda rank: (tried[rank].mean(), -rank))
    scores = _judged(model, fitting, judged, best, layer, (weight, bias, beta), inverse[rank], draws, seed)
    answers = [str(f.true) for f in judged.facts]
    others = [answers[i] for i in _others(judged, random.Random(f"judged {seed}"))]
    coords = {"variant": list(READINGS), "prompt": ("batch", [f.text for f in judged.facts])}
    coords |= {"answer": ("batch", answers), "other_answer": ("batch", others)}
    how = {"seed": seed, "examples": len(fitting), "demonstrations": demonstrations}
    whole = labelled_set(scores, coords, technique=relation_map, model=model, **how)
    chosen = labelled(
        right,
        ("layer", "dose"),
        {"layer": layers, "dose": list(betas)},
        name="faithful",
        technique=relation_map,
        model=model,
    )
    about = {"facts": len(facts), "known": len(fitting) + len(rest), "examples": len(fitting)}
    about |= {"choosing": len(choosing), "judged": len(judged), "demonstrations": demonstrations, "unknown": unknown}
    return RelationMap(weight, bias, layer, beta, rank, chosen, whole, about)


def _layers(model: Model, layers: Sequence[int] | None) -> list[int]:
    last = model.n_layers - 1
    if layers is None:
        if not last:
            raise OutOfRange("this model has one layer: a relation's map needs one before the last")
        return sorted({round(i * (last - 1) / (MOST_LAYERS - 1)) for i in range(MOST_LAYERS)})
    at = sorted({layer + model.n_layers if layer < 0 else layer for layer in layers})
    if not at or not all(0 <= layer < last for layer in at):
        raise OutOfRange(f"layers {list(layers)}: expected some of 0 to {last - 1}, behind which others come")
    return at


def _parted(
    model: Model, facts: list[Fact], layers: list[int], examples: int, shown: bool, seed: int
) -> tuple[_Asked, _Asked, list[dict[str, Any]]]:
    """The facts that the map is made of, the other known ones, and those that are not known."""
    random.Random(f"examples {seed}").shuffle(facts)
    needed = examples + 2 * LEAST
    if len(facts) < needed:
        raise CasebackError(
            f"{len(facts)} facts: expected {needed} or more that the model knows, {examples} to make the map of and as "
            f"many as {2 * LEAST} to choose and judge by. Give more, or ask for fewer examples"
        )
    first = facts[:examples]
    asked = _asked(model, facts, first if shown else [], layers)
    if shown:
        # examples are to be known too, so the facts that are known behind any examples give them
        known = [i for i, rank in enumerate(asked.ranks) if rank == 1]
        first = [facts[i] for i in known[:examples]]
        asked = _asked(model, facts, first, layers)
    known = [i for i, rank in enumerate(asked.ranks) if rank == 1]
    fitting = [i for i in known if facts[i] in first][:examples] if shown else known[:examples]
    rest = [i for i in known if facts[i] not in first] if shown else known[examples:]
    if len(fitting) < 2 or len(rest) < 2 * LEAST:
        raise CasebackError(
            f"of {len(facts)} facts the model knows {len(known)}: expected {needed} or more, {examples} to make the "
            f"map of and {2 * LEAST} to choose and judge by. Give facts that it knows, or ask for fewer examples"
        )
    unknown = [
        {"prompt": fact.text, "answer": str(fact.true), "rank": rank}
        for fact, rank in zip(facts, asked.ranks, strict=True)
        if rank > 1
    ]
    return asked[fitting], asked[rest], unknown


def _asked(model: Model, facts: list[Fact], shown: list[Fact], layers: list[int]) -> _Asked:
    """Facts behind demonstrations of others, run once."""
    shots = {id(one): f"{one.text}{spaced(str(one.true))}.\n" for one in shown}
    before = ["".join(words for key, words in shots.items() if key != id(fact)) for fact in facts]
    texts = [begun + fact.text for begun, fact in zip(before, facts, strict=True)]
    spans = [(len(a) + f.span[0], len(a) + f.span[1]) for a, f in zip(before, facts, strict=True)]
    rows = located(model, texts, spans)
    answers = [pieces[0] for pieces in pieces_of(model, [str(fact.true) for fact in facts])]
    if late := [fact for fact, ids, at in zip(facts, rows.ids, rows.at, strict=True) if at == len(ids) - 1]:
        raise CasebackError(f"{late[0].text!r} ends with its subject: expected a relation behind it, to be answered")
    last = model.n_layers - 1
    states, ends, ranks = [], [], []
    budget = limit("stream_tokens", model.device)
    some = max(1, budget // max(map(len, rows.ids)))
    for start in range(0, len(facts), some):
        tokens = model.tokens(rows.ids[start : start + some])
        run = model.run(tokens, read=[("resid_post", layer) for layer in dict.fromkeys([*layers, last])])
        here = torch.arange(len(tokens), device=tokens.ids.device)
        at = tokens.column(torch.tensor(rows.at[start : start + some], device=tokens.ids.device))
        end = tokens.column(-1)
        states.append(torch.stack([in_float64(run["resid_post", layer][here, at]) for layer in layers]))
        ends.append(in_float64(run["resid_post", last][here, end]))
        logits = run.logits[here, end]
        own = logits.gather(-1, torch.tensor(answers[start : start + some], device=logits.device)[:, None])
        ranks += (1 + (logits > own).sum(-1)).tolist()
    return _Asked(facts, rows.ids, rows.at, answers, torch.cat(states, 1), torch.cat(ends), ranks)


def _hits(model: Model, states: Float[Tensor, "batch d_model"], answers: Sequence[int]) -> np.ndarray:
    """Where the first token that final states say is the answer."""
    weight_device = model.anatomy.device
    with torch.no_grad(), undisturbed(model.anatomy, grad=False):
        logits = unembed(model.anatomy, states.to(weight_device, model.dtype))
    return (logits.argmax(-1).cpu() == torch.tensor(list(answers))).numpy().astype(float)


def _inverse(weight: Float[Tensor, "d_model other"], rank: int) -> Float[Tensor, "other d_model"]:
    u, s, vh = torch.linalg.svd(weight)
    largest = s[:rank]
    inverted = torch.where(largest > torch.finfo(largest.dtype).eps * len(s) * s[0], 1 / largest, 0.0)
    return vh[:rank].T * inverted @ u[:, :rank].T


def _others(asked: _Asked, rng: random.Random) -> list[int]:
    """For each fact one with another answer; itself where there is none."""
    return [
        rng.choice([j for j, answer in enumerate(asked.answers) if answer != own] or [i])
        for i, own in enumerate(asked.answers)
    ]


def _causal(
    model: Model, asked: _Asked, layer: int, inverse: Tensor, others: list[int], of: Tensor | None = None
) -> np.ndarray:
    """Where the model says the other fact's answer once the subject's state is moved; by ``of`` where it is given."""
    moves = of if of is not None else (asked.ends[others] - asked.ends).cpu() @ inverse.T
    tokens = model.tokens(asked.ids)
    put = Add(
        "resid_post",
        moves.to(model.device, torch.promote_types(model.dtype, torch.float32)),
        layer=layer,
        pos=torch.tensor(asked.at, device=tokens.ids.device),
    )
    return is_first([asked.answers[i] for i in others])(model.run(tokens, edits=[put])).cpu().double().numpy()


def _judged(
    model: Model,
    fitting: _Asked,
    judged: _Asked,
    row: int,
    layer: int,
    fitted: tuple[Tensor, Tensor, float],
    inverse: Tensor,
    draws: int,
    seed: int,
) -> dict[str, tuple[np.ndarray, list[str]]]:
    (weight, bias, beta), states = fitted, judged.states[row].cpu()
    own, ends = fitting.states[row].cpu(), fitting.ends.cpu()
    others = _others(judged, random.Random(f"judged {seed}"))
    mapped = beta * states @ weight.T + bias
    readings = {
        "map": mapped,
        "lens": states,
        "translation": states + (ends - own).mean(0),
        "mean": ends.mean(0).expand_as(states),
        "map of another subject": mapped[others],
    }
    faithful = np.stack([_hits(model, readings[name], judged.answers) for name in READINGS])
    moves = (judged.ends[others].cpu() - judged.ends.cpu()) @ inverse.T
    causal = lambda of: _causal(model, judged, layer, inverse, others, of)  # noqa: E731
    generator = torch.Generator().manual_seed(seed)
    random_moves = torch.randn(draws, *moves.shape, generator=generator, dtype=torch.float64)
    random_moves = random_moves * (moves.norm(dim=-1, keepdim=True) / random_moves.norm(dim=-1, keepdim=True))
    control = np.stack([causal(one) for one in random_moves]) if draws else np.empty((0, len(judged)))
    return {
        "faithful": (faithful, ["variant", "batch"]),
        "causal": (causal(moves), ["batch"]),
        "causal_control": (control, ["draw", "batch"]),
        "replaced": (causal(states[others] - states), ["batch"]),
    }
