"""Texts in which things belong to somebody, and ask what belongs to one: who has what can be exchanged in them.

    The cake is in box C, the drum is in box A. Box C contains the ->  cake

A scene's texts are cut alike by the tokenizer: every entity has as many tokens as every other, and so have attributes.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from caseback import lexicon
from caseback.errors import CasebackError, TokensError
from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.tasks.align import Encoded, aligned, tokenizer_of
from caseback.tasks.prompts import Pair
from caseback.tasks.text import Text, fill

TRIES = 8
"""Texts that are drawn for each that is wanted, since not all are cut alike."""


@checked
@dataclass(frozen=True)
class Scene:
    """What is said of entities, and asked.

    Attributes
    ----------
    fact
        A clause with ``{entity}`` and ``{attribute}``, once each.
    question
        With ``{entity}``; the attribute comes next.
    entities, attributes
        The words.
    between, stop
        What joins clauses, and ends them.
    """

    fact: str
    question: str
    entities: Sequence[str]
    attributes: Sequence[str]
    between: str = ", "
    stop: str = "."

    def __post_init__(self) -> None:
        if self.fact.count("{entity}") != 1 or self.fact.count("{attribute}") != 1:
            raise CasebackError(f"fact {self.fact!r}: expected {{entity}} and {{attribute}}, once each")
        if self.question.count("{entity}") != 1 or "{attribute}" in self.question:
            raise CasebackError(f"question {self.question!r}: expected {{entity}} once, and no {{attribute}}")

    def text(self, entities: Sequence[str], attributes: Sequence[str], asked: str) -> Text:
        """Facts and the question, with the place of every word; ``asked`` is the entity that is asked about.

        Examples
        --------
        >>> SCENES["homes"].text(["Mary", "John"], ["Paris", "Rome"], "John").text
        'Mary lives in Paris, John lives in Rome. John lives in'
        """
        clauses = [
            self.fact.replace("{entity}", f"{{entity{i}}}").replace("{attribute}", f"{{attribute{i}}}")
            for i in range(len(entities))
        ]
        stop = self.stop.lstrip()
        context = self.between.join(clauses) + self.stop.removesuffix(stop) + "{stop}"
        words = {f"entity{i}": word for i, word in enumerate(entities)}
        words |= {f"attribute{i}": word for i, word in enumerate(attributes)}
        template = context[0].upper() + context[1:] + " " + self.question.replace("{entity}", "{asked}")
        return fill(template, **words, stop=stop, asked=asked)


SCENES = {
    "boxes": Scene(
        "the {attribute} is in box {entity}", "Box {entity} contains the", lexicon.LETTERS[:6], lexicon.WIDE_THINGS
    ),
    "homes": Scene(
        "{entity} lives in {attribute}",
        "{entity} lives in",
        lexicon.WIDE_NAMES,
        sorted({capital for capital, _, _ in lexicon.WIDE_COUNTRIES.values()}),
    ),
}
"""Things in boxes, as in the task ``entity_tracking``, and people and their cities."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """Texts of one scene, all cut alike.

    Attributes
    ----------
    texts
        (batch,) in words.
    ids
        (batch, pos), and the same with the two entities, or the two attributes, exchanged in what is told.
    pair
        (2, batch) which entity is asked about, and which it is exchanged with.
    answers
        (batch, entity) the first token of each attribute.
    entities, attributes
        (entity, width) their positions.
    context
        How many tokens the facts have.
    """

    texts: list[str]
    ids: dict[str, Int[Tensor, "batch pos"]]
    pair: Int[Tensor, "2 batch"]
    answers: Int[Tensor, "batch entity"]
    entities: Int[Tensor, "entity width"]
    attributes: Int[Tensor, "entity width"]
    context: int

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, rows: Tensor) -> Drawn:
        """Some of the texts."""
        return replace(
            self,
            texts=[self.texts[row] for row in rows.tolist()],
            ids={name: ids[rows] for name, ids in self.ids.items()},
            pair=self.pair[:, rows],
            answers=self.answers[rows],
        )


def drawn(model: Model, scene: Scene, entities: int, behind: int, count: int, seed: int) -> Drawn:
    """So many texts that the tokenizer cuts alike, the commonest way that it has.

    With ``behind``, positions of a word have so many tokens behind it too.

    Raises
    ------
    TokensError
        If there are fewer than four.
    """
    rng = random.Random(f"binding {seed}")
    pairs: dict[str, list[Pair]] = {"entities": [], "attributes": []}
    orders = []
    for _ in range(TRIES * count):
        who, what = (rng.sample(list(words), entities) for words in (scene.entities, scene.attributes))
        asked, other = rng.sample(range(entities), 2)
        orders.append((asked, other))
        plain = scene.text(who, what, who[asked])
        answers = [f" {word}" for word in what]
        for name, exchanged in (
            ("entities", scene.text(_exchanged(who, asked, other), what, who[asked])),
            ("attributes", scene.text(who, _exchanged(what, asked, other), who[asked])),
        ):
            pairs[name].append(Pair.of(plain, exchanged, answers, corrupt_target=answers[other]))
    tokenizer = tokenizer_of(model)
    by_name = {name: {id(one.pair.clean): one for one in aligned(some, tokenizer)} for name, some in pairs.items()}
    both = [
        (order, by_name["entities"][key], by_name["attributes"][key])
        for order, key in ((order, id(pair.clean)) for order, pair in zip(orders, pairs["entities"], strict=True))
        if key in by_name["entities"] and key in by_name["attributes"] and _even(by_name["entities"][key], entities)
    ]
    layouts = Counter(_layout(one) for _, one, _ in both)
    commonest = layouts.most_common(1)[0][0] if layouts else None
    both = [row for row in both if _layout(row[1]) == commonest][:count]
    if len(both) < 4:
        raise TokensError(
            f"{len(both)} of {TRIES * count} texts are cut alike, with attributes of one token: expected 4 or more. "
            "Give a scene of words that this tokenizer has"
        )
    first = both[0][1].spans
    spans = {
        name: torch.tensor(
            [range(first[f"{name}{i}"][0], first[f"{name}{i}"][1] + 1 + behind) for i in range(entities)]
        )
        for name in ("entity", "attribute")
    }
    return Drawn(
        [one.pair.clean.text for _, one, _ in both],
        {
            "plain": torch.tensor([one.clean for _, one, _ in both]),
            "entities": torch.tensor([one.corrupt for _, one, _ in both]),
            "attributes": torch.tensor([one.corrupt for _, _, one in both]),
        },
        torch.tensor([pair for pair, _, _ in both]).T,
        torch.tensor([one.target for _, one, _ in both]),
        spans["entity"],
        spans["attribute"],
        first["stop"][1] + 1,
    )


def _exchanged(words: list[str], i: int, j: int) -> list[str]:
    words = list(words)
    words[i], words[j] = words[j], words[i]
    return words


def _layout(one: Encoded) -> tuple[int, tuple[tuple[str, tuple[int, int]], ...]]:
    return len(one.clean), tuple(sorted(one.spans.items()))


def _even(one: Encoded, entities: int) -> bool:
    """Whether entities are as long as one another, and attributes too."""
    widths = lambda name: {b - a for a, b in (one.spans[f"{name}{i}"] for i in range(entities))}  # noqa: E731
    return len(widths("entity")) == len(widths("attribute")) == 1
