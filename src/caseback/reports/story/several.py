"""The stories of many prompts: what they have in common, and how far they differ.

    named(c) = how many stories name head or MLP c as a carrier, and how many as an opponent
    band     = the .95 quantile of the largest count, where every story names as many at random of those it exchanged
    share(c) = mean and standard deviation over the stories that exchanged c

Each prompt has a story of its own (``story.story_of``), from a counterfactual of its own; nothing is fitted to them
together. Places go by the names that a task gives to its words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from caseback.errors import CasebackError
from caseback.jobs.checkpoint import Checkpoint
from caseback.jobs.fingerprint import fingerprint
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.classes import expect_tokens_out
from caseback.model.anatomy.identity import identity_of
from caseback.model.arguments import checked
from caseback.model.prompts.pairs import counterfactuals
from caseback.model.running.model import Model
from caseback.model.running.targets import target_and_foil
from caseback.model.running.tokens import PromptsLike, Tokens
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts
from caseback.reports.story import thresholds
from caseback.reports.story.depths import DEPTHS, Depth, depth_of
from caseback.reports.story.story import found_for, story_of
from caseback.reports.story.words import sentences
from caseback.reports.tables.answers import answers_of, as_many, places_of
from caseback.tasks.prompts import Prompts

__all__ = ["STORIES", "stories"]

QUANTILE, DRAWS = 0.95, 400


def _lengths(document: Mapping[str, Any]) -> None:
    counts = document["counts"]
    if counts["prompts"] != len(document["rows"]):
        raise CasebackError(f"counts.prompts is {counts['prompts']}, of {len(document['rows'])} rows")


STORIES = DocumentKind(
    "caseback.stories",
    1,
    "a document of stories",
    "stories",
    sections=("source", "depth", "counts", "band", "parts", "places", "checks", "rows", "provenance"),
    lengths=_lengths,
)


@checked
def stories(
    model: Model,
    prompts: PromptsLike | Prompts,
    *,
    targets: Sequence[str | int] | None = None,
    foils: Sequence[str | int | None] | None = None,
    corrupt: Sequence[str | None] | None = None,
    source: str = "",
    depth: str = "quick",
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Tell the causal story of every prompt by itself, and say what the stories share.

    Parameters
    ----------
    model
        The model.
    prompts
        Prompts; of a task's (``cb.tasks.get(name).prompts(model, 10)``) each first right answer is the target and each
        first wrong one the foil, and its named words name the places.
    targets, foils
        The token explained after each prompt and its contrast; by default the task's, or the model's first choice and
        what it answers after the counterfactual.
    corrupt
        A counterfactual of each prompt, token against token; None, or None for a prompt, to find one.
    source
        What the prompts are called together; by default the task's name.
    depth
        ``"quick"``, ``"normal"`` or ``"deep"``, as of ``explain``.
    seed
        What shuffled prompts, fresh prompts and the band are drawn from.
    checkpoint
        A file that keeps the stories that are done, to go on from after an interruption, or with more prompts.
    progress
        Show a progress bar.

    Returns
    -------
    dict
        The document: ``counts`` (prompts; those on which the answer is ``preferred``; those of them with a
        counterfactual, which have a story: ``stories``), ``parts`` with the counts ``carrier`` and ``opponent``,
        ``mean`` and ``sd`` of the share and whether the count is ``above`` the ``band``; ``places`` with how many
        stories have a word that matters there and how many a hop; ``checks`` by name with their verdicts; and
        ``rows``, one for each prompt.

    Raises
    ------
    CasebackError
        For a depth that has no story, or as many targets or foils as there are no prompts.
    TargetError
        For a target or foil that is not one token.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> document = stories(model, cb.tasks.get("ioi").prompts(model, 2))
    >>> document["counts"]["prompts"], document["rows"][0]["target"]["text"] in document["rows"][0]["prompt"]
    (2, True)
    """
    expect_tokens_out(model.anatomy, "stories")
    how = depth_of(depth)
    if how is None:
        raise CasebackError(f"depth {depth!r} tells no story: expected {', '.join(DEPTHS)}")
    given = prompts if isinstance(prompts, Prompts) else None
    tokens = given.clean if given is not None else model.tokens(prompts)  # pyright: ignore[reportArgumentType]
    wanted, against = answers_of(given, len(tokens), targets, foils)
    others = as_many(corrupt, len(tokens), "corrupt")
    _expect_aligned(model, tokens, others)
    file = Checkpoint(
        checkpoint,
        {"model": identity_of(model.hf, model.anatomy.standing), "options": [depth, seed]},
        what="checkpoint of stories",
        other="belongs to other stories (another depth, seed or model)",
    )
    saved = file.read()
    by_prompt: dict[str, dict[str, Any]] = {} if saved is None else dict(saved.state["stories"])
    rows: list[dict[str, Any]] = []
    for b in progress_bar(range(len(tokens)), total=len(tokens), what="stories", unit="prompt", show=progress):
        own, places = tokens[b : b + 1].padded_on("right"), places_of(given, b)
        key = fingerprint([own.ids, wanted[b], against[b], others[b], places])
        if key not in by_prompt:
            by_prompt[key] = _row(model, own, wanted[b], against[b], others[b], how, seed, places)
            file.write({}, stories=by_prompt)
        rows.append(by_prompt[key])
    return _document(model, rows, source or ("" if given is None else given.task), depth, seed)


def _expect_aligned(model: Model, tokens: Tokens, others: Sequence[str | None]) -> None:
    """Refuse a counterfactual of another length before any story is told."""
    for b, other in enumerate(others):
        if other is not None:
            counterfactuals(model, tokens[b : b + 1].padded_on("right"), other, first=b)


def _row(
    model: Model,
    tokens: Tokens,
    target: str | int | None,
    foil: str | int | None,
    corrupt: str | None,
    depth: Depth,
    seed: int,
    places: Mapping[str, tuple[int, int]],
) -> dict[str, Any]:
    search, one = found_for(model, tokens, target, foil, None if corrupt is None else model.tokens(corrupt), depth)
    final = model.run(tokens).logits[0, -1].detach()
    t, f = target_and_foil(model, final, target, foil if foil is not None or one is None else one.foil)
    story, traces = story_of(model, tokens, t, f, search, one, depth, seed=seed)
    words = [(row["pos"][0], row["share"]) for row in story["words"] if row["share"] >= thresholds.TOKEN]
    name_of = lambda pos: next((name for name, (a, b) in places.items() if a <= pos <= b), "")  # noqa: E731
    return {
        "prompt": "".join(tokens.text[0]) if model.tokenizer is None else model.text(tokens)[0],
        **{key: story[key] for key in ("target", "foil", "preference", "parts", "checks", "circuit")},
        "prob": float(final.float().softmax(-1)[t]),
        "changes": [] if one is None else [str(change) for change in one.changes],
        "sentences": [sentence["text"] for sentence in sentences(story, tokens.text[0], None)],
        "words": [
            {"pos": pos, "text": tokens.text[0][pos], "place": name_of(pos), "share": share} for pos, share in words
        ],
        "hops": [hop | {"text": tokens.text[0][hop["pos"]], "place": name_of(hop["pos"])} for hop in story["hops"]],
        "shares": {} if traces is None else {part.name: round(part.share, 4) for part in traces.parts},
    }


def _document(model: Model, rows: Sequence[dict[str, Any]], source: str, depth: str, seed: int) -> dict[str, Any]:
    telling = [row for row in rows if row["shares"]]
    band = _band(telling, seed)
    return STORIES.document(
        model_facts(model),
        source=source,
        depth=depth,
        counts={
            "prompts": len(rows),
            "preferred": sum(row["preference"]["prefers"] for row in rows),
            "stories": len(telling),
        },
        band=band,
        parts=_parts(telling, band),
        places=_places(telling),
        checks=_checks(telling),
        rows=[{key: value for key, value in row.items() if key != "shares"} for row in rows],
        provenance={**model.provenance(), "device": str(model.device), "seed": seed},
    )


def _band(rows: Sequence[Mapping[str, Any]], seed: int) -> int:
    """The count that the most often named of all parts reaches by chance."""
    if not rows:
        return 0
    rng = np.random.default_rng(seed)
    numbers = {name: i for i, name in enumerate(dict.fromkeys(name for row in rows for name in row["shares"]))}
    counts = np.zeros((DRAWS, len(numbers)), dtype=np.int64)
    for row in rows:
        exchanged, n = np.array([numbers[name] for name in row["shares"]]), len(row["parts"])
        drawn = np.argpartition(rng.random((DRAWS, len(exchanged))), max(0, n - 1))[:, :n]
        np.add.at(counts, (np.arange(DRAWS)[:, None], exchanged[drawn]), 1)
    return int(np.quantile(counts.max(1), QUANTILE, method="higher"))


def _parts(rows: Sequence[Mapping[str, Any]], band: int) -> list[dict[str, Any]]:
    """What is named in any story, the most often named first."""
    roles = Counter((part["name"], part["role"]) for row in rows for part in row["parts"])
    parts = []
    for name, layer, head in {(p["name"], p["layer"], p["head"]) for row in rows for p in row["parts"]}:
        shares = np.array([row["shares"][name] for row in rows if name in row["shares"]])
        carrier, opponent = roles[name, "carrier"], roles[name, "opponent"]
        parts.append(
            {
                "name": name,
                "layer": layer,
                "head": head,
                "carrier": carrier,
                "opponent": opponent,
                "exchanged": len(shares),
                "mean": float(shares.mean()),
                "sd": float(shares.std()),
                "above": carrier + opponent > band,
            }
        )
    return sorted(parts, key=lambda row: (-row["carrier"] - row["opponent"], -abs(row["mean"]), row["name"]))


def _places(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Where the words that matter stand and the hops are, by the task's names of words; others together."""
    names = dict.fromkeys(item["place"] for row in rows for item in (*row["words"], *row["hops"]))
    places = []
    for name in names:
        hops = [[hop for hop in row["hops"] if hop["place"] == name] for row in rows]
        flat = [hop for some in hops for hop in some]
        places.append(
            {
                "place": name,
                "words": sum(any(word["place"] == name for word in row["words"]) for row in rows),
                "hops": sum(map(bool, hops)),
                "first": float(np.median([hop["first"] for hop in flat])) if flat else None,
                "last": float(np.median([hop["last"] for hop in flat])) if flat else None,
            }
        )
    return sorted(places, key=lambda row: (-row["hops"], -row["words"], row["place"]))


def _checks(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        for check in row["checks"]:
            by_name.setdefault(check["name"], []).append(check)
    return [
        {
            "name": name,
            **{verdict: sum(c["verdict"] == verdict for c in some) for verdict in ("held", "weak", "failed")},
            "mean": float(np.mean([c["value"] for c in some])),
            "limit": some[0]["limit"],
        }
        for name, some in by_name.items()
    ]
