"""How facts are recalled, in the terminal: what the answer hangs on, then rates by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from caseback.reports.concepts.facts import FACTS
from caseback.reports.document import Document, checked, drawn_from
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import number, percent, signed

__all__ = ["known_words", "low_rank_words", "map_words", "print_facts", "source_words", "unknown_words", "votes_words"]


@checked
def print_facts(document: Document, *, console: Console | None = None) -> None:
    """Print what ``facts_document`` gave.

    Parameters
    ----------
    document
        The document.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    """
    console = console or Console()
    with FACTS.drawing(document):
        say = lambda words: console.print(words, highlight=False, markup=False)  # noqa: E731
        how, layers = document["how"], document["layers"]
        say(f"{document['model']['name']}, {document['relation'] or 'facts'}: {known_words(document)}")
        say(f"\nrouting: nats that the answer loses where the end does not see them, {how['window']} layers at a time")
        for row in document["routing"]:
            say(f"   {row['source']}: {source_words(row)}")
        console.print(by_layer(layers, [(row["source"], row["fall"]) for row in document["routing"]], _nats))
        say(f"\nenrichment: the subject's words among the first {how['k']} of its last token, without some MLPs there")
        rates = []
        for row in document["enrichment"]:
            rates += [(f"without {row['without']}", row["rate"]), ("   others' words", row["other"])]
        console.print(by_layer(layers, rates, percent))
        say("\nextraction: the answer is the first token of what attention writes at the end")
        own = document["extraction"]
        console.print(by_layer(layers, [("answer", own["rate"]), ("others' answers", own["other"])], percent))
        if votes := document["votes"]:
            say(f"\nvotes: {votes_words(votes)}")
            console.print(_groups(votes))
            console.print(_heads(votes))
        if document["map"]:
            say("\nas one affine map:")
            for words in map_words(document["map"]):
                say(f"   {words}")
        if of_rank := document["low_rank"]:
            say("\nwith one weight of low rank:")
            for words in low_rank_words(of_rank):
                say(f"   {words}")
            console.print(_sorts(of_rank))
        for words in unknown_words(document):
            say(f"not known: {words}")


@checked
@drawn_from("a document of facts", "facts_document")
def known_words(document: Mapping[str, Any]) -> str:
    """How many facts the model knows, in words.

    Examples
    --------
    >>> known_words({"facts": [{"known": True, "pieces": 2}, {"known": False, "pieces": 1}]})
    'answers 1 of 2 facts rightly, which are measured (of 1 the first piece of several)'
    """
    known = [fact for fact in document["facts"] if fact["known"]]
    cut = sum(fact["pieces"] > 1 for fact in known)
    more = f" (of {cut} the first piece of several)" if cut else ""
    return f"answers {len(known)} of {len(document['facts'])} facts rightly, which are measured{more}"


@checked
@drawn_from("a source", "facts_document")
def source_words(row: Mapping[str, Any]) -> str:
    """What the answer loses without a source, in words.

    Examples
    --------
    >>> row = dict(facts=9, layer=1, excess=2.0, error=0.1, band=0.6, above=True)
    >>> source_words(row)
    '+2.00 ± 0.10 more than other positions, at layer 1 (these among themselves up to +0.60): above'
    """
    if not row["facts"]:
        return "no prompt has it"
    if row["layer"] is None:
        return "nothing to compare with"
    return (
        f"{signed(row['excess'])} ± {number(row['error'])} more than other positions, at layer {row['layer']} (these "
        f"among themselves up to {signed(row['band'])}): {'above' if row['above'] else 'not above'}"
    )


@checked
@drawn_from("a document of facts", "facts_document")
def unknown_words(document: Mapping[str, Any]) -> list[str]:
    """The facts that the model does not know, each in words.

    Examples
    --------
    >>> fact = {"known": False, "prompt": "Rome is in", "answer": "Italy", "rank": 3, "says": " the"}
    >>> unknown_words({"facts": [fact]})
    ['Rome is in → Italy is its answer number 3; its first is ␣the']
    """
    rows = [fact for fact in document["facts"] if not fact["known"]]
    return [
        f"{fact['prompt']} → {fact['answer']} is its answer number {fact['rank']}; its first is {visible(fact['says'])}"
        for fact in rows
    ]


@checked
@drawn_from("votes", "facts_document")
def votes_words(votes: Mapping[str, Any]) -> str:
    """Which groups of components suffice by themselves, in words.

    Examples
    --------
    >>> groups = [{"group": g, "alone": a} for g, a in [("subject heads", 0.2), ("MLPs", 0.7), ("these together", 0.9)]]
    >>> groups.append({"group": "everything", "alone": 1.0})
    >>> votes_words({"judged": 10, "candidates": 4, "groups": groups})
    'of 10 facts, by what is said directly at the end: these together answer 90%, the best of them alone (MLPs) 70%'
    """
    rates = {row["group"]: row["alone"] for row in votes["groups"]}
    alone = {name: rate for name, rate in rates.items() if name not in ("these together", "everything")}
    best = max(alone, key=lambda name: alone[name])
    return (
        f"of {votes['judged']} facts, by what is said directly at the end: these together answer "
        f"{percent(rates['these together'])}, the best of them alone ({best}) {percent(alone[best])}"
    )


@checked
@drawn_from("a relation's map", "facts_document")
def map_words(fitted: Mapping[str, Any]) -> list[str]:
    """What a relation's map reads and does, in words.

    Examples
    --------
    >>> fitted = dict(layer=3, beta=2.0, rank=16, examples=5, judged=8, causal=0.5, random=0.0, replaced=0.75)
    >>> fitted["faithful"] = [{"reading": "map", "rate": 0.5}, {"reading": "lens", "rate": 0.0}]
    >>> map_words(fitted)[0]
    'from the subject after layer 3, of 5 facts, beta 2: says 50% of 8 others (lens 0%)'
    >>> map_words(fitted)[1]
    'turned round at rank 16 it makes the model say another answer in 50% (random 0%, its whole state 75%)'
    """
    own, *beside = fitted["faithful"]
    others = ", ".join(f"{row['reading']} {percent(row['rate'])}" for row in beside)
    random = "–" if fitted["random"] is None else percent(fitted["random"])
    return [
        f"from the subject after layer {fitted['layer']}, of {fitted['examples']} facts, beta {fitted['beta']:g}: says "
        f"{percent(own['rate'])} of {fitted['judged']} others ({others})",
        f"turned round at rank {fitted['rank']} it makes the model say another answer in {percent(fitted['causal'])} "
        f"(random {random}, its whole state {percent(fitted['replaced'])})",
    ]


@checked
@drawn_from("a weight of low rank", "facts_document")
def low_rank_words(of_rank: Mapping[str, Any]) -> list[str]:
    """Which weight was chosen, and what it mends and spoils, in words.

    Examples
    --------
    >>> chosen = dict(layer=3, matrix="in", rho=0.05, rank=8, chosen_on=20, chosen=0.75, chosen_clean=0.5)
    >>> low_rank_words(chosen | dict(judged=20, gained=3, spoiled=1))[0]
    'in of layer 3 at 5.0% of its rank (8) is right in 75% of the 20 facts that choose, 50% as it is'
    >>> low_rank_words(chosen | dict(judged=20, gained=3, spoiled=1))[1]
    'of 20 others it mends 3 and spoils 1'
    """
    gains = of_rank["chosen"] > of_rank["chosen_clean"]
    none = "" if gains else ": no weight of lower rank is right more often, and this is the first of the best"
    return [
        f"{of_rank['matrix']} of layer {of_rank['layer']} at {percent(of_rank['rho'])} of its rank ({of_rank['rank']}) "
        f"is right in {percent(of_rank['chosen'])} of the {of_rank['chosen_on']} facts that choose, "
        f"{percent(of_rank['chosen_clean'])} as it is{none}",
        f"of {of_rank['judged']} others it mends {of_rank['gained']} and spoils {of_rank['spoiled']}",
    ]


def _sorts(of_rank: Mapping[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for name in ("   weight", "right", "wrong, plausible", "other"):
        table.add_column(name, justify="left" if name.startswith("  ") else "right", no_wrap=True)
    for row in of_rank["variants"]:
        shares = (percent(row[name]) for name in ("right", "plausible", "other"))
        table.add_row(f"   {row['variant']}", *shares)
    return table


def _groups(votes: Mapping[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for name in ("   by themselves", "answer", f"margin (of {votes['candidates']} answers)"):
        table.add_column(name, justify="left" if name.startswith("  ") else "right", no_wrap=True)
    for row in votes["groups"]:
        table.add_row(f"   {row['group']}", percent(row["alone"]), signed(row["margin"]))
    return table


def _heads(votes: Mapping[str, Any]) -> Table:
    names = ("subject", "relation", "first_token", "gives", "range", "elsewhere")
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for name in ("   head", "kind", "of subject", "of relation", "of first", "in all", "other answers", "elsewhere"):
        table.add_column(name, justify="left" if name in ("   head", "kind") else "right", no_wrap=True)
    for row in votes["heads"]:
        shown = ["–" if row[name] is None else signed(row[name]) for name in names]
        table.add_row(f"   {row['head']}", row["kind"] or "–", *shown)
    return table


def by_layer(layers: Sequence[int], rows: Sequence[tuple[str, Sequence[float | None]]], shown: Any) -> Table:
    """Values by layer: all of eight layers, of more as many at even distances."""
    step = -(-len(layers) // 8)
    at = list(range(len(layers)))[::-step][::-1]
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("   layer", no_wrap=True)
    for i in at:
        table.add_column(str(layers[i]), justify="right", no_wrap=True)
    for name, values in rows:
        table.add_row(f"   {name}", *("–" if values[i] is None else shown(values[i]) for i in at))
    return table


def _nats(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")
