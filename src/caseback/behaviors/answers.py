"""What neurons do to the answers of prompts: facts in several wordings, and minimal pairs.

    facts    Attr(u) = n_u int_0^1 d P(answer) / d n_u  at a n_u  da  =  P(n_u) - P(0),    the other neurons as they are
    pairs    A(u) = n_u w_out_u . direction of the right answer's logit over the wrong one's

Facts are measured at the prompt's last token, along each neuron's own path, whose integral is the difference of its
ends. One backward pass gives n_u dP/dn_u of all neurons, its value to first order; of the ten largest of each prompt
the difference itself is measured on all prompts, and the others count for nothing. (The code of Dai et al. scales all
neurons of a layer together: over the layer that sums to what the whole layer is worth, and says less of each.) Pairs
are the exact direct effects of ``neuron_attribution``.

Neither is a table of a stream: the one needs gradients, the other answers of its own for every prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float

from caseback.behaviors.answers_of_heads import OF_HEADS
from caseback.errors import CasebackError, SiteAbsent, TargetError, TokensError
from caseback.jobs.budget import limit
from caseback.localize.components.attribution_patching import attribution_patching
from caseback.localize.components.neuron_attribution import neuron_attribution
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.running.edits import Replace
from caseback.model.running.metrics import logit_diff, prob
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens
from caseback.organisms.prose.residents import WORDINGS
from caseback.organisms.prose.world import RESIDENTS
from caseback.tasks import agreement, minimal_pair
from caseback.tasks.facts import RELATIONS
from caseback.tasks.standard.minimal_pair import PHENOMENA
from caseback.tasks.task import Task
from caseback.tasks.text import fill

EXACT = 10
"""So many neurons of each prompt are measured."""
FEWEST, MOST = 4, 6
"""Facts of a relation that the model knows in every wording."""
PAIRS = 192
"""Of each phenomenon: a neuron that speaks in half of them, and is then right, is past the best of many by chance."""

FACTS: dict[str, tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]] = {
    "capital": (RELATIONS["capital"].wordings, RELATIONS["capital"].facts),
    "language": (
        (*RELATIONS["language"].wordings, "The people who live in {subject} speak"),
        RELATIONS["language"].facts,
    ),
    "job": (
        tuple(w.partition("[")[0].replace("{p}", "{subject}") for w in WORDINGS if "[ {job}]" in w),
        tuple((f"{one.name} {one.surname}", one.job) for one in RESIDENTS),
    ),
}
"""Relations with four wordings each: the wordings, and subjects with their answers."""

GRAMMAR: dict[str, Callable[[], Task]] = {
    **{name.replace("_", " "): lambda name=name: minimal_pair(phenomenon=name) for name in PHENOMENA},
    "attractor": lambda: agreement(attractor="other"),
}
"""Phenomena, each with its task."""


@dataclass(frozen=True)
class KnownFacts:
    """Facts of one relation that a model knows.

    Attributes
    ----------
    relation
        Its name.
    names
        Of each fact subject and answer.
    tokens
        The prompts, wording by wording.
    answers
        By prompt the answer's token.
    attribution
        (wording, fact, neuron), over the prompt's largest.
    """

    relation: str
    names: list[str]
    tokens: Tokens
    answers: list[int]
    attribution: Float[np.ndarray, "wording fact neuron"]


def known_facts(model: Model, seed: int) -> list[KnownFacts]:
    """The facts that a model knows in every wording, with what its neurons do to their answers.

    Raises
    ------
    SiteAbsent
        For a model without neurons or tokenizer, or that knows fewer than four facts of any relation.
    """
    known = [_known(model, relation) for relation in FACTS]
    if not any(one is not None for one in known):
        raise SiteAbsent(f"fewer than {FEWEST} facts of any of {', '.join(FACTS)} are known in all wordings")
    return [one for one in known if one is not None]


def _known(model: Model, relation: str) -> KnownFacts | None:
    wordings, listed = FACTS[relation]
    facts = [(subject, token) for subject, answer in listed if (token := _token(model, answer)) is not None]
    try:
        tokens = model.tokens([fill(w, subject=subject).text for w in wordings for subject, _ in facts])
    except TokensError:
        return None
    if not facts:
        return None
    answers = torch.tensor([token for _, token in facts])
    run = model.run(tokens)
    last = run.logits[torch.arange(len(tokens)), run.tokens.column(-1)].detach().cpu()
    log_p = at_least_float32(last).log_softmax(-1).unflatten(0, (len(wordings), len(facts)))
    others = torch.unique(answers)
    right = others[log_p[..., others].argmax(-1)] == answers
    own = log_p.gather(-1, answers.expand(len(wordings), -1)[..., None])[..., 0].amin(0)
    order = own.masked_fill(~right.all(0), -torch.inf).argsort(descending=True, stable=True)
    # each answer once, so that other facts have others
    chosen: dict[int, int] = {}
    for fact in order.tolist():
        if bool(right[:, fact].all()) and len(chosen) < MOST:
            chosen.setdefault(int(answers[fact]), fact)
    if len(chosen) < FEWEST:
        return None
    rows = [w * len(facts) + fact for w in range(len(wordings)) for fact in chosen.values()]
    some = tokens[rows]
    asked = [int(answers[i % len(facts)]) for i in rows]
    values = attributions(model, some, asked)
    largest = values.max(1, keepdims=True)
    values = np.divide(values, largest, out=np.zeros_like(values), where=largest > 0)
    names = [f"{facts[fact][0]}, {model.token_text(answer).strip()}" for answer, fact in chosen.items()]
    return KnownFacts(relation, names, some, asked, values.reshape(len(wordings), len(chosen), -1))


def _token(model: Model, word: str) -> int | None:
    try:
        return model.token_id(f" {word}")
    except (TargetError, TokensError):
        return None


def attributions(
    model: Model, tokens: Tokens, answers: Sequence[int], *, exact: int = EXACT
) -> Float[np.ndarray, "prompt neuron"]:
    """P(n_u) - P(0) at last tokens, of so many neurons of each prompt; of all to first order where ``exact`` is 0.

    Which these are the first order says; the others count for nothing, since what is steep is overrated by it.
    """
    metric = prob(list(answers))
    estimate = attribution_patching(model, tokens, None, metric, sites="mlp_post")["mlp_post"]
    last = xr.DataArray(tokens.lengths.cpu().numpy() - 1, dims="batch")
    by_prompt = -estimate.isel(pos=last).transpose("batch", "layer", "neuron").values
    layers = estimate["layer"].values.tolist()
    units = [(layer, neuron) for layer in layers for neuron in range(len(model.weights.W_out[layer]))]
    at = [i * by_prompt.shape[2] + neuron for i, layer in enumerate(layers) for n, neuron in units if n == layer]
    values = by_prompt.reshape(len(tokens), -1)[:, at].astype(float)
    if not exact:
        return values
    some = np.unique(np.argsort(-values, 1, kind="stable")[:, :exact])
    without = [Replace("mlp_post", layer=units[i][0], unit=units[i][1], pos=-1, value=0.0) for i in some]
    swept = model.sweep(tokens, [[edit] for edit in without], metric)
    measured = np.zeros_like(values)
    measured[:, some] = (swept["clean"].values - swept.values).T
    return measured


@dataclass(frozen=True)
class GrammarPairs:
    """Minimal pairs of one phenomenon.

    Attributes
    ----------
    phenomenon
        Its name in ``GRAMMAR``.
    effect, other
        (half, neuron), mean direct effects towards the right answer, and towards another pair's.
    error
        (half, neuron), the standard error of ``other`` about 0.
    gap
        The largest difference between the sum over neurons and what the MLPs write.

    All in shares of the mean size of the logit difference; even pairs are the first half, odd ones the second.
    """

    phenomenon: str
    effect: Float[np.ndarray, "half neuron"]
    other: Float[np.ndarray, "half neuron"]
    error: Float[np.ndarray, "half neuron"]
    gap: float


def grammar_pairs(model: Model, seed: int) -> list[GrammarPairs]:
    """Minimal pairs that fit the tokenizer, with what neurons write towards their answers.

    Raises
    ------
    SiteAbsent
        For a model without neurons, or where no phenomenon fits.
    """
    every, reasons = [], []
    for phenomenon, task in GRAMMAR.items():
        try:
            prompts = task().prompts(model, PAIRS, seed=seed)
        except CasebackError as error:
            reasons.append(error)
            continue
        answers = ([ids[0] for ids in of] for of in (prompts.target, prompts.foil))
        every.append(effects_on(model, phenomenon, prompts.clean, *answers, seed=seed))
    if not every:
        raise SiteAbsent(f"no minimal pairs fit this tokenizer: {reasons[0]}")
    return every


def effects_on(
    model: Model, phenomenon: str, tokens: Tokens, target: Sequence[int], foil: Sequence[int], *, seed: int
) -> GrammarPairs:
    """What neurons write towards each pair's right answer, and towards that of another pair."""
    order = np.random.default_rng(seed).permutation(len(tokens))
    effect, logits, gap = _effects(model, tokens, list(target), list(foil))
    other, _, _ = _effects(model, tokens, *([of[i] for i in order] for of in (target, foil)))
    size = np.abs(logits).mean()

    def by_half(x: np.ndarray) -> np.ndarray:
        return np.stack([x[half::2].mean(0) for half in (0, 1)])

    error = np.sqrt(by_half(other**2) / (len(tokens) // 2))
    return GrammarPairs(phenomenon, by_half(effect) / size, by_half(other) / size, error / size, gap / size)


def _effects(model: Model, tokens: Tokens, target: list[int], foil: list[int]) -> tuple[np.ndarray, np.ndarray, float]:
    parts = []
    step = max(1, limit("stream_tokens", model.device) // tokens.shape[1])
    for some in (slice(first, first + step) for first in range(0, len(tokens), step)):
        parts.append(neuron_attribution(model, tokens[some], logit_diff(target[some], foil[some]), top=None))
    by_pair = np.concatenate([part.transpose("batch", "layer", "neuron").values for part in parts])
    # layers may be of unlike width
    widths = [len(model.weights.W_out[layer]) for layer in parts[0].attrs["layers"]]
    effects = np.concatenate([by_pair[:, i, :width] for i, width in enumerate(widths)], 1)
    logits, gaps = (np.concatenate([part.attrs[name] for part in parts]) for name in ("metric_value", "gap"))
    return effects, logits, float(np.abs(gaps).max())


MEASURED: dict[str, Callable[[Model, int], list[Any]]] = {"facts": known_facts, "pairs": grammar_pairs, **OF_HEADS}
"""What is measured by a name that kinds need, from the model and a seed."""
