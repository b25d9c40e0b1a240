"""What emerges in training: kinds of heads, learning from context, n-grams and norms at every checkpoint (5.4.13).

    for each checkpoint, one in memory at a time:
        looks of the atlas at its heads,  losses of the same text and of the same random tokens,  growth of its stream
    a kind arises    at the first step from which on some head has its label at every step

Text is cut into tokens once, so every checkpoint reads the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from caseback.behaviors.atlas import atlas_of
from caseback.behaviors.evidence import TEXT, Evidence, collect_evidence, needed
from caseback.behaviors.growth.learning_coefficient import learning_coefficient
from caseback.behaviors.growth.losses import Text, in_random_tokens, late_less_early, text_losses
from caseback.behaviors.growth.memories import memory_recall, strongest
from caseback.behaviors.growth.report import Curve, Emergence, KindCurve, arises
from caseback.behaviors.growth.runs import opened, steps_of
from caseback.behaviors.kinds import Kind, kinds_of
from caseback.behaviors.stream import norms
from caseback.errors import CasebackError
from caseback.jobs.checkpoint import Checkpoint
from caseback.jobs.fingerprint import fingerprint
from caseback.jobs.json_text import finite_or_none
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.coerce import in_float64
from caseback.model.anatomy.parameters import expect_own_numbers
from caseback.model.registry import technique
from caseback.model.running.model import Model
from caseback.stream.documents import Corpus, documents
from caseback.stream.packing import rows_of

HEADS = (
    *("previous token", "duplicate token", "induction", "n-gram induction", "anti-induction"),
    *("current token", "two back", "attention sink", "copying", "anti-copying"),
)
"""The kinds that are looked for: those of heads that need no words of a language."""

COEFFICIENT = "learning coefficient"
"""The curve that is measured only where it is asked for."""
CURVES = {
    "loss": ("loss of the text's next token, in nats", "the same of its bigrams"),
    "distance to unigrams": ("KL from the text's unigrams to the model", "the same of its bigrams"),
    "distance to bigrams": ("KL from the text's bigrams to the model", "the same of its unigrams"),
    "in context, text": ("loss late in a row of text less loss early in it, in nats", "the same of its bigrams"),
    "in context, random tokens": (
        "loss of random tokens that come again less the loss where they first stood, in nats",
        "the same where other tokens come",
    ),
    "growth of the stream": ("factor by which the stream's norm grows a layer, without first tokens", ""),
    "squared weights": ("sum of all squared weights", ""),
    **{
        f"memory of {name}": (f"of the best head's weights: {what}", beside)
        for name, what, beside in (
            ("copies", "share of tokens that it writes highest when it looks at them", "the same of another token"),
            ("matches", "share of tokens whose query scores highest what an earlier head wrote of them", "of another"),
            ("places", "share of positions that look at the one before, by positions alone", "at the one before that"),
        )
    },
    COEFFICIENT: ("how flat the text's loss is around the weights: less is flatter", ""),
}
"""What each curve is, and what is beside it."""
LINES = ("score", "control", "band", "best", "seen")


@technique(
    entry=("5.4.13", "5.3.3", "B.39"),
    citation="Olsson et al. 2022, Bietti et al. 2023, Edelman et al. 2024",
    cost="checkpoints x (two forwards per token of text, and some of random tokens)",
)
def emergence(
    checkpoints: str | Path | Mapping[int, Model | str | Path],
    corpus: Corpus | None = None,
    *,
    kinds: Sequence[str] | str | None = None,
    n_tokens: int | None = None,
    length: int | None = None,
    rows: int = 64,
    coefficient: bool = False,
    checkpoint: str | Path | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Emergence:
    """When each kind of head arises in training, beside losses, n-gram stages and norms at every checkpoint.

    Parameters
    ----------
    checkpoints
        A folder with ``step-N`` in it or in its ``checkpoints``, the name of a bundled model that ships them, or models
        or folders by step.
    corpus
        Text, as ``atlas`` takes it. Without it, kinds and curves that need text are left out.
    kinds
        Names of kinds of heads (``caseback.behaviors.KINDS``); by default those that need no words of a language.
    n_tokens
        Stop the text after about so many tokens; by default it is read to its end.
    length
        Tokens per row of text; 128 by default, or the context where that is shorter.
    rows
        Rows of random tokens, of each sort.
    coefficient
        Measure ``learning_coefficient`` too, of the text, which takes longer than all else.
    checkpoint
        A file that keeps what is done; the same call with it goes on after an interruption.
    seed
        Same seed, same result. Draws the random tokens.
    progress
        Show a progress bar.

    Returns
    -------
    Emergence
        By kind the best head's score, control and band and how many heads are seen, at every step, and the step at
        which the kind arises. The curves of ``CURVES``. What could not be measured says why.

    Raises
    ------
    CasebackError
        For fewer than two checkpoints, a kind that is not of heads, checkpoints of different vocabularies, and a corpus
        of fewer than four rows.

    References
    ----------
    Olsson et al. 2022, "In-context learning and induction heads". Bietti et al. 2023, "Birth of a transformer: a memory
    viewpoint".

    Examples
    --------
    >>> grown = emergence("grokking", [[a, b, 53] for a in range(8) for b in range(8)], kinds="attention sink")
    >>> len(grown.steps), grown.curve("squared weights").values[0] > 1000
    (12, True)
    """
    run = steps_of(checkpoints)
    wanted = kinds_of(HEADS if kinds is None else kinds)
    if odd := [kind.name for kind in wanted if kind.sort != "head"]:
        raise CasebackError(f"{odd[0]!r} is no kind of head: expected such as {', '.join(HEADS[:3])}")
    if rows < 8:
        raise CasebackError(f"rows={rows}: expected 8 at least, since heads are ranked on some and scored on others")
    first = opened(next(iter(run.values())))
    given = None if corpus is None else _rows(first, corpus, n_tokens, length)
    depends_on = {"text": given, "options": [[kind.name for kind in wanted], rows, coefficient, seed, *CURVES]}
    file = Checkpoint(checkpoint, depends_on, what="state of an emergence", other="is of other text or other options")
    saved = file.read()
    done: dict[str, Any] = {} if saved is None else dict(saved.state["done"])
    text = None if given is None else Text.of(given, first.d_vocab)
    measured = []
    for step, one in progress_bar(run.items(), "checkpoints", show=progress):
        model = opened(one)
        if model.d_vocab != first.d_vocab:
            raise CasebackError(
                f"step {step} has {model.d_vocab} tokens, the first checkpoint {first.d_vocab}: expected one vocabulary"
            )
        key, digest = str(step), "" if checkpoint is None else fingerprint(model)
        if key not in done or done[key]["model"] != digest:
            done[key] = {"model": digest, **_measure(model, wanted, given, text, rows, coefficient, seed)}
            file.write({}, done=done)
        measured.append(done[key])
    steps = list(run)
    about = dict(first.provenance()) | {
        "model": _name(checkpoints, first),
        "layers": first.n_layers,
        "heads": sum(layer.dims.n_heads for layer in first.anatomy.layers),
        "steps": f"{steps[0]} to {steps[-1]}",
        "checkpoints": len(steps),
        "tokens": sum(map(len, given or ())),
        "rows of random tokens": rows,
        "seed": seed,
    }
    curves = tuple(_curve(name, measured) for name in CURVES if coefficient or name != COEFFICIENT)
    return Emergence(tuple(steps), tuple(_kind(kind, steps, measured) for kind in wanted), curves, about)


def _name(given: str | Path | Mapping[int, Model | str | Path], first: Model) -> str:
    """What the run is called: its folder's name, or that of its first model."""
    return first.name if isinstance(given, Mapping) else Path(given).resolve().name


def _rows(model: Model, corpus: Corpus, n_tokens: int | None, length: int | None) -> list[list[int]]:
    """The text as rows of token ids, up to about so many tokens.

    Raises
    ------
    CasebackError
        For fewer than four rows.
    """
    read, so_far = [], 0
    for row in rows_of(model, documents(corpus), length=length):
        read.append(row.ids)
        so_far += len(row.ids)
        if n_tokens is not None and so_far >= n_tokens:
            break
    if len(read) < 4:
        raise CasebackError(f"a corpus of {len(read)} rows: expected four at least; give more text or shorter rows")
    return read


def _measure(
    model: Model,
    kinds: Sequence[Kind],
    rows: list[list[int]] | None,
    text: Text | None,
    n_random: int,
    coefficient: bool,
    seed: int,
) -> dict[str, Any]:
    """What one checkpoint gives, as plain values: ``kinds``, ``curves`` and what is ``missing``."""
    moments = {TEXT: ("stream_moments",)}
    needs = needed(*(kind.needs for kind in kinds), {} if rows is None else moments)
    length = None if rows is None else max(map(len, rows))
    evidence = collect_evidence(model, rows, needs, length=length, seed=seed, n_rows=n_random)
    look = atlas_of(evidence, kinds, top=1, proofs=False)
    best = {one.kind: one for one in look.candidates}
    looks = {}
    for report in look.kinds:
        if report.missing:
            looks[report.kind] = {"missing": report.missing}
            continue
        own = best[report.kind]
        numbers = {"score": own.score, "control": own.control, "band": own.band}
        looks[report.kind] = {"best": own.component, "seen": report.labelled} | finite_or_none(numbers)
    curves: dict[str, tuple[float | None, float | None]] = {}
    missing: dict[str, str] = {}

    def put(name: str, measure: Callable[[], tuple[float | None, float | None]]) -> None:
        try:
            curves[name] = measure()
        except CasebackError as error:
            missing[name] = str(error)

    if text is None:
        no_text = ("loss", "distance to unigrams", "distance to bigrams", "in context, text", "growth of the stream")
        missing |= dict.fromkeys((*no_text, COEFFICIENT), "no text was given")
    else:
        losses, apart = text_losses(model, text)
        bigram = text.losses["bigram"]
        known = ~np.isnan(bigram)
        put("loss", lambda: (float(losses[known].mean()), float(bigram[known].mean())))
        put("in context, text", lambda: (late_less_early(losses)[0], late_less_early(bigram)[0]))
        if text.distances is None:
            rare = "no token of the text was counted often enough to say what follows it: give more text"
            missing |= {"distance to unigrams": rare, "distance to bigrams": rare}
        else:
            curves |= {f"distance {name}": (apart[name], text.distances[name]) for name in apart}
        put("growth of the stream", lambda: (_growth(evidence), None))
        if coefficient:
            put(COEFFICIENT, lambda: (_coefficient(model, text, seed), None))
    put("in context, random tokens", lambda: in_random_tokens(model, n_random, seed))
    recalled = cache(partial(memory_recall, model, seed=seed))
    for name in ("copies", "matches", "places"):
        put(f"memory of {name}", lambda name=name: strongest(recalled(), name))
    put("squared weights", lambda: (_squared_weights(model.hf), None))
    return {"kinds": looks, "curves": {name: list(pair) for name, pair in curves.items()}, "missing": missing}


def _squared_weights(hf: nn.Module) -> float:
    expect_own_numbers(hf, "their sum of squares")
    return sum(float(in_float64(w.detach()).square().sum()) for w in hf.parameters())


def _coefficient(model: Model, text: Text, seed: int) -> float:
    # a row of one token predicts nothing
    return float(learning_coefficient(model, [row for row in text.rows if len(row) > 1], seed=seed).coefficient.mean())


def _growth(evidence: Evidence) -> float:
    factor = norms.growth(evidence)[0]["growth a layer, without first tokens"]
    assert isinstance(factor, float)  # of all layers
    return factor


def _kind(kind: Kind, steps: Sequence[int], measured: Sequence[Mapping[str, Any]]) -> KindCurve:
    """One kind's curve; a kind that is missing at one checkpoint is missing."""
    own = [one["kinds"][kind.name] for one in measured]
    about = (kind.name, kind.entry, kind.looks_at, kind.control_is, kind.threshold)
    if why := next((one["missing"] for one in own if "missing" in one), ""):
        return KindCurve(*about, missing=why)
    score, control, band, best, seen = zip(*([one[name] for name in LINES] for one in own), strict=True)
    if all(value is None for value in score):
        return KindCurve(*about, missing="rows are too short for a score")
    return KindCurve(*about, score, control, band, best, seen, arises(steps, seen))


def _curve(name: str, measured: Sequence[Mapping[str, Any]]) -> Curve:
    what, beside_is = CURVES[name]
    if why := next((one["missing"][name] for one in measured if name in one["missing"]), ""):
        return Curve(name, what, missing=why)
    values, beside = zip(*(one["curves"][name] for one in measured), strict=True)
    return Curve(name, what, values, beside if beside_is else (), beside_is)
