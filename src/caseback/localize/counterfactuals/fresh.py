"""Other prompts of the same pattern: the words that the answer hangs on, exchanged for others of their kind.

The same words are exchanged in the prompt and in its counterfactual, wherever they stand, so that the two still differ
in the same places. Target and foil are exchanged too where they are among the words; else they are what the model
answers. A pair counts if the model prefers the target after the one and the foil after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.json_text import shortened
from caseback.localize.counterfactuals.alternatives import alternatives
from caseback.localize.counterfactuals.finding import find, logits_after
from caseback.localize.counterfactuals.results import Counterfactual
from caseback.localize.counterfactuals.swapping import rows_of
from caseback.localize.counterfactuals.words import Word
from caseback.model.anatomy.coerce import in_float64
from caseback.model.arguments import checked
from caseback.model.running.metrics import Metric, logit_diff
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike, Tokens
from caseback.tasks.prompts import Pair, Prompts

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Fresh:
    """Pairs of prompts with their answers and the metric of each, and how many were tried."""

    clean: Tokens
    corrupt: Tokens
    targets: list[int]
    foils: list[int]
    metric: Metric
    clean_value: Float[np.ndarray, " batch"]
    corrupt_value: Float[np.ndarray, " batch"]
    tried: int


@checked
def fresh_prompts(
    model: Model,
    prompt: PromptsLike,
    count: int = 40,
    *,
    target: str | int | None = None,
    foil: str | int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Prompts:
    """A prompt with the counterfactual that ``find`` finds, and other such pairs of its pattern.

    Parameters
    ----------
    model
        The model.
    prompt
        One prompt: text, ids or ``Tokens``.
    count
        How many pairs at most, the prompt itself first.
    target, foil
        As for ``find``.
    seed
        What the words are drawn from.
    progress
        Show a progress bar.

    Returns
    -------
    Prompts
        Pairs of which the model answers both as expected, as a task gives them; those that were tried and not so
        answered are counted in ``dropped``.

    Raises
    ------
    CasebackError
        Where nothing that is tried moves the answer, or no other prompt of the pattern is answered as expected.
    OutOfRange
        For fewer than 2 pairs.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> prompts = fresh_prompts(model, "When Mary and John went to the store, John gave a drink to", 4)
    >>> len(prompts), bool((prompts.metric(model.run(prompts.clean)) > 0).all())
    (4, True)
    """
    if count < 2:
        raise OutOfRange(f"count is {count}: expected 2 or more, the prompt and another")
    search = find(model, prompt, target=target, foil=foil, progress=progress)
    best = search.best
    if best is None:
        raise CasebackError(f"no counterfactual was found ({search}): give prompts that are pairs already")
    log_prob = model.run(search.tokens).logits[0].detach().float().log_softmax(-1)
    fresh = fresh_pairs(model, search.tokens, search.words, best, search.target, log_prob, count - 1, seed=seed)
    if fresh is None:
        raise CasebackError(
            f"no other prompt of the pattern of {''.join(search.tokens.text[0])!r} is answered as expected ({best})"
        )
    clean, corrupt = (
        rows_of(model, torch.cat([own.ids, other.ids]).cpu().numpy())
        for own, other in ((search.tokens, fresh.clean), (best.tokens, fresh.corrupt))
    )
    targets, foils = [search.target, *fresh.targets], [best.foil, *fresh.foils]
    texts = zip(model.text(clean), model.text(corrupt), strict=True)
    pairs = [Pair.of(a, b, t, f) for (a, b), t, f in zip(texts, targets, foils, strict=True)]
    answers = ([[t] for t in targets], [[f] for f in foils])
    end = torch.tensor([[clean.shape[1] - 1] * 2] * len(pairs))
    dropped = {"answered otherwise": fresh.tried - len(fresh.clean)}
    name = f"prompts like {shortened(next(iter(model.text(search.tokens))), 60)!r}"
    return Prompts(clean, corrupt, *answers, answers[1], pairs, {"end": end}, "logit_diff", name, dropped)


def fresh_pairs(
    model: Model,
    tokens: Tokens,
    words: Sequence[Word],
    one: Counterfactual,
    target: int,
    log_prob: Float[Tensor, "pos vocab"],
    count: int,
    *,
    seed: int = 0,
) -> Fresh | None:
    """At most ``count`` pairs of which the model answers both as expected; None where there is none.

    Up to four times as many are tried, in rounds of twice as many as are still wanted.
    """
    rng = np.random.default_rng(seed)
    roles = _roles(words, one, target)
    places = [i for i, word in enumerate(words) if word.ids in roles]
    if not places:
        return None
    listed = alternatives(model, tokens, words, log_prob, 4 * count + 8)
    own = {word.ids for word in words} | set(roles)
    options = {
        ids: list(
            dict.fromkeys(o.ids for i in places if words[i].ids == ids for o in listed.get(i, ()) if o.ids not in own)
        )
        for ids in {words[i].ids for i in places}
    }
    changed = {change.word.ids: change.ids for change in one.changes}
    for old, new in changed.items():
        # a word that only the counterfactual has is of its old word's kind
        if new not in options:
            options[new] = options.get(old, [])
    base, other = (t.ids[0].cpu().numpy() for t in (tokens, one.tokens))
    stands = {change.word.pos: change.ids for change in one.changes}
    taken: list[tuple[np.ndarray, np.ndarray, int, int, float, float]] = []
    seen: set[bytes] = set()
    tried = 0
    while len(taken) < count and tried < 4 * count:
        some = [_drawn(options, rng) for _ in range(min(2 * (count - len(taken)), 4 * count - tried))]
        if not some[0]:
            return None
        tried += len(some)
        clean = np.stack([_mapped(base, words, mapping, {}) for mapping in some])
        corrupt = np.stack([_mapped(other, words, mapping, stands) for mapping in some])
        after = in_float64(logits_after(model, tokens, np.concatenate([clean, corrupt]))[0])
        firsts = after.argmax(-1).tolist()
        for b, mapping in enumerate(some):
            t, f = (mapping[(i,)][0] if (i,) in mapping else None for i in (target, one.foil))
            t = firsts[b] if t is None else t
            f = firsts[b + len(some)] if f is None else f
            first, second = (float(row[t] - row[f]) for row in (after[b], after[b + len(some)]))
            if t != f and first > 0 > second and clean[b].tobytes() not in seen and len(taken) < count:
                seen.add(clean[b].tobytes())
                taken.append((clean[b], corrupt[b], t, f, first, second))
    if not taken:
        return None
    rows, others, targets, foils, first, second = map(list, zip(*taken, strict=True))
    pair = rows_of(model, np.stack(rows)), rows_of(model, np.stack(others))
    return Fresh(*pair, targets, foils, logit_diff(targets, foils), np.array(first), np.array(second), tried)


def _drawn(options: Mapping[Ids, Sequence[Ids]], rng: np.random.Generator) -> dict[Ids, Ids]:
    """For each word one of its options, no two the same."""
    mapping: dict[Ids, Ids] = {}
    for ids, listed in options.items():
        left = [o for o in listed if o not in mapping.values()]
        if left:
            mapping[ids] = left[int(rng.integers(len(left)))]
    return mapping


def _roles(words: Sequence[Word], one: Counterfactual, target: int) -> set[Ids]:
    """The words that the pattern is about: those changed, what they became, and the answers."""
    return {(target,), (one.foil,)} | {ids for change in one.changes for ids in (change.word.ids, change.ids)}


def _mapped(
    row: np.ndarray, words: Sequence[Word], mapping: Mapping[Ids, Ids], stands: Mapping[tuple[int, ...], Ids]
) -> np.ndarray:
    row_of_ids = row.copy()
    for word in words:
        ids = stands.get(word.pos, word.ids)
        new = mapping.get(ids)
        if new is not None and len(new) == len(word.pos):
            row_of_ids[list(word.pos)] = new
    return row_of_ids
