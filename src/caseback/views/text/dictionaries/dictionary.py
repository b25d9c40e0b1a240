"""What dictionaries are, in the terminal: their facts, and cards of features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from caseback.reports.dictionaries.dictionary import DICTIONARY
from caseback.reports.document import checked
from caseback.views.numbers_text import number, percent
from caseback.views.text.dictionaries.features import card_lines

__all__ = ["print_dictionary"]


@checked
def print_dictionary(document: Mapping[str, Any], console: Console | None = None) -> None:
    """Print what dictionaries are, and the cards of features.

    Parameters
    ----------
    document
        What ``dictionary_document`` returns.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.

    Raises
    ------
    CasebackError
        If it is not a document of dictionaries' facts, or cannot be drawn truthfully.

    Examples
    --------
    ::

        print_dictionary(dictionary_document({"mine": dictionary}, [3, 17], model=model))
    """
    console = console or Console()
    with DICTIONARY.drawing(document):
        lines = list(_lines(document))
    for line in lines:
        console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)


def _lines(document: Mapping[str, Any]) -> Iterator[Text]:
    for i, one in enumerate(document["dictionaries"]):
        if i:
            yield Text("")
        yield Text(one["name"], style="bold")
        facts = facts_of(one)
        width = max(len(name) for name, _ in facts)
        for name, words in facts:
            yield Text(f"  {name:{width}}  {words}")
    if document["cards"] and document["tokens"] is not None:
        yield Text("")
        yield Text(f"features over {document['tokens']:,} tokens")
    for card in document["cards"]:
        yield from card_lines(card)


def facts_of(one: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is known of a dictionary, as names and words."""
    facts = [
        ("layout", f"{one['layout']}, digest {one['digest']}"),
        ("architecture", _named(one["architecture"], one["options"])),
        ("features", f"{one['n_features']:,} of {one['d_in']} → {one['d_out']}, {one['dtype']}"),
        ("reads", ", ".join(one["sources"])),
    ]
    if one["targets"] != one["sources"]:
        skip = ", and adds a linear map of what it reads" if one["skip"] else ""
        facts.append(("writes", ", ".join(one["targets"]) + skip))
    low, middle, high = (number(norm) for norm in one["norms"])
    facts += [
        ("model", one["model"] or "not said"),
        ("states", _states(one)),
        ("rows", f"norms {low} to {high}, the median {middle}" + (", kept at 1" if one["unit_rows"] else "")),
    ]
    if one["classes"]:
        each = ", ".join(f"{count:,} {kind}" for kind, count in one["classes"].items())
        facts.append(("classes", f"by the norms of rows alone: {each}"))
    for what, how in one["trained"].items():
        facts.append((what, _training(how)))
        if how.get("last_step"):
            facts.append(("", _measured(how["last_step"])))
    if one["tokens"]:
        facts.append(("tokens", one["tokens"]))
    return facts + [("file says", _named(name, value)) for name, value in one["says"].items()]


def _states(one: Mapping[str, Any]) -> str:
    words = {
        "none": "as they are",
        "scale": "times " + ", ".join(number(scale) for scale in one["scales"]),
        "layer_norm": "each token's mean and deviation taken out",
        "unit_norm": "each token scaled to the norm √d",
    }[one["normalization"]]
    more = [", b_dec subtracted first"] if one["centered"] else []
    more += [", selected by score times norm"] if one["by_norm"] else []
    return words + "".join(more)


def _training(how: Mapping[str, Any]) -> str:
    words = f"{how['tokens']:,} tokens in {how['steps']:,} steps, rate {number(how['lr'])}, seeds {how['seed']}"
    return words + "".join(f", {name} {value}" for name, value in how.get("recipe", {}).items())


def _measured(last: Mapping[str, Any]) -> str:
    return (
        f"at its last step: {percent(last['explained'])} explained, {number(last['l0'])} active, "
        f"{percent(last['dead'])} dead"
    )


def _named(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{name}: " + ", ".join(f"{key} {each}" for key, each in value.items()) if value else name
    return f"{name}: {value}"
