"""A fact to be written into a model, with all that the edit is judged by.

prompt.format(subject) -> true  becomes  prompt.format(subject) -> new
paraphrases -> new,      neighbors -> what they are,      portability -> what follows from the new fact
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from caseback.errors import EditError, did_you_mean
from caseback.model.arguments import checked
from caseback.tasks.facts import RELATIONS

Question = tuple[str, str]
"""A text and its own answer."""


@checked
@dataclass(frozen=True)
class Fact:
    """A subject, what is said of it, and the answer that is to be given from now on.

    Attributes
    ----------
    prompt
        A text that ends where the answer begins. ``{}`` stands for the subject, or the subject itself stands there
        once.
    subject
        What the fact is about.
    new
        The answer that the model is to give.
    true
        The answer that it gives now, against which ``new`` is scored; None where it is not known.
    paraphrases
        Other texts with the same answer.
    neighbors
        Texts about other subjects, each with its own answer, which is to stay. In CounterFact the subjects have the
        same object, so the answer is ``true``; in zsRE they are questions on anything else.
    portability
        Texts whose answer follows from the new fact, each with that answer: aliases, inverses, one step further.
    openings
        Beginnings of texts about the subject, for generation.
    references
        Texts about things that have the new object, which generated text is compared with.
    name
        For labels.
    """

    prompt: str
    subject: str
    new: str
    true: str | None = None
    paraphrases: Sequence[str] = ()
    neighbors: Sequence[Question] = ()
    portability: Sequence[Question] = ()
    openings: Sequence[str] = ()
    references: Sequence[str] = ()
    name: str = ""

    def __post_init__(self) -> None:
        if not self.subject.strip() or not self.new.strip() or (self.true is not None and not self.true.strip()):
            raise EditError(f"the fact {self.prompt!r} has an empty subject or answer: expected text")
        if self.true is not None and spaced(self.true) == spaced(self.new):
            raise EditError(f"{self.prompt!r}: the new answer is the present one, {self.new!r}: expected another")
        if self.prompt.count("{}") > 1:
            raise EditError(f"{self.prompt!r} has a place for the subject {self.prompt.count('{}')} times: expected 1")
        if "{}" not in self.prompt:
            times = self.prompt.count(self.subject)
            if times != 1:
                raise EditError(
                    f"the subject {self.subject!r} occurs {times} times in {self.prompt!r}: expected once, or {{}} in "
                    "its place"
                )
            object.__setattr__(self, "prompt", self.prompt.replace(self.subject, "{}"))
        for name in ("paraphrases", "openings", "references"):
            if not all(isinstance(text, str) and text.strip() for text in _listed(self, name)):
                raise EditError(f"{name} of {self.subject!r} are {getattr(self, name)!r}: expected texts")
        for name in ("neighbors", "portability"):
            pairs = tuple(tuple(pair) if isinstance(pair, list) else pair for pair in _listed(self, name))
            if not all(isinstance(pair, tuple) and len(pair) == 2 and all(map(_is_text, pair)) for pair in pairs):
                raise EditError(
                    f"{name} of {self.subject!r} are {getattr(self, name)!r}: expected pairs of a text and its answer"
                )
            object.__setattr__(self, name, pairs)

    @property
    def text(self) -> str:
        """The prompt with the subject in it."""
        return self.prompt.replace("{}", self.subject)

    @property
    def span(self) -> tuple[int, int]:
        """The characters of ``text`` that are the subject."""
        start = self.prompt.index("{}")
        return start, start + len(self.subject)

    def __str__(self) -> str:
        return f"{self.text} ->{spaced(self.new)}"

    def fingerprint_parts(self) -> list[Any]:
        """What a file or a job depends on."""
        return list(self.as_data().items())

    def as_data(self) -> dict[str, Any]:
        """As JSON data; ``Fact(**data)`` is the fact again."""
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: _plain(value) for name, value in data.items() if value not in (None, ())}


def _listed(fact: Fact, name: str) -> tuple[Any, ...]:
    value = getattr(fact, name)
    if isinstance(value, str):
        raise EditError(f"{name} of {fact.subject!r} is one text: expected a list of them")
    object.__setattr__(fact, name, tuple(value))
    return tuple(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _plain(value: Any) -> Any:
    return [_plain(one) for one in value] if isinstance(value, tuple | list) else value


def spaced(answer: str) -> str:
    """An answer with the space between it and its prompt.

    Examples
    --------
    >>> spaced("Rome"), spaced(" Rome")
    (' Rome', ' Rome')
    """
    return answer if answer[:1].isspace() else f" {answer}"


@checked
def relation_facts(
    relation: str | Mapping[str, Any],
    *,
    count: int | None = None,
    neighbors: int = 10,
    wordings: Sequence[str] | None = None,
    seed: int = 0,
) -> list[Fact]:
    """Requests made of a relation: other wordings as paraphrases, other subjects as neighbors.

    The new answer is drawn from the relation's other objects. Neighbors are subjects with the same object, as
    CounterFact has them; in a relation of one to one, where there are none, other subjects with their own objects.

    Parameters
    ----------
    relation
        One of ``caseback.tasks.facts.RELATIONS`` by name, or the JSON data of a relation as the relations dataset
        (Hernandez et al. 2024) has it, with ``samples`` and ``prompt_templates``.
    count
        How many facts; all by default.
    neighbors
        The most neighbors of a fact.
    wordings
        Texts with ``{}``, of which the first is edited and the others are paraphrases; by default the relation's own.
    seed
        Same seed, same result. It draws the new answers and the neighbors.

    Raises
    ------
    EditError
        For an unknown relation, fewer facts than asked, fewer than no neighbors, or data of another layout.

    Examples
    --------
    >>> one = relation_facts("language", count=1)[0]
    >>> one.prompt, one.paraphrases[0] == f"The language of {one.subject} is"
    ('The people of {} speak', True)
    """
    pairs, own = _relation(relation)
    texts = list(own if wordings is None else wordings)
    if not texts or any(text.count("{}") != 1 for text in texts):
        raise EditError(f"the wordings are {texts!r}: expected texts with {{}} once each")
    objects = sorted({attribute for _, attribute in pairs})
    if len(objects) < 2:
        raise EditError(f"this relation has {len(objects)} object: expected two or more, one being the new answer")
    wanted = len(pairs) if count is None else count
    if not 1 <= wanted <= len(pairs):
        raise EditError(f"{wanted} facts were asked for, and this relation has {len(pairs)}")
    if neighbors < 0:
        raise EditError(f"neighbors={neighbors}: expected 0 or more")
    rng = random.Random(seed)
    facts = []
    for subject, true in rng.sample(pairs, len(pairs))[:wanted]:
        new = rng.choice([one for one in objects if one != true])
        same = [pair for pair in pairs if pair[1] == true and pair[0] != subject]
        near = same or [pair for pair in pairs if pair[1] not in (true, new)]
        near = rng.sample(near, min(neighbors, len(near)))
        facts.append(
            Fact(
                texts[0],
                subject,
                new,
                true,
                [text.replace("{}", subject) for text in texts[1:]],
                [(texts[0].replace("{}", other), answer) for other, answer in near],
            )
        )
    return facts


def _relation(relation: str | Mapping[str, Any]) -> tuple[list[Question], list[str]]:
    if isinstance(relation, str):
        if relation not in RELATIONS:
            raise EditError(f"no relation is called {relation!r}. {did_you_mean(relation, RELATIONS, most=20)}")
        known = RELATIONS[relation]
        pairs = [(subject, attribute) for subject, attribute in known.facts]
        return pairs, [text.replace("{subject}", "{}") for text in known.wordings]
    try:
        pairs = [(str(sample["subject"]), str(sample["object"])) for sample in relation["samples"]]
        return list(dict.fromkeys(pairs)), list(relation["prompt_templates"])
    except (KeyError, TypeError) as error:
        raise EditError(
            f"this relation lacks {error}: expected samples with subject and object, and prompt_templates"
        ) from None
