"""Examples in which entities are swapped and one of their attributes is asked for: RAVEL's data (PRIMER 3.2.36).

    cause       "Paris is in the country of", Vienna swapped in:   target  Austria       the attribute of the source
    isolation   "people in Paris speak",      Vienna swapped in:   target  French        another one, of the base

Base and source differ in what is asked for, in both kinds: a swap that moves everything isolates nothing, and one that
moves nothing causes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.budget import limit
from caseback.localize.abstraction.alignment import At
from caseback.localize.abstraction.interchanges import Interchanges
from caseback.model.arguments import checked
from caseback.model.prompts.places import placed
from caseback.model.running.answer_metrics import answer_ids
from caseback.model.running.model import Model


@dataclass(frozen=True, eq=False)
class EntityExamples:
    """Interchanges of entities.

    Attributes
    ----------
    data
        The examples, cause and isolation together.
    attribute
        What is to be moved.
    asked
        Which attribute each example asks for.
    base, source
        The entities.
    pos, source_pos
        The last token of the entity in the base and in the source.
    """

    data: Interchanges
    attribute: str
    asked: Sequence[str]
    base: Sequence[str]
    source: Sequence[str]
    pos: Int[Tensor, " batch"]
    source_pos: Int[Tensor, " batch"]

    def __len__(self) -> int:
        return len(self.data)

    def at(self, site: str, layer: int | None = None) -> At:
        """The entity's last token at a site."""
        return At(site, layer, pos=self.pos, source_pos=self.source_pos)

    def of(self, rows: Sequence[int]) -> EntityExamples:
        """Some of the examples."""
        take = {name: [getattr(self, name)[i] for i in rows] for name in ("asked", "base", "source")}
        at = torch.tensor(rows, dtype=torch.long)
        return replace(self, data=self.data[at], pos=self.pos[at], source_pos=self.source_pos[at], **take)

    def split(self, held_out: float = 0.3, seed: int = 0) -> tuple[EntityExamples, EntityExamples]:
        """Two parts that have no entity in common; examples with one entity of each are left out.

        Raises
        ------
        CasebackError
            Where one of the parts has no cause examples, or none of isolation.
        """
        names = sorted({*self.base, *self.source})
        order = np.random.default_rng(seed).permutation(len(names))
        reserved = {names[i] for i in order[: round(held_out * len(names))]}
        sides = [[int(one in reserved) for one in (b, s)] for b, s in zip(self.base, self.source, strict=True)]
        rows = [[i for i, pair in enumerate(sides) if pair == [side, side]] for side in (0, 1)]
        for part in rows:
            if not 0 < sum(self.asked[i] == self.attribute for i in part) < len(part):
                raise CasebackError(
                    f"{len(names)} entities in two parts leave one without examples: give more entities"
                )
        return self.of(rows[0]), self.of(rows[1])


@checked
def entity_examples(
    model: Model,
    entities: Mapping[str, Mapping[str, str]],
    templates: Mapping[str, str],
    attribute: str,
    *,
    count: int = 200,
    known: bool = True,
    seed: int = 0,
) -> EntityExamples:
    """Draw examples that swap entities: half ask for an attribute, half for the others.

    Parameters
    ----------
    model
        The model. Its tokenizer is asked, and with ``known`` it answers every question once.
    entities
        Each entity's attributes, as words.
    templates
        For each attribute a text with ``{entity}`` that asks for it: what follows is a space and the word.
    attribute
        What is to be moved.
    count
        Examples at most, half of each kind.
    known
        Take only what the model answers right, as the benchmark does: the first token of the word.
    seed
        Same seed, same result. It draws the pairs.

    Returns
    -------
    EntityExamples
        Base and source differ in the attribute that is asked for; of isolation examples, also in the one that is moved.

    Raises
    ------
    CasebackError
        For an attribute without a template, fewer than two attributes, a text without ``{entity}``, and where the model
        knows too little: no pair of entities that differ.
    OutOfRange
        For fewer than two examples.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.organisms.prose.world import RESIDENTS
    >>> people = {f"{who.name} {who.surname}": {"job": who.job, "city": who.city} for who in RESIDENTS}
    >>> asked = {"job": "{entity} earns money as a", "city": "The home of {entity} is in"}
    >>> examples = entity_examples(cb.load("meadow"), people, asked, "job", count=40)
    >>> len(examples), sorted(set(examples.asked))
    (40, ['city', 'job'])
    """
    if attribute not in templates or len(templates) < 2:
        raise CasebackError(f"templates are of {list(templates)}: expected {attribute!r}, and one more attribute")
    if wrong := [text for text in templates.values() if text.count("{entity}") != 1]:
        raise CasebackError(f"template {wrong[0]!r}: expected a text with {{entity}} once")
    if count < 2:
        raise OutOfRange(f"count is {count}: expected 2 or more")
    answers = {one: _answers(model, entities, templates[one], one, known) for one in templates}
    draw = np.random.default_rng(seed)
    others = [one for one in templates if one != attribute]
    half = count // 2
    drawn = _pairs(draw, answers[attribute], [], half, attribute)
    for i, one in enumerate(others):
        share = half // len(others) + (i < half % len(others))
        moved = {name: about[attribute] for name, about in entities.items() if attribute in about}
        drawn += _pairs(draw, answers[one], [moved], share, one)
    asked, base, source = ([row[i] for row in drawn] for i in range(3))
    prompts = [
        [templates[a].replace("{entity}", name) for a, name in zip(asked, side, strict=True)] for side in (base, source)
    ]
    tokens = [model.tokens(texts) for texts in prompts]
    places = [
        torch.tensor([placed(name, one[i : i + 1])[0][-1] for i, name in enumerate(side)])
        for one, side in zip(tokens, (base, source), strict=True)
    ]
    of = lambda side, i: answers[asked[i]][side[i]]  # noqa: E731
    target = [of(source if asked[i] == attribute else base, i) for i in range(len(drawn))]
    own = [of(base, i) for i in range(len(drawn))]
    ids, base_ids = (torch.tensor(some, device=tokens[0].ids.device) for some in (target, own))
    data = Interchanges(tokens[0], {"entity": tokens[1]}, ids, base_ids)
    return EntityExamples(data, attribute, asked, base, source, *places)


def _answers(
    model: Model, entities: Mapping[str, Mapping[str, str]], template: str, attribute: str, known: bool
) -> dict[str, int]:
    """The first token of each entity's word, where it has one that the model knows."""
    names = [name for name, about in entities.items() if about.get(attribute)]
    if not names:
        raise CasebackError(f"no entity has the attribute {attribute!r}")
    texts = [template.replace("{entity}", name) for name in names]
    words = [f" {entities[name][attribute]}" for name in names]
    first = [ids[0] for ids in answer_ids(words, len(words), model.tokenizer, model.d_vocab)]
    if known:
        size = limit("interchange_prompts")
        answered = [word for i in range(0, len(texts), size) for word in _next_words(model, texts[i : i + size])]
        first = [own if own == word else -1 for own, word in zip(first, answered, strict=True)]
    return {name: own for name, own in zip(names, first, strict=True) if own >= 0}


def _next_words(model: Model, texts: Sequence[str]) -> list[int]:
    tokens = model.tokens(list(texts))
    logits = model.run(tokens).logits
    return logits[torch.arange(len(tokens)), tokens.column(-1).to(logits.device)].argmax(-1).tolist()


def _pairs(
    draw: np.random.Generator,
    answers: Mapping[str, int],
    also: Sequence[Mapping[str, str]],
    count: int,
    attribute: str,
) -> list[tuple[str, str, str]]:
    """Pairs of entities that differ in what is asked for, and in what ``also`` says of them."""
    names = list(answers)
    pairs = [(i, j) for i in range(len(names)) for j in range(len(names)) if answers[names[i]] != answers[names[j]]]
    for other in also:
        pairs = [(i, j) for i, j in pairs if other.get(names[i]) != other.get(names[j])]
    if not pairs:
        raise CasebackError(
            f"{len(names)} entities whose {attribute} the model knows, and no two of them differ: give others, or "
            "known=False"
        )
    some = draw.permutation(len(pairs))[:count]
    return [(attribute, names[pairs[i][0]], names[pairs[i][1]]) for i in some]
