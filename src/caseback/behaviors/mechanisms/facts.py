"""How a fact is recalled: subject enriched, relation and subject routed to the end, attribute extracted there.

    routing      log p(answer) - log p(answer | the last position sees none of a source, in a window of layers)
    enrichment   |top-k of lens(h_l at the subject's last token)  ∩  the subject's attributes| / k
    extraction   whether the answer is the first token of lens(what attention writes at the last position)

Beside the first stand random other positions, as many as the source has; beside the others, other facts' words (PRIMER
5.4.19). A fact that the model does not answer rightly is not recalled, so nothing of it is measured but the rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from caseback.behaviors.mechanisms.attributes import attribute_words, rates
from caseback.decode.vocabulary.lenses.logit_lens import logit_lens
from caseback.edit.facts import Fact
from caseback.edit.places import covering, pieces_of
from caseback.errors import CasebackError, OutOfRange
from caseback.localize.components.knockout import attention_knockout
from caseback.model.registry import technique
from caseback.model.results import labelled_set
from caseback.model.running.edits import Edit, Zero
from caseback.model.running.metrics import log_prob
from caseback.model.running.model import Model

SOURCES = ("subject", "last subject token", "relation", "first token")
WITHOUT = ("none", "early MLPs", "late MLPs")
SHARE = 9 / 48
"""Of GPT-2 XL's 48 layers the paper cuts 9 together."""
Spans = list[list[int]]


@technique(
    entry=("5.4.19",),
    citation="Geva et al. 2023",
    cost="a sweep: layers x sources x (1 + draws) x (the last position from there on), and five runs with lenses",
)
def fact_flow(
    model: Model,
    facts: Sequence[Fact],
    *,
    window: int | None = None,
    k: int = 50,
    attributes: Mapping[str, Sequence[str]] | None = None,
    draws: int = 10,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Follow facts through the layers: what the answer hangs on, where the subject's words come up, who fetches it.

    Parameters
    ----------
    model
        The model.
    facts
        Each with its ``true`` answer; of an answer of several tokens the first counts. ``relation_facts`` makes them.
        Paraphrases are among the texts that a subject's attributes are taken from.
    window
        Layers that are cut together. None: as large a share of the layers as the paper's 9 of 48.
    k
        Of how many tokens the attributes rate is taken; 50 in the paper.
    attributes
        Words that go with each subject. None: those that the model itself says after texts about it.
    draws
        Random sets of other positions, but the first, that are cut beside each source: as many as it has, or all
        that there are.
    seed
        Same seed, same result. The random positions are drawn with it.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        Over ``batch``, the facts, with NaN for those that the model does not answer: ``routing`` (layer, key, batch),
        nats, positive where the answer hangs on a source (``key``: the subject, its last token, the relation, which is
        everything else but the first and the last token, and the first token, where the subject does not begin
        there), and ``routing_control`` (layer, key, draw, batch); ``enrichment`` and ``enrichment_control``
        (variant, layer, batch), rates between 0 and 1, as it is and without the MLPs of the first or the second half
        of the layers at the subject's last token; ``extraction`` and ``extraction_control`` (layer, batch). Beside
        them ``subject``, ``prompt``, ``answer``, what the model ``says``, the answer's ``rank`` (1 is the first
        choice), ``log_prob``, its ``pieces``, and the number of the subject's attributes (``words``).

    Raises
    ------
    CasebackError
        If the model answers none of the facts, a fact has no true answer, or a prompt ends with its subject.
    EditError, TokensError
        For a subject without a token of its own, or a tokenizer that does not say which characters tokens cover.
    OutOfRange
        For a window larger than the model, ``k`` larger than its vocabulary, or less than no draw.

    References
    ----------
    Geva et al. 2023, "Dissecting recall of factual associations in auto-regressive language models".

    Examples
    --------
    >>> import caseback as cb
    >>> flow = fact_flow(cb.load("meadow"), cb.edit.relation_facts("capital", count=4), draws=2)
    >>> flow["routing"].dims, flow.key.values.tolist()[0], (flow["rank"] == 1).values.any().item()
    (('layer', 'key', 'batch'), 'subject', True)
    """
    if not facts:
        raise CasebackError("no fact: expected one or more")
    expected = [_answer(fact) for fact in facts]
    window = max(1, round(SHARE * model.n_layers)) if window is None else window
    if not 1 <= k <= model.d_vocab:
        raise OutOfRange(f"k={k}: expected 1 to {model.d_vocab}, the size of the vocabulary")
    if draws < 0:
        raise OutOfRange(f"draws={draws}: expected 0 or more random sets")
    rows = covering(model, [fact.text for fact in facts], [fact.span for fact in facts])
    for fact, (ids, inside) in zip(facts, rows, strict=True):
        if inside[-1] == len(ids) - 1:
            raise CasebackError(f"{fact.text!r} ends with its subject: expected a relation behind it, to be answered")
    pieces = pieces_of(model, expected)
    answers = [ids[0] for ids in pieces]
    asked = logit_lens(model, [ids for ids, _ in rows], targets=[answers], pos=-1, k=1).isel(layer=-1)
    rank = asked["rank"].values.reshape(-1).astype(int)
    says = asked["top_text"].values.reshape(-1).tolist()
    known = np.flatnonzero(rank == 1).tolist()
    if not known:
        best = int(rank.argmin())
        raise CasebackError(
            f"the model answers none of {len(facts)} facts rightly; the nearest is {facts[best].text!r}, where "
            f"{expected[best]!r} is its answer number {rank[best]} and {says[best]!r} its first. Give facts that it "
            "knows"
        )
    own, at = [facts[i] for i in known], [rows[i] for i in known]
    wanted = [answers[i] for i in known]
    members = attribute_words(model, own, attributes)
    values = {
        **_routing(model, at, wanted, window, draws, seed, progress),
        **_enrichment(model, at, members, [fact.subject for fact in own], k),
        **_extraction(model, at, wanted),
    }
    beside: dict[str, Any] = {
        "subject": [fact.subject for fact in facts],
        "prompt": [fact.text for fact in facts],
        "answer": expected,
        "says": says,
        "rank": rank,
        "log_prob": np.log(asked["prob"].values.reshape(-1)),
        "pieces": [len(ids) for ids in pieces],
        "words": _among(members.sum(1).numpy().astype(float), known, len(facts)),
    }
    coords: dict[str, Any] = {"layer": list(range(model.n_layers)), "key": list(SOURCES), "variant": list(WITHOUT)}
    coords |= {key: ("batch", of) for key, of in beside.items()}
    arrays = {name: (_among(value, known, len(facts)), dims) for name, (value, dims) in values.items()}
    about: dict[str, Any] = {"window": window, "k": k, "draws": draws, "seed": seed}
    about["attributes"] = "of the model" if attributes is None else "given"
    return labelled_set(arrays, coords, technique=fact_flow, model=model, **about)


Measured = dict[str, tuple[np.ndarray, list[str]]]
Row = tuple[list[int], list[int]]
"""A prompt's ids, and where its subject stands."""


def _answer(fact: Fact) -> str:
    if fact.true is None:
        raise CasebackError(f"the fact {fact.text!r} has no true answer: give Fact(..., true=...)")
    return fact.true


def _routing(
    model: Model, rows: list[Row], answers: list[int], window: int, draws: int, seed: int, progress: bool
) -> Measured:
    rng = np.random.default_rng(seed)
    cut: dict[str, Spans] = {}
    for name, spans in zip(SOURCES, zip(*map(_sources, rows), strict=True), strict=True):
        cut[name] = list(spans)
        for draw in range(draws):
            pairs = zip(rows, spans, strict=True)
            cut[f"{name}, random {draw}"] = [_other(span, len(ids) - 1, rng) for (ids, _), span in pairs]
    absent = np.array([[not span for span in spans] for spans in cut.values()])
    # a source that a prompt lacks is measured at its first token, and left out
    places = {name: [span or [0] for span in spans] for name, spans in cut.items()}
    tokens = model.tokens([ids for ids, _ in rows])
    fall = attention_knockout(model, tokens, log_prob(answers), source=places, window=window, progress=progress)
    values = np.where(absent, np.nan, fall.values)
    values = values.reshape(model.n_layers, len(SOURCES), 1 + draws, len(rows))
    return {
        "routing": (values[:, :, 0], ["layer", "key", "batch"]),
        "routing_control": (values[:, :, 1:], ["layer", "key", "draw", "batch"]),
    }


def _sources(row: Row) -> Spans:
    """The positions of a prompt that are each of ``SOURCES``."""
    ids, subject = row
    rest = [i for i in range(1, len(ids) - 1) if i not in subject]
    return [subject, subject[-1:], rest, [] if 0 in subject else [0]]


def _other(span: list[int], n: int, rng: np.random.Generator) -> list[int]:
    """As many of n positions as a span has, drawn among those outside it; all of these where they are fewer.

    The first token is not among them where there are others: attention rests there, so that cutting it costs by itself.
    """
    rest = [i for i in range(1, n) if i not in span] or [i for i in range(n) if i not in span]
    return sorted(rng.choice(rest, min(len(span), len(rest)), replace=False).tolist()) if span and rest else []


def _enrichment(model: Model, rows: list[Row], members: Any, subjects: list[str], k: int) -> Measured:
    # what stands behind the subject does not reach it, so it is cut off
    begun = model.tokens([ids[: subject[-1] + 1] for ids, subject in rows])
    mlps = [site.layer for site in model.anatomy.sites("mlp_out") if site.layer is not None]
    half = model.n_layers // 2
    out: list[list[Edit]] = [[]]
    for some in ([i for i in mlps if i < half], [i for i in mlps if i >= half]):
        cut: list[Edit] = [Zero("mlp_out", layer=some, pos=-1)] if some else []
        out.append(cut)
    tops = [logit_lens(model, begun, pos=-1, k=k, edits=edits)["top_id"].values[1:] for edits in out]
    both = [rates(top, members, subjects) for top in tops]
    dims = ["variant", "layer", "batch"]
    return {
        "enrichment": (np.stack([own for own, _ in both]), dims),
        "enrichment_control": (np.stack([other for _, other in both]), dims),
    }


def _extraction(model: Model, rows: list[Row], answers: list[int]) -> Measured:
    lens = logit_lens(model, [ids for ids, _ in rows], site="attn_out", pos=-1, k=1)
    top, answer = lens["top_id"].values[..., 0], np.array(answers)
    others = answer[:, None] != answer
    hits = (top[:, :, None] == answer) & others
    control = hits.sum(-1) / np.where(others.any(-1), others.sum(-1), np.nan)
    return {
        "extraction": ((top == answer).astype(float), ["layer", "batch"]),
        "extraction_control": (control, ["layer", "batch"]),
    }


def _among(values: np.ndarray, known: list[int], count: int) -> np.ndarray:
    """Values of the known facts among all, with NaN for the others, along the last dimension."""
    whole = np.full((*values.shape[:-1], count), np.nan)
    whole[..., known] = values
    return whole
