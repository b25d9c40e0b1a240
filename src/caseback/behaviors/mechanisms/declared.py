"""The behaviors that are declared: which task each is, and who does what in it (PRIMER 5.4.4 to 5.4.12).

To add one, write a ``Behavior`` here: choosing, proving, controls, documents and the command follow from it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback import tasks
from caseback.behaviors.mechanisms.role import DIRECT, Behavior, Role
from caseback.tasks.prompts import Pair, Prompts

Place = Callable[[Prompts], Int[Tensor, " batch"]]


def _io_first(prompts: Prompts) -> Float[np.ndarray, " batch"]:
    """1 where the indirect object is said first, -1 where the subject is."""
    return np.where((prompts.at("IO") < prompts.at("S1")).cpu().numpy(), 1.0, -1.0)


def _numbered(kind: str, by: str, *, foil: bool = False) -> Place:
    """Where ``kind`` stands whose number is that of the ``by`` that is the answer, or the foil."""

    def at(prompts: Prompts) -> Int[Tensor, " batch"]:
        names = [name for name in prompts.spans if name.startswith(by) and name[len(by) :].isdigit()]
        numbers = [name[len(by) :] for name in names]
        which = torch.tensor([_index(pair, names, foil) for pair in prompts.pairs])
        return torch.stack([prompts.at(f"{kind}{number}") for number in numbers])[which, torch.arange(len(which))]

    return at


def _index(pair: Pair, names: list[str], foil: bool) -> int:
    answer = str((pair.foil if foil else pair.target)[0]).strip()
    words = [pair.clean.text[slice(*pair.clean.spans[name])].strip() for name in names]
    return words.index(answer)


IOI = Behavior(
    "ioi",
    "Two people, one gives something to the other: to whom?",
    tasks.ioi,
    (
        Role("name mover", "moves the name that it looks at to the end", "end", "IO", by=DIRECT),
        Role("negative name mover", "lowers the name that it looks at", "end", "IO", by=DIRECT, sign=-1),
        Role("subject mover", "moves the giver's name to the end", "end", "S1", by=DIRECT, sign=-1),
        Role("S2 mover", "moves what S2 holds of the other name", "end", "S2", by=DIRECT),
        Role(
            *("first-name mover", "moves the name that was said first, whoever it is", "end", "first"),
            control=("end", "second"),
            by=DIRECT,
            sign=_io_first,
        ),
        Role(
            *("second-name mover", "moves the name that was said second, whoever it is", "end", "second"),
            control=("end", "first"),
            by=DIRECT,
            sign=lambda prompts: -_io_first(prompts),
        ),
        Role("S-inhibition", "turns the name movers' queries away from the giver", "end", "S2", by="name mover"),
        Role("duplicate token", "notices at S2 that the name was said", "S2", "S1"),
        Role("induction", "finds from S2 what followed the first mention", "S2", "S1+1"),
        Role("previous token", "tells S1+1 which name stands before it", "S1+1", "S1", control=("end", "S1")),
    ),
    "5.4.4",
    "Wang et al. 2023",
    ("IO", "S1", "S1+1", "S2", "end"),
    {
        "first": lambda prompts: torch.minimum(prompts.at("IO"), prompts.at("S1")),
        "second": lambda prompts: torch.maximum(prompts.at("IO"), prompts.at("S1")),
    },
)

GREATER_THAN = Behavior(
    "greater_than",
    "A span of years ends later than it began.",
    tasks.greater_than,
    (
        Role("year reader", "brings the first year to the end", "end", "decade", control=("end", "noun")),
        Role("year comparer", "an MLP that raises later years", "end", by=DIRECT, sort="mlp"),
    ),
    "5.4.5",
    "Hanna et al. 2023",
    ("noun", "decade", "end"),
    # where a tokenizer cuts years into digits, the counterfactual's differs in the first of the last two
    {"decade": lambda prompts: prompts.at("year.first")},
)

SUCCESSOR = Behavior(
    "successor",
    "The next member of an ordered series.",
    tasks.successor,
    (
        Role("successor", "writes what follows the member that it looks at", "end", "word3", ("end", "word1"), DIRECT),
        Role("member reader", "brings the last member to the end", "end", "word3", ("end", "word1")),
        Role("successor MLP", "an MLP that writes the next member", "end", by=DIRECT, sort="mlp"),
    ),
    "5.1.8",
    "Gould et al. 2024",
    ("word1", "word2", "word3", "end"),
)

AGREEMENT = Behavior(
    "agreement",
    "The verb has the number of its subject, whatever noun stands between.",
    tasks.agreement,
    (
        Role("subject reader", "brings the subject's number to the verb", "end", "subject", ("end", "attractor")),
        Role("number mover", "writes the verb's number", "end", "subject", ("end", "attractor"), DIRECT),
        Role("number MLP", "an MLP that writes the verb's number", "end", by=DIRECT, sort="mlp"),
    ),
    "5.4.11",
    "Ferrando & Costa-jussà 2024",
    ("subject", "attractor", "end"),
)

DOCSTRING = Behavior(
    "docstring",
    "A function whose parameters are documented in order: which is next?",
    tasks.docstring,
    (
        Role("argument mover", "moves the argument that it looks at", "end", "C_def", ("end", "D_def"), DIRECT),
        Role("place reader", "sees which argument was documented last", "end", "B_doc", ("end", "A_doc")),
        Role("previous argument", "tells an argument which one it follows", "C_def", "B_def", ("C_def", "A_def")),
        Role("duplicate argument", "finds the documented argument's definition", "B_doc", "B_def", ("B_doc", "A_def")),
        Role("induction", "finds what follows the documented argument", "B_doc", "C_def", ("B_doc", "D_def")),
    ),
    "5.4.6",
    "Heimersheim & Janiak 2023",
    ("A_def", "B_def", "C_def", "D_def", "A_doc", "B_doc", "end"),
)

INDUCTION = Behavior(
    "induction",
    "A repeated span of random tokens goes on as it did.",
    tasks.induction,
    (
        Role("induction", "moves what followed the last token's first mention", "end", "B", by=DIRECT),
        Role("previous token", "tells a token which one stands before it", "B", "A", ("end", "end-2")),
    ),
    "5.1.6",
    "Olsson et al. 2022",
    ("A", "B", "end"),
)

COLORED_OBJECTS = Behavior(
    "colored_objects",
    "Things on a table, each of a color: what color is the one asked about?",
    tasks.colored_objects,
    (
        Role("color mover", "moves the color that it looks at", "end", "color", ("end", "foil_color"), DIRECT),
        Role("question reader", "brings the thing asked about to the end", "end", "asked", ("end", "foil_object")),
        Role("duplicate token", "finds the thing where it was shown", "asked", "object", ("asked", "foil_object")),
    ),
    "5.4.7",
    "Merullo et al. 2024",
    ("color", "object", "foil_color", "foil_object", "asked", "end"),
)

MULTIPLE_CHOICE = Behavior(
    "multiple_choice",
    "A question and lettered options: which letter?",
    tasks.multiple_choice,
    (
        Role(
            "correct letter", "moves the right option's letter", "end", "right letter", ("end", "wrong letter"), DIRECT
        ),
        Role("content gatherer", "looks at the right option", "end", "right option", ("end", "wrong option")),
    ),
    "5.4.8",
    "Lieberum et al. 2023",
    ("asked", "right letter", "right option", "wrong letter", "wrong option", "end"),
    {
        f"{words} {kind}": _numbered(kind, "letter", foil=words == "wrong")
        for words in ("right", "wrong")
        for kind in ("letter", "option")
    },
)

ENTITY_TRACKING = Behavior(
    "entity_tracking",
    "Things are put into boxes and moved: what is in this box?",
    tasks.entity_tracking,
    (
        Role("thing mover", "moves the thing that it looks at", "end", "right object", ("end", "wrong object"), DIRECT),
        Role("question reader", "brings the box asked about to the end", "end", "asked", ("end", "wrong box")),
        Role("box matcher", "finds the box where it was told of", "asked", "right box", ("asked", "wrong box")),
    ),
    "5.4.9",
    "Kim & Schuster 2023; Prakash et al. 2024",
    ("right object", "right box", "wrong object", "wrong box", "asked", "end"),
    {
        f"{words} {kind}": _numbered(kind, "object", foil=words == "wrong")
        for words in ("right", "wrong")
        for kind in ("object", "box")
    },
)

ARITHMETIC = Behavior(
    "arithmetic",
    "The result of two numbers and an operator.",
    tasks.arithmetic,
    (
        Role("first operand reader", "brings the first number to the end", "end", "a", ("end", "operator")),
        Role("second operand reader", "brings the second number to the end", "end", "b", ("end", "operator")),
        Role("result MLP", "an MLP that writes the result", "end", by=DIRECT, sort="mlp"),
    ),
    "5.4.10",
    "Stolfo et al. 2023",
    ("a", "operator", "b", "end"),
)

SENTIMENT = Behavior(
    "sentiment",
    "A review with two adjectives: praise or blame?",
    tasks.sentiment,
    (
        Role("summary reader", "reads the token behind the adjective, not it", "end", "summary", ("end", "second")),
        Role("adjective reader", "reads the second adjective itself", "end", "second", ("end", "work")),
        Role("summary writer", "writes the sentiment behind the adjective", "summary", "second", ("summary", "work")),
    ),
    "5.4.12",
    "Tigges et al. 2023",
    ("adjective", "second", "summary", "end"),
    {"summary": lambda prompts: prompts.at("second+1")},
)

BEHAVIORS = {
    one.name: one
    for one in (
        *(IOI, GREATER_THAN, SUCCESSOR, AGREEMENT, DOCSTRING, INDUCTION, COLORED_OBJECTS, MULTIPLE_CHOICE),
        *(ENTITY_TRACKING, ARITHMETIC, SENTIMENT),
    )
}
"""By name, in the order in which they are listed."""
