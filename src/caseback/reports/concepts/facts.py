"""How facts are recalled, as plain data: three curves over layers, each beside its control; who votes; the map.

    excess(l) = mean over facts of  fall(l) - mean over draws of the random positions' fall(l)

A source is what the answer hangs on where its largest excess, less three standard errors (it is the best of many
layers), is past that of any one random draw over the mean of all, at any layer.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from caseback.behaviors.facts.relation_map import RelationMap
from caseback.edit import Fact, load_known, relation_facts
from caseback.errors import CasebackError
from caseback.jobs.json_text import finite_or_none, parse_json
from caseback.jobs.text_file import read_text
from caseback.model.arguments import checked
from caseback.model.graph.names import head_name
from caseback.model.running.model import Model
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts
from caseback.reports.tables.result_of import expect_result

__all__ = ["FACTS", "drawn_facts", "facts_document", "relation_of"]


def _lengths(document: Mapping[str, Any]) -> None:
    n = len(document["layers"])
    curves = [row[name] for row in document["routing"] for name in ("fall", "low", "high")]
    curves += [row[name] for row in document["enrichment"] for name in ("rate", "other")]
    curves += [document["extraction"][name] for name in ("rate", "other")]
    if odd := [len(curve) for curve in curves if len(curve) != n]:
        raise CasebackError(f"a curve of {odd[0]} values over {n} layers: pass what facts_document returned")


FACTS = DocumentKind(
    "caseback.facts",
    3,
    "a document of facts",
    "facts_document",
    sections=(
        "relation",
        "facts",
        "layers",
        "how",
        "routing",
        "enrichment",
        "extraction",
        "votes",
        "map",
        "low_rank",
        "provenance",
    ),
    lengths=_lengths,
)

ERRORS = 3
RIGHT = 1
SORTS = {"right": RIGHT, "plausible": 2, "other": 0}
MOST_HEADS = 12
"""Heads that are listed."""


@checked
def facts_document(
    model: Model,
    flow: xr.Dataset,
    relation: str = "",
    *,
    votes: xr.Dataset | None = None,
    fitted: RelationMap | None = None,
    plausible: xr.Dataset | None = None,
) -> dict[str, Any]:
    """What ``fact_flow`` measured as plain data.

    Parameters
    ----------
    model
        The model.
    flow
        What ``caseback.behaviors.fact_flow`` gave for it.
    relation
        What the facts are called together.
    votes
        What ``caseback.behaviors.additive_recall`` gave for the same facts.
    fitted
        What ``caseback.behaviors.relation_map`` gave for facts of the relation.
    plausible
        What ``caseback.behaviors.plausible_answers`` gave for facts of the relation.

    Returns
    -------
    dict
        ``facts`` has each with ``known``, and the rank of its answer. ``routing`` has each source with its mean
        ``fall`` by layer and the ends of the random draws' means (``low``, ``high``); then the ``layer`` of the
        largest ``excess`` over these, its standard ``error``, the ``band`` (by how much a draw exceeds the mean of all
        at most) and whether it is ``above``.
        ``enrichment`` and ``extraction`` have mean rates by layer, and those of ``other`` facts' words. ``votes`` has
        ``groups`` with the share of judged facts that each answers by itself (``alone``) and the mean ``margin``, and
        the ``heads`` that give the answer the most, with their kind and by what they read; ``map`` what was chosen, the
        share of judged facts of each reading (``faithful``), and those whose answer an intervention changes
        (``causal``, ``random``, ``replaced``); ``low_rank`` the weight that was chosen, the shares of answers that are
        ``right``, ``plausible`` and ``other`` by what stands in its place, and how many answers it mends (``gained``)
        and spoils (``spoiled``). What does not exist is None.

    Raises
    ------
    CasebackError
        For another dataset, or one of another model.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> flow = cb.behaviors.fact_flow(model, cb.edit.relation_facts("capital", count=6), draws=2)
    >>> document = facts_document(model, flow, "capital")
    >>> document["routing"][0]["source"], len(document["extraction"]["rate"])
    ('subject', 4)
    """
    expected = ("routing", "routing_control", "enrichment", "enrichment_control", "extraction", "extraction_control")
    expect_result(model, flow, expected, "fact_flow")
    names = ("subject", "prompt", "answer", "says", "rank", "log_prob", "pieces", "words")
    of_facts = zip(*(flow[name].values.tolist() for name in names), strict=True)
    facts = [finite_or_none(dict(zip(names, row, strict=True))) for row in of_facts]
    enriched = [
        {
            "without": str(name),
            "rate": _mean(flow["enrichment"].sel(variant=name)),
            "other": _mean(flow["enrichment_control"].sel(variant=name)),
        }
        for name in flow["variant"].values
    ]
    return FACTS.document(
        model_facts(model),
        relation=relation,
        facts=[fact | {"known": fact["rank"] == 1} for fact in facts],
        layers=flow["layer"].values.tolist(),
        how={name: int(flow.attrs[name]) for name in ("window", "k", "draws", "seed")}
        | {"attributes": str(flow.attrs["attributes"])},
        routing=[_source(flow, str(name)) for name in flow["key"].values],
        enrichment=enriched,
        extraction={"rate": _mean(flow["extraction"]), "other": _mean(flow["extraction_control"])},
        votes=None if votes is None else _votes(model, votes),
        map=None if fitted is None else _map(model, fitted),
        low_rank=None if plausible is None else _low_rank(model, plausible),
        provenance={
            **model.provenance(),
            **{name: str(flow.attrs[name]) for name in ("technique", "entry", "citation")},
        },
    )


@checked
def relation_of(name: str) -> str | dict[str, Any]:
    """A relation as ``relation_facts`` takes it: its name, or a file's data.

    Parameters
    ----------
    name
        A relation of ``caseback.tasks.facts.RELATIONS``, or a JSON file as the relations dataset has it.

    Raises
    ------
    CasebackError
        For a file that holds another form of JSON.

    Examples
    --------
    >>> relation_of("capital")
    'capital'
    """
    if not os.path.isfile(name):
        return name
    try:
        data = parse_json(read_text(name))
    except ValueError as error:
        raise CasebackError(f"{name} is not JSON ({error}): expected samples and prompt_templates") from None
    if not isinstance(data, dict):
        raise CasebackError(f"{name} holds a {type(data).__name__}: expected samples and prompt_templates")
    return data


@checked
def drawn_facts(name: str, *, count: int | None = None, seed: int = 0) -> list[Fact]:
    """Facts of a relation, by name or from its file, or of a file of known facts, which are of many relations.

    Parameters
    ----------
    name
        As for ``relation_of``, or a JSON file as ``caseback.edit.load_known`` reads it.
    count
        How many; all by default.
    seed
        Same seed, same result. It draws the facts.

    Raises
    ------
    CasebackError
        As ``relation_of``, and for fewer facts than asked.

    Examples
    --------
    >>> len(drawn_facts("capital", count=3))
    3
    """
    if not os.path.isfile(name) or not read_text(name).lstrip().startswith("["):
        return relation_facts(relation_of(name), count=count, seed=seed)
    facts = load_known(name)
    if count is not None and not 1 <= count <= len(facts):
        raise CasebackError(f"{count} facts were asked for, and {name} has {len(facts)}")
    return random.Random(seed).sample(facts, len(facts) if count is None else count)


def _source(flow: xr.Dataset, name: str) -> dict[str, Any]:
    own = flow["routing"].sel(key=name).transpose("layer", "batch").values
    random = flow["routing_control"].sel(key=name).transpose("layer", "draw", "batch").values
    some = ~np.isnan(own).any(0)
    own, random = own[:, some], random[..., some]
    none = [None] * len(own)
    row: dict[str, Any] = {"source": name, "facts": own.shape[1], "fall": none, "low": none, "high": none}
    row |= dict.fromkeys(("layer", "excess", "error", "band", "above"))
    if not own.shape[1]:
        return row
    row["fall"] = own.mean(1).tolist()
    compared = ~np.isnan(random).any((0, 1)) if random.size else np.zeros(0, bool)
    if compared.sum() < 2:
        return finite_or_none(row)
    means = random[..., compared].mean(-1)
    excess = own[:, compared] - random[..., compared].mean(1)
    top = int(excess.mean(1).argmax())
    error = float(excess[top].std(ddof=1) / np.sqrt(compared.sum()))
    band = float((means - means.mean(1, keepdims=True)).max())
    row |= {"low": means.min(1).tolist(), "high": means.max(1).tolist(), "layer": int(flow["layer"].values[top])}
    row |= {"excess": float(excess[top].mean()), "error": error, "band": band}
    return finite_or_none(row | {"above": bool(row["excess"] - ERRORS * error > band)})


def _votes(model: Model, votes: xr.Dataset) -> dict[str, Any]:
    expect_result(model, votes, ("share", "range", "elsewhere", "alone", "margin"), "additive_recall")
    share = votes["share"].mean("batch").transpose("layer", "head", "key").values
    whole = np.where(np.isnan(share.sum(-1)), -np.inf, share.sum(-1))
    spread = {name: votes[name].mean("batch").values for name in ("range", "elsewhere")}
    heads = []
    for flat in np.argsort(-whole, axis=None)[:MOST_HEADS]:
        at = np.unravel_index(flat, whole.shape)
        if whole[at] <= 0:
            break
        own = dict(zip(("subject", "relation", "first_token"), share[at].tolist(), strict=True))
        name = head_name(int(votes["layer"].values[at[0]]), int(at[1]))
        row = {"head": name, "kind": str(votes["kind"].values[at]) or None, "gives": float(whole[at])}
        heads.append(row | own | {name: float(of[at]) for name, of in spread.items()})
    groups = [
        {"group": str(name), "alone": float(votes["alone"].sel(group=name).mean())}
        | {"margin": float(votes["margin"].sel(group=name).mean())}
        for name in votes["group"].values
    ]
    counts = {"candidates": int(votes.attrs["candidates"]), "facts": votes.sizes["batch"]}
    return finite_or_none({**counts, "judged": int(votes["judged"].sum()), "groups": groups, "heads": heads})


def _map(model: Model, fitted: RelationMap) -> dict[str, Any]:
    scores = fitted.scores
    expect_result(model, scores, ("faithful", "causal", "causal_control", "replaced"), "relation_map")
    best = fitted.chosen.max("dose")
    betas = fitted.chosen["dose"].values[fitted.chosen.argmax("dose").values]
    rates = [
        {"layer": int(layer), "rate": float(rate), "beta": float(beta)}
        for layer, rate, beta in zip(best["layer"].values, best.values, betas, strict=True)
    ]
    row = {"layer": fitted.layer, "beta": fitted.beta, "rank": fitted.rank} | fitted.about
    row["by_layer"] = rates
    row["faithful"] = [
        {"reading": str(name), "rate": float(scores["faithful"].sel(variant=name).mean())}
        for name in scores["variant"].values
    ]
    random = scores["causal_control"]
    row |= {"causal": float(scores["causal"].mean()), "replaced": float(scores["replaced"].mean())}
    row["random"] = float(random.mean()) if random.size else None
    row["facts_judged"] = [
        {"prompt": str(prompt), "answer": str(answer), "right": bool(right), "other": str(other), "moved": bool(moved)}
        for prompt, answer, right, other, moved in zip(
            *(scores[name].values for name in ("prompt", "answer")),
            scores["faithful"].sel(variant="map").values,
            scores["other_answer"].values,
            scores["causal"].values,
            strict=True,
        )
    ]
    return finite_or_none(row)


def _low_rank(model: Model, table: xr.Dataset) -> dict[str, Any]:
    expect_result(model, table, ("answers", "random", "accuracy"), "plausible_answers")
    answers = table["answers"]
    before, after = (answers.sel(variant=name).values == RIGHT for name in ("as it is", "kept"))
    of = {str(name): answers.sel(variant=name).values for name in answers["variant"].values}
    rows = [{"variant": name, **_sorts(values)} for name, values in (*of.items(), ("random", table["random"].values))]
    chosen = {name: table.attrs[name] for name in ("best_layer", "best_matrix", "rho", "kept_rank", "lost")}
    best = table["accuracy"].max(["component", "rank"])
    return {
        **{name.removeprefix("best_").removeprefix("kept_"): value for name, value in chosen.items()},
        **{"objects": int(table.attrs["objects"]), "chosen_on": int(table.attrs["chosen_on"])},
        **{"judged": len(before), "draws": table.sizes["draw"], "variants": rows},
        **{"gained": int((~before & after).sum()), "spoiled": int((before & ~after).sum())},
        **{"chosen": float(table["accuracy"].max()), "chosen_clean": float(table["accuracy_clean"])},
        "by_layer": [
            {"layer": int(layer), "accuracy": float(value)}
            for layer, value in zip(best["layer"].values, best.values, strict=True)
        ],
    }


def _sorts(answers: np.ndarray) -> dict[str, float]:
    return {name: float((answers == sort).mean()) for name, sort in SORTS.items()}


def _mean(values: xr.DataArray) -> list[float | None]:
    """Means over the facts, by layer."""
    return finite_or_none(values.mean("batch").values.tolist())
