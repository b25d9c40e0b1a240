"""Other prompts of the same pattern: the words that the answer hangs on, exchanged for others of their kind.

The same words are exchanged in the prompt and in its counterfactual, wherever they stand, so that the two still differ
in the same places. Target and foil are exchanged too where they are among the words; else they are what the model
answers. A pair counts if the model prefers the target after the one and the foil after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from caseback.localize.counterfactuals.alternatives import alternatives
from caseback.localize.counterfactuals.results import Counterfactual
from caseback.localize.counterfactuals.swapping import rows_of
from caseback.localize.counterfactuals.words import Word
from caseback.model.running.metrics import Metric, logit_diff
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Fresh:
    """Pairs of prompts with the metric of each, and how many were tried."""

    clean: Tokens
    corrupt: Tokens
    metric: Metric
    clean_value: Float[np.ndarray, " batch"]
    corrupt_value: Float[np.ndarray, " batch"]
    tried: int


def fresh_pairs(
    model: Model,
    tokens: Tokens,
    words: Sequence[Word],
    one: Counterfactual,
    target: int,
    log_prob,
    count: int,
    *,
    seed: int = 0,
) -> Fresh | None:
    """At most ``count`` pairs of which the model answers both as expected; None where there is none."""
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
    clean_rows, corrupt_rows, answers = [], [], []
    base, other = (t.ids[0].cpu().numpy() for t in (tokens, one.tokens))
    for _ in range(4 * count):
        mapping: dict[Ids, Ids] = {}
        for ids in options:
            left = [o for o in options[ids] if o not in mapping.values()]
            if left:
                mapping[ids] = left[int(rng.integers(len(left)))]
        if not mapping:
            return None
        clean_rows.append(_mapped(base, words, mapping, {}))
        corrupt_rows.append(_mapped(other, words, mapping, {c.word.pos: c.ids for c in one.changes}))
        answers.append([mapping.get((i,), (i,))[0] if (i,) in mapping else None for i in (target, one.foil)])
    first, second = rows_of(model, np.stack(clean_rows)), rows_of(model, np.stack(corrupt_rows))
    after = [model.run(part).logits[:, -1].detach().double().cpu() for part in (first, second)]
    taken, targets, foils, values = [], [], [], []
    for b, (t, f) in enumerate(answers):
        t = int(after[0][b].argmax()) if t is None else t
        f = int(after[1][b].argmax()) if f is None else f
        margins = [float(part[b, t] - part[b, f]) for part in after]
        new = all(not np.array_equal(clean_rows[b], clean_rows[k]) for k in taken)
        if t != f and margins[0] > 0 > margins[1] and new and len(taken) < count:
            taken.append(b)
            targets.append(t)
            foils.append(f)
            values.append(margins)
    if not taken:
        return None
    pick = lambda rows: rows_of(model, np.stack([rows[b] for b in taken]))  # noqa: E731
    table = np.array(values)
    metric = logit_diff(targets, foils)
    return Fresh(pick(clean_rows), pick(corrupt_rows), metric, table[:, 0], table[:, 1], len(answers))


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
