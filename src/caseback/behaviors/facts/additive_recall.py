"""Many small votes for a fact's answer: heads by what they read, and whether any sort of them suffices (PRIMER 5.4.19).

    D_c(a) = direct share of component c in  logit(a) - mean over the vocabulary,    a an answer of the relation
    D_h(a) = sum over source tokens of D_h(a from j)
    subject   D_h(answer) comes from the subject's tokens,     relation   from the relation's,     mixed   from both
    alone     a group's sum over its components is largest at the fact's own answer, among the relation's answers

Heads are sorted on one half of the facts, and groups are judged on the other. A head that promotes every answer of the
relation alike does not tell one from the other: ``range`` is the mean of what it gives the other answers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from caseback.edit.facts import Fact
from caseback.edit.places import covering, pieces_of
from caseback.errors import CasebackError
from caseback.model.algebra.decompose import logit_parts
from caseback.model.algebra.sources import source_parts
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.registry import technique
from caseback.model.results import labelled_set
from caseback.model.running.metrics import is_first
from caseback.model.running.model import Model

SOURCES = ("subject", "relation", "first token")
KINDS = ("subject", "relation", "mixed")
GROUPS = (*(f"{kind} heads" for kind in KINDS), "MLPs", "these together", "everything")
MOSTLY = 0.7
"""The share of what a head gives the answer that comes from one source, from which on it is of that kind."""
LEAST = 4
"""Facts that a model must know: half of them sort heads, half judge groups."""


@technique(
    entry=("5.4.19",),
    citation="Chughtai et al. 2024",
    cost="two forwards; heads x tokens x the relation's answers",
)
def additive_recall(
    model: Model, facts: Sequence[Fact], *, other: Sequence[Fact] | None = None, seed: int = 0
) -> xr.Dataset:
    """Sort heads by what they read where they speak for a fact's answer, and see which sorts suffice by themselves.

    Parameters
    ----------
    model
        The model.
    facts
        Of one relation, each with its ``true`` answer. Those that the model does not answer are left out; of an answer
        of several tokens the first counts.
    other
        Facts of another relation of the same subjects. A subject head brings what the subject has whatever is asked,
        so it speaks for the first relation's answer there too; a head that knows what is asked does not.
    seed
        Same seed, same result. It draws the half that sorts the heads.

    Returns
    -------
    xr.Dataset
        Over ``batch``, the known facts: ``share`` (layer, head, key, batch), logits that a head gives the answer over
        the mean of the vocabulary, by where it reads them (the subject, the relation, which is all but the subject and
        the first token, and the first token); ``range`` (layer, head, batch), the mean that it gives the relation's
        other answers; ``elsewhere`` (layer, head, batch), what it gives the answer from the subject's tokens in the
        other relation's prompt, NaN without one. By ``group``: ``alone`` (group, batch), 1 where the group's sum is
        largest at the own answer, and ``margin`` (group, batch), by how much; NaN for the half that heads are sorted
        on, which ``judged`` tells. ``kind`` (layer, head) names heads that give the answer anything on average, and
        more of it from subject and relation than from the first token. The attribute ``candidates`` is how many answers
        the relation has: chance is one of so many.

    Raises
    ------
    CasebackError
        For facts without an answer, fewer than 4 known ones, or answers that all begin alike.
    EditError, TokensError
        For a subject without a token of its own, or a tokenizer that does not say which characters tokens cover.
    SiteAbsent
        For a model whose heads do not write z W_O.

    References
    ----------
    Chughtai et al. 2024, "Summing up the facts: additive mechanisms behind factual recall in LLMs".

    Examples
    --------
    >>> import caseback as cb
    >>> votes = additive_recall(cb.load("meadow"), cb.edit.relation_facts("capital", count=12))
    >>> votes["share"].dims, votes["alone"].sel(group="everything").mean("batch").item()
    (('layer', 'head', 'key', 'batch'), 1.0)
    """
    own, rows, answers, ids = _known(model, facts)
    width = range(len(own))
    at = [ids.index(answer) for answer in answers]
    vectors = _vectors(model, ids)
    tokens = model.tokens([row for row, _ in rows])
    by_key = source_parts(model, tokens, vectors)
    heads = _by_source(by_key.values, rows)
    share = np.stack([heads[..., i, a] for i, a in enumerate(at)], -1)
    everything = heads.sum(2)
    others = np.stack([np.delete(everything[..., i, :], a, -1).mean(-1) for i, a in enumerate(at)], -1)
    parts = logit_parts(model, tokens, vectors)
    order = list(width)
    random.Random(f"halves {seed}").shuffle(order)
    judged = np.isin(np.arange(len(own)), order[len(own) // 2 :])
    kinds = _kinds(share[..., ~judged].mean(-1))
    groups = _groups(everything, parts, kinds)
    right = groups[:, width, at]
    rest = np.stack([np.delete(groups[:, i], a, -1).max(-1) for i, a in enumerate(at)], -1)
    margin = np.where(judged, right - rest, np.nan)
    alone = np.where(judged, (margin > 0).astype(float), np.nan)
    elsewhere = _elsewhere(model, own, other, vectors, at, everything.shape[:2])
    values: dict[str, tuple[np.ndarray, list[str]]] = {
        "share": (share, ["layer", "head", "key", "batch"]),
        "range": (others, ["layer", "head", "batch"]),
        "elsewhere": (elsewhere, ["layer", "head", "batch"]),
        "alone": (alone, ["group", "batch"]),
        "margin": (margin, ["group", "batch"]),
    }
    coords: dict[str, Any] = {"key": list(SOURCES), "group": list(GROUPS)}
    coords |= {name: list(range(n)) for name, n in zip(("layer", "head"), kinds.shape, strict=True)}
    coords |= {"prompt": ("batch", [fact.text for fact in own]), "answer": ("batch", [str(fact.true) for fact in own])}
    coords["judged"] = ("batch", judged)
    about = {"candidates": len(ids), "facts": len(facts), "seed": seed}
    votes = labelled_set(values, coords, technique=additive_recall, model=model, **about)
    return votes.assign_coords(kind=(("layer", "head"), kinds.astype(str)))


Row = tuple[list[int], list[int]]
"""A prompt's ids, and where its subject stands."""


def _known(model: Model, facts: Sequence[Fact]) -> tuple[list[Fact], list[Row], list[int], list[int]]:
    """The facts that the model answers, their prompts and answers, and all answers of the relation."""
    if lacking := [fact for fact in facts if fact.true is None]:
        raise CasebackError(f"the fact {lacking[0].text!r} has no true answer: give Fact(..., true=...)")
    if not facts:
        raise CasebackError(f"no fact: expected {LEAST} or more that the model knows")
    pieces = [ids[0] for ids in pieces_of(model, [str(fact.true) for fact in facts])]
    every = sorted(set(pieces))
    right = is_first(pieces)(model.run(model.tokens([fact.text for fact in facts]))).tolist()
    known = [i for i, yes in enumerate(right) if yes]
    if len(known) < LEAST or len(every) < 2:
        raise CasebackError(
            f"of {len(facts)} facts the model knows {len(known)}, and their answers have {len(every)} first tokens: "
            f"expected {LEAST} known facts or more, and 2 answers or more"
        )
    own = [facts[i] for i in known]
    rows = covering(model, [fact.text for fact in own], [fact.span for fact in own])
    return own, rows, [pieces[i] for i in known], every


def _vectors(model: Model, ids: Sequence[int]) -> torch.Tensor:
    """(answer, d_model): what reads an answer's logit less the mean of the vocabulary off the normed stream."""
    columns = at_least_float32(model.weights.W_U)
    return (columns[:, list(ids)].T - columns.mean(1)) * model.anatomy.logit_scale


def _by_source(parts: np.ndarray, rows: Sequence[Row]) -> np.ndarray:
    """(layer, head, source, batch, answer) of (batch, layer, head, key, answer), whose keys are padded columns."""
    width = parts.shape[3]
    masks = np.zeros((len(rows), len(SOURCES), width))
    for b, (ids, subject) in enumerate(rows):
        first = width - len(ids)
        masks[b, 0, [first + i for i in subject]] = 1
        masks[b, 2, first] = 0 if 0 in subject else 1
        masks[b, 1, first:] = 1 - masks[b, 0, first:] - masks[b, 2, first:]
    return np.einsum("blhjk,bsj->lhsbk", np.nan_to_num(parts), masks)


def _kinds(share: np.ndarray) -> np.ndarray:
    """(layer, head) names of (layer, head, source) shares."""
    subject, relation = (np.maximum(share[..., i], 0) for i in (0, 1))
    both = np.maximum(subject + relation, np.finfo(float).tiny)
    kinds = np.full(share.shape[:2], "mixed", dtype=object)
    kinds[subject / both >= MOSTLY] = "subject"
    kinds[relation / both >= MOSTLY] = "relation"
    kinds[(subject + relation <= np.maximum(share[..., 2], 0)) | (share.sum(-1) <= 0)] = ""
    return kinds


def _groups(heads: np.ndarray, parts: xr.DataArray, kinds: np.ndarray) -> np.ndarray:
    """(group, batch, answer): what each group of components gives each answer."""
    by_kind = [heads[kinds == kind].sum(0) for kind in KINDS]
    rows = parts.transpose("component", "batch", ...).values
    of_mlps = rows[parts["kind"].values == "mlp"].sum(0)
    return np.stack([*by_kind, of_mlps, sum(by_kind) + of_mlps, rows.sum(0)])


def _elsewhere(
    model: Model,
    own: Sequence[Fact],
    other: Sequence[Fact] | None,
    vectors: torch.Tensor,
    at: Sequence[int],
    shape: tuple[int, int],
) -> np.ndarray:
    """(layer, head, batch): what heads read of the subject, for the own answer, where another relation is asked for."""
    out = np.full((*shape, len(own)), np.nan)
    asked = {fact.subject: fact for fact in other or ()}
    some = [i for i, fact in enumerate(own) if fact.subject in asked]
    if not some:
        return out
    beside = [asked[own[i].subject] for i in some]
    rows = covering(model, [fact.text for fact in beside], [fact.span for fact in beside])
    read = source_parts(model, model.tokens([ids for ids, _ in rows]), vectors).values
    heads = _by_source(read, rows)[:, :, 0]
    for b, i in enumerate(some):
        out[..., i] = heads[..., b, at[i]]
    return out
