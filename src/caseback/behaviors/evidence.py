"""What looks read: tables of one pass over text and of short passes over streams of random tokens, and the weights.

Text is split by documents into two folds, other streams into eight; half of the folds are for ranking units, half for
scoring them. Every pass is a job of ``caseback.stream``: with a folder it resumes and takes workers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from caseback.behaviors.answers import MEASURED
from caseback.behaviors.context_streams import IN_CONTEXT
from caseback.behaviors.context_streams import RELATIONS as IN_CONTEXT_RELATIONS
from caseback.behaviors.labelled import Labels, two_folds
from caseback.behaviors.labelled_streams import RARITY, TREEBANK, rarity, treebank
from caseback.behaviors.matching_streams import MATCHING
from caseback.behaviors.synthetic import FOLDS, STREAMS, streams
from caseback.behaviors.within import ALL_ROWS, ROW_TOKENS, Within, duration, row_tokens, tokens_a_second
from caseback.errors import CasebackError, SiteAbsent, TokensError, UnknownSite
from caseback.jobs.launch import HERE
from caseback.model.algebra.folding import Folded
from caseback.model.algebra.under_edits import expect_unedited_logits
from caseback.model.graph.names import Name
from caseback.model.running.model import Model
from caseback.stream.collect import collect
from caseback.stream.collection import Collection
from caseback.stream.documents import Corpus, documents
from caseback.stream.packing import rows_of
from caseback.stream.tables.registry import TABLES, TableLike
from caseback.stream.tables.site_shapes import shape_of
from caseback.tasks.formats.treebank import Sentence

TEXT = "text"
SORTS = ("head", "neuron", "expert")
PROMPTS = 32
PROMPT_TOKENS = 64
RELATIONS: dict[str, tuple[str, ...]] = {
    TEXT: ("same_word", "before_word", "before_start"),
    "prefixes": ("to:matched", "to:unmatched", "to:matched_absent", "to:unmatched_absent"),
    "entities": ("to:last", "to:last_absent"),
    "needle": ("to:word", "to:distractor"),
    **{
        stream: tuple(f"to:{name}{end}" for name in names for end in ("", "_null"))
        for stream, names in IN_CONTEXT_RELATIONS.items()
    },
}
"""Relations that attention is measured on, by stream; ``REPEATS`` on all others."""
REPEATS = ("previous", "current", "to:same", "to:next")
TEXT_OPTIONS: dict[str, dict[str, Any]] = {
    "neuron_groups": {
        "groups": (
            *("any", "position", "kinds", "previous_kinds", "repeats", "words"),
            *("first_letter", "permuted_kinds", "permuted_position", "permuted_first_letter"),
        ),
        "skip": 4,
    },
    "router_counts": {"groups": ("any", "kinds", "previous_kinds", "permuted_kinds")},
    "reservoir": {"size": 256},
}
"""Options of tables over text: neurons are compared on permuted marks, and without the tokens that heads rest on."""


@dataclass
class Evidence:
    """What was measured of one model, for looks to reduce.

    Attributes
    ----------
    model
        The model.
    collections
        By stream (``"text"``, those of ``synthetic.STREAMS``, ``matching_streams.MATCHING`` and ``labelled_streams``)
        one collection a fold.
    n_tokens
        How many tokens of text were read.
    missing
        Why a table or a stream is not there, by its name.
    seed
        Random directions and permutations of looks are drawn with it.
    """

    model: Model
    collections: dict[str, list[Collection]]
    n_tokens: int
    missing: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    prompts: list[list[int]] = field(default_factory=list)
    """Some rows of text for experiments, as ids."""
    documents: tuple[list[Any], list[Any]] = ([], [])
    """The documents of either half of the text, as ``collect`` takes them."""
    labels: Labels = field(default_factory=Labels)
    """Of these documents."""
    length: int | None = None
    """Tokens per row of text."""
    rows: dict[str, list[list[Any]]] = field(default_factory=dict)
    """By stream of ``labelled_streams`` its folds: rows of ids with their labels."""
    measured: dict[str, list[Any]] = field(default_factory=dict)
    """By name what ``answers.MEASURED`` gave."""
    computed: dict[Any, Any] = field(default_factory=dict)
    """What several looks share, by a key of their own."""

    @cached_property
    def heads(self) -> list[tuple[int, int]]:
        """Every head, layer by layer."""
        layers = self.model.anatomy.layers
        return [(layer, head) for layer in range(len(layers)) for head in range(layers[layer].dims.n_heads)]

    @cached_property
    def neurons(self) -> list[tuple[int, int]]:
        """Every neuron, layer by layer."""
        widths = {layer: len(self.model.weights.W_out[layer]) for layer in self.neuron_layers}
        return [(layer, neuron) for layer, width in widths.items() for neuron in range(width)]

    @cached_property
    def experts(self) -> list[tuple[int, int]]:
        """Every expert, layer by layer.

        Raises
        ------
        SiteAbsent
            For a model without a mixture of experts.
        """
        sites = list(self.model.anatomy.sites("expert"))
        many = shape_of(self.model, sites, "of experts")[0]
        return [(int(site.layer or 0), expert) for site in sites for expert in range(many)]

    def units(self, sort: str) -> list[tuple[int, int]]:
        """Every unit of a sort, layer by layer.

        Raises
        ------
        CasebackError
            For an unknown sort.
        """
        if sort not in SORTS:
            raise CasebackError(f"units of sort {sort!r} have no names here: expected {', '.join(SORTS)}")
        return getattr(self, f"{sort}s")

    def text_ids(self, fold: int) -> tuple[Int[np.ndarray, " token"], Int[np.ndarray, " token"]]:
        """The tokens of a half of the text by their place in it, and each one's place in its row."""
        if (key := (__name__, "ids", fold)) not in self.computed:
            rows = [row.ids for row in rows_of(self.model, documents(self.documents[fold]), length=self.length)]
            ids, places = (np.fromiter(chain.from_iterable(x), np.int64) for x in (rows, (range(len(r)) for r in rows)))
            self.computed[key] = ids, places
        return self.computed[key]

    @cached_property
    def neuron_layers(self) -> list[int]:
        """The layers that have neurons of their own, not only experts with theirs."""
        try:
            return [site.layer for site in self.model.anatomy.sites("mlp_post") if site.layer is not None]
        except (SiteAbsent, UnknownSite):
            return []

    @cached_property
    def folded(self) -> Folded:
        """The weights with norms folded in and logits centered over the vocabulary."""
        return self.model.weights.folded(centre_vocab=True)

    def names(self, sort: str) -> list[str]:
        """The names of all units of a sort."""
        return [str(Name(sort, layer, index)) for layer, index in self.units(sort)]

    def folds(self, stream: str, table: str) -> list[xr.Dataset]:
        """A table's results, a fold each.

        Raises
        ------
        SiteAbsent
            For a table that the model does not have, with the reason.
        """
        if table in self.missing:
            raise SiteAbsent(self.missing[table])
        if stream not in self.collections:
            raise SiteAbsent(self.missing.get(stream, "no text was given" if stream == TEXT else f"no {stream!r}"))
        key = (stream, table)
        if key not in self._results:
            self._results[key] = [collection[table] for collection in self.collections[stream]]
        return self._results[key]

    @cached_property
    def _results(self) -> dict[tuple[str, str], list[xr.Dataset]]:
        return {}

    def of_answers(self, name: str) -> list[Any]:
        """What ``answers.MEASURED`` gives by a name, measured when it is first asked for.

        Raises
        ------
        SiteAbsent
            Where nothing can be, with the reason.
        """
        if name not in self.measured and name not in self.missing:
            try:
                self.measured[name] = MEASURED[name](self.model, self.seed)
            except CasebackError as error:
                self.missing[name] = str(error)
        if name in self.missing:
            raise SiteAbsent(self.missing[name])
        return self.measured[name]

    def by_head(self, stream: str, table: str, variable: str, **where: Any) -> Float[np.ndarray, "head fold"]:
        """One number of every head by fold: a variable of a table, at a place in its other dimensions."""
        parts = [fold[variable].sel(where) if where else fold[variable] for fold in self.folds(stream, table)]
        return np.stack([part.transpose("layer", "head").values.reshape(-1) for part in parts], axis=1)

    def by_layer(self, stream: str, table: str, variable: str, **where: Any) -> Float[np.ndarray, "head fold"]:
        """The same of a number that all heads of a layer share."""
        parts = [fold[variable].sel(where).values for fold in self.folds(stream, table)]
        layer = [layer for layer, _ in self.heads]
        return np.stack([np.broadcast_to(part, (self.model.n_layers,))[layer] for part in parts], axis=1)

    def by_expert(self, stream: str, table: str, variable: str, **where: Any) -> Float[np.ndarray, "expert fold"]:
        """One number of every expert by fold."""
        parts = [fold[variable].sel(where) if where else fold[variable] for fold in self.folds(stream, table)]
        return np.stack([part.transpose("layer", "expert").values.reshape(-1) for part in parts], axis=1)

    def by_neuron(self, stream: str, table: str, variable: str, **where: Any) -> Float[np.ndarray, "neuron fold"]:
        """One number of every neuron by fold."""
        parts = [fold[variable].sel(where) if where else fold[variable] for fold in self.folds(stream, table)]
        return np.stack([part.transpose("layer", "neuron").values.reshape(-1) for part in parts], axis=1)


def needed(*needs: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Tables by stream that several need, each once.

    Examples
    --------
    >>> needed({"text": ["a"]}, {"text": ["b", "a"], "fresh": ["a"]})
    {'text': ['a', 'b'], 'fresh': ['a']}
    """
    union: dict[str, list[str]] = {}
    for one in needs:
        for stream, tables in one.items():
            own = union.setdefault(stream, [])
            own.extend(table for table in tables if table not in own)
    return union


def collect_evidence(
    model: Model,
    corpus: Corpus | None,
    needs: Mapping[str, Sequence[str]],
    *,
    sentences: Sequence[Sentence] = (),
    n_tokens: int | None = None,
    length: int | None = None,
    folder: Path | None = None,
    workers: int = 1,
    on: str = HERE,
    threads: int | None = None,
    within: Within | None = None,
    n_rows: int = ALL_ROWS,
    seed: int = 0,
    progress: bool = False,
) -> Evidence:
    """Run the passes that tables need.

    Parameters
    ----------
    model
        The model.
    corpus
        Documents, as ``collect`` takes them; None leaves out whatever needs text.
    needs
        Tables by stream; see ``needed``.
    sentences
        A treebank, as ``conllu`` reads it; without one, what needs it is left out.
    n_tokens
        Stop the text with the rows in which so many tokens are reached; by default it is read to its end.
    length
        Tokens per row of text.
    folder
        Where the pass over text is kept as a job, so that it resumes and may have workers.
    workers, on, threads
        Where it runs; see ``caseback.jobs.launch``.
    within
        The time that it must fit, and what is left out for that; None for as long as it takes.
    n_rows
        Rows of each stream of random tokens, where there is no such time.
    seed
        Same seed, same result. Draws the random tokens.
    progress
        Show a progress bar.

    Raises
    ------
    CasebackError
        For a corpus of fewer than two documents.
    EditError
        For a model under edits of its logits, which most of what is looked for would miss.
    """
    missing = {}
    anatomy = model.anatomy
    expect_unedited_logits(anatomy, "evidence for an atlas")
    for name in dict.fromkeys(name for names in needs.values() for name in names):
        why = TABLES[name]().absent(anatomy)
        if why is not None:
            missing[name] = why

    def present(stream: str, options: Mapping[str, Any] | None = None) -> list[TableLike]:
        own = dict(TEXT_OPTIONS) if stream == TEXT else {}
        own |= {"attention_relations": {"relations": RELATIONS.get(stream, REPEATS)}} | dict(options or {})
        return [{name: own.get(name, {})} for name in needs.get(stream, ()) if name not in missing]

    asked, rate = n_tokens, 0.0
    if within is not None:
        rate = tokens_a_second(model, present(TEXT) or [{name: {}} for name in ("token_counts",)], length, within)
        n_tokens = within.tokens(rate, asked)
    evidence = Evidence(model, {}, 0, missing, seed, length=length)
    collections = evidence.collections
    if corpus is not None and (present(TEXT) or needs.get(RARITY)):
        halves = two_folds(corpus, model, n_tokens, length)
        evidence.documents, evidence.labels = halves.documents, halves.labels
        room = min(PROMPT_TOKENS, model.context or PROMPT_TOKENS)
        rows = rows_of(model, documents(halves.documents[1]), length=room, least=room // 2)
        evidence.prompts = [row.ids for row in islice(rows, PROMPTS)]
    if present(TEXT) and corpus is not None:
        collections[TEXT] = []
        for number, part in enumerate(evidence.documents):
            at = None if folder is None else folder / f"text-{number}"
            given = {"folder": at, "workers": workers, "on": on, "threads": threads, "length": length}
            collections[TEXT].append(collect(model, part, present(TEXT), **given, progress=progress))
        evidence.n_tokens = sum(collection.n_tokens for collection in collections[TEXT])
        if within is not None and n_tokens is not None:
            within.end_of_text(evidence.n_tokens, n_tokens, asked)
    if within is not None:
        n_rows = within.rows(rate, row_tokens(needs, TEXT))
        if sentences and needs.get(TREEBANK):
            sentences = sentences[: within.sentences(rate, [len(one.words) for one in sentences])]

    def no_time(name: str, rows: int) -> bool:
        """Whether rows of a stream do not fit; noted where they do not."""
        takes = rows * ROW_TOKENS / rate if within is not None else 0.0
        if within is None or within.fits(f"rows of {name!r}", takes):
            return False
        missing[name] = f"left out for time: its rows would take about {duration(takes)}"
        return True

    for name, make in (
        (RARITY, lambda: rarity(model, evidence.documents, n_rows, length, seed)),
        (TREEBANK, lambda: treebank(model, sentences, seed)),
    ):
        if not needs.get(name) or (name == RARITY and no_time(name, n_rows)):
            continue
        try:
            evidence.rows[name], options = make()
        except CasebackError as error:
            missing[name] = str(error)
            continue
        own = present(name, options)
        collections[name] = [collect(model, fold, own, bos=False) for fold in evidence.rows[name]] if own else []
    for names, make in ((STREAMS, lambda: streams(model, rows=n_rows, seed=seed)), *_one_by_one(model, n_rows, seed)):
        own = [name for name in names if present(name)]
        own = [name for name in own if not no_time(name, n_rows if name in STREAMS else max(FOLDS, n_rows // 2))]
        try:
            drawn = {name: folds for name, folds in make().items() if name in own} if own else {}
        except TokensError as error:
            missing |= dict.fromkeys(own, str(error))
            continue
        for name, folds in drawn.items():
            collections[name] = [collect(model, fold, present(name), bos=False) for fold in folds]
    return evidence


def _one_by_one(model: Model, n_rows: int, seed: int) -> list[tuple[tuple[str, ...], Callable[[], dict[str, Any]]]]:
    """Each stream of ``MATCHING`` and ``IN_CONTEXT``, and what makes it."""
    return [
        ((name,), lambda name=name, make=make: {name: make(model, max(FOLDS, n_rows // 2), seed)})
        for name, make in (MATCHING | IN_CONTEXT).items()
    ]
