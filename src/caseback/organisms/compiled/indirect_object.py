"""Indirect object identification by hand (PRIMER 5.4.4): "When Mary and John went …, John gave it to" -> Mary.

Wang et al. 2023's circuit, head by head: what it attends to, with scores in nats (it rests on <bos>), and its write.

    L0H0 previous token      12 one place back                        the name there
    L0H1 duplicate token     12 same name, -24 itself, 6 <bos>        1/2 of its place (from S2: that of S1)
    L1H0 induction           12 right after the same name, 6 <bos>    1/2 of the place before it
    L2H0 S-inhibition        from "to": 12 duplicates, 4 <bos>        the name there (token signal)
    L2H1 S-inhibition        the same                                 both its places (position signal)
    L3H0, L3H1 name movers   from "to": 12 names, 4 <bos>, less       twice the name there
                             2 inhibited name, 4 inhibited places
    L4H0 negative mover      12 the name predicted so far, 3 <bos>    minus the name there
    L4H1 backup mover        as name movers, and 16 <bos> where       three times the name there
                             both have written

S thus gets e^-6 times the attention of IO; e^-2 times where only the token signal is left, e^-4 where only the position
signal is. Nothing is saturated: heads attend to the wrong places by fractions of a percent, as trained ones do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from caseback.errors import CasebackError
from caseback.model.anatomy.sites import Site
from caseback.model.circuit import Circuit, Node
from caseback.organisms.compiled.draft import ALWAYS, Draft
from caseback.organisms.compiled.organism import BOS, Organism, Variable

NAMES = ("Mary", "John", "Tom", "Kate", "Anna", "Paul", "Lucy", "Mark")
TEMPLATES = (
    "When {A} and {B} went to the store , {S2} gave a drink to",
    "Then , {A} and {B} had a long day at school . Later {S2} sent a letter to",
    "After {A} met {B} at the station , {S2} gave the ticket to",
    "Friends {A} and {B} found a ball . {S2} gave it to",
    "{A} was with {B} at home when {S2} read to",
)
ORDERS = ("ABBA", "BABA")
ROLES: dict[str | Node, str] = {
    "L0H0": "previous token",
    "L0H1": "duplicate token",
    "L1H0": "induction",
    "L2H0": "S-inhibition (token)",
    "L2H1": "S-inhibition (position)",
    "L3H0": "name mover",
    "L3H1": "name mover",
    "L4H0": "negative name mover",
    "L4H1": "backup name mover",
}
ACTS_AT = {
    "L0H0": "S1+1",
    "L0H1": "S2",
    "L1H0": "S2",
    "L2H0": "end",
    "L2H1": "end",
    "L3H0": "end",
    "L3H1": "end",
    "L4H0": "end",
    "L4H1": "end",
}
EDGES = (
    "pos_embed -> L0H0.q, pos_embed -> L0H0.k, embed -> L0H0.v",
    "embed -> L0H1.q, pos_embed -> L0H1.q, embed -> L0H1.k, pos_embed -> L0H1.k, pos_embed -> L0H1.v",
    "embed -> L1H0.q, L0H0 -> L1H0.k, embed -> L1H0.k, pos_embed -> L1H0.v",
    "embed -> L2H0.q, L0H1 -> L2H0.k, L1H0 -> L2H0.k, embed -> L2H0.k, embed -> L2H0.v",
    "embed -> L2H1.q, L0H1 -> L2H1.k, L1H0 -> L2H1.k, embed -> L2H1.k",
    "L0H1 -> L2H1.v, L1H0 -> L2H1.v, pos_embed -> L2H1.v",
    *(
        f"embed -> {mover}.q, L2H0 -> {mover}.q, L2H1 -> {mover}.q, embed -> {mover}.k, pos_embed -> {mover}.k, "
        f"embed -> {mover}.v, {mover} -> logits"
        for mover in ("L3H0", "L3H1", "L4H1")
    ),
    "L3H0 -> L4H0.q, L3H1 -> L4H0.q, embed -> L4H0.k, embed -> L4H0.v, L4H0 -> logits",
    "L3H0 -> L4H1.q, L3H1 -> L4H1.q",
)


def indirect_object(
    names: Sequence[str] = NAMES, templates: Sequence[str] = TEMPLATES, *, gain: float = 1.0
) -> Organism:
    """A five-layer, attention-only model that answers who is given something, through known heads.

    It reads any sentence of its words in which two names occur and one of them occurs again, and answers at each "to"
    after the second mention. The logit of the indirect object leads by about 3, as in GPT-2 small. Silencing both
    name movers leaves it there: the negative mover, which suppresses what they predict, falls silent, and the backup
    wakes; silencing one half-wakes it. Of each pair of parts that do the same (duplicate token and induction, token
    and position signal, the two movers), one suffices.

    Parameters
    ----------
    names
        At least two, none of which is a word of a template.
    templates
        Sentences of words separated by spaces, with ``{A}``, ``{B}`` and ``{S2}``, ending in ``to``.
    gain
        What the logits are multiplied by.

    Raises
    ------
    CasebackError
        For too few names, or a template without its places or with a name in it.

    References
    ----------
    Wang et al. 2023, "Interpretability in the wild".

    Examples
    --------
    >>> prompt = "Friends John and Mary found a ball . John gave it to"
    >>> indirect_object().predict([prompt.split()])[0][-1]
    'Mary'
    """
    words = [*names, *_fillers(names, templates)]
    length = max(len(template.split()) for template in templates)
    draft = _write(names, words, length, gain)
    places = tuple(range(1, length + 1))
    return Organism(
        name="indirect_object",
        model=draft.model(),
        function=lambda prompt: receivers(prompt, names),
        circuit=Circuit.of(
            *(edge for row in EDGES for edge in row.split(", ")),
            roles=ROLES,
            acts_at=ACTS_AT,
            citation="Wang et al. 2023",
        ),
        variables=(
            Variable("previous name", Site("resid_post", 0), draft.basis("before"), tuple(names)),
            Variable("place of the first mention", Site("resid_post", 1), draft.basis("first at"), places),
            Variable("inhibited name", Site("resid_post", 2), draft.basis("inhibited"), tuple(names)),
            Variable("inhibited places", Site("resid_post", 2), draft.basis("inhibited at"), places),
            Variable("receiver, by the movers", Site("resid_post", 3), draft.basis("answer"), tuple(names)),
            Variable("receiver", Site("resid_post", 4), draft.basis("answer"), tuple(names)),
        ),
        inputs=tuple(words),
        max_length=length,
        about="Two names, one of them twice: who is given something? Answered at the last word, 'to'.",
    )


def prompts(
    names: Sequence[str] = NAMES, templates: Sequence[str] = TEMPLATES, orders: Sequence[str] = ORDERS
) -> Iterator[tuple[list[str], dict[str, int]]]:
    """Every prompt: each template, order and ordered pair of names.

    Yields
    ------
    The words, and the tokens at which ``IO``, ``S1``, ``S1+1``, ``S2`` and ``end`` stand; ``<bos>`` is token 0.

    Examples
    --------
    >>> words, at = next(prompts(orders=["BABA"]))
    >>> " ".join(words), at["IO"], at["S1"], at["end"]
    ('When John and Mary went to the store , John gave a drink to', 4, 2, 14)
    """
    for template in templates:
        parts = template.split()
        for order in orders:
            io, s = ("{A}", "{B}") if order == "ABBA" else ("{B}", "{A}")
            at = {"IO": parts.index(io), "S1": parts.index(s), "S1+1": parts.index(s) + 1, "S2": parts.index("{S2}")}
            at = {place: 1 + i for place, i in at.items()} | {"end": len(parts)}
            for receiver in names:
                for giver in names:
                    if giver != receiver:
                        filled = {io: receiver, s: giver, "{S2}": giver}
                        yield [filled.get(part, part) for part in parts], at


def receivers(prompt: Sequence[str], names: Sequence[str] = NAMES) -> list[str | None]:
    """The name mentioned once, at each "to" after two names of which the other was mentioned twice; None elsewhere.

    Examples
    --------
    >>> receivers("John met Mary . John gave it to".split())[-1]
    'Mary'
    """
    answers: list[str | None] = []
    for i, word in enumerate(prompt):
        mentioned = [name for name in prompt[: i + 1] if name in names]
        once = [name for name in mentioned if mentioned.count(name) == 1]
        answers.append(once[0] if word == "to" and len(mentioned) == 3 and len(once) == 1 else None)
    return answers


def _fillers(names: Sequence[str], templates: Sequence[str]) -> list[str]:
    if len(set(names)) < 2:
        raise CasebackError(f"names {list(names)}: expected at least two, one who gives and one who is given")
    for template in templates:
        parts = template.split()
        if sorted(parts.count(place) for place in ("{A}", "{B}", "{S2}")) != [1, 1, 1] or parts[-1] != "to":
            raise CasebackError(f"template {template!r}: expected {{A}}, {{B}}, {{S2}} once each, and 'to' at its end")
        if parts.index("{S2}") < max(parts.index("{A}"), parts.index("{B}")):
            raise CasebackError(f"template {template!r}: expected {{S2}} behind {{A}} and {{B}}")
        clash = sorted(set(parts) & set(names))
        if clash:
            raise CasebackError(f"template {template!r} says the name {clash[0]!r}: leave names to {{A}} and {{B}}")
    words = {word for template in templates for word in template.split()} - {"{A}", "{B}", "{S2}"}
    return sorted(words)


def _write(names: Sequence[str], words: Sequence[str], length: int, gain: float) -> Draft:
    n, fillers = len(names), [word for word in words if word not in names]
    draft = Draft(
        words,
        length,
        # nothing reads a filler's identity; it is there so that the words differ, as in any trained model
        {"name": n, "filler": len(fillers), "is to": 1, "is bos": 1, "place": length, "before": n}
        | {"first at": length, "inhibited": n, "inhibited at": length, "answer": n},
    )
    draft.embed("name", names)
    draft.embed("filler", fillers)
    draft.embed("is to", ["to"])
    draft.embed("is bos", [BOS])
    draft.place("place", range(1, length + 1))
    draft.unembed("answer", names, gain)
    name, place, to, answer = draft["name"], draft["place"], draft["is to"], draft["answer"]
    is_name, duplicated, written = (draft[part].sum(1, keepdim=True) for part in ("name", "first at", "answer"))
    further = torch.eye(length).roll(1, 1)
    further[-1] = 0

    def rests(nats: float) -> tuple[None, torch.Tensor, float]:
        return ALWAYS, draft["is bos"], nats

    draft.head(0, [(place @ further.T, place, 12.0)], [(name, draft.into("before"))])
    draft.head(
        0,
        [(name, name, 12.0), (place, place, -24.0), rests(6.0)],
        [(place, draft.into("first at", 0.5))],
    )
    draft.head(1, [(name, draft["before"], 12.0), rests(6.0)], [(place @ further.T, draft.into("first at", 0.5))])
    duplicates = [(to, duplicated, 12.0), rests(4.0)]
    draft.head(2, duplicates, [(name, draft.into("inhibited"))])
    draft.head(2, duplicates, [(draft["first at"] + place, draft.into("inhibited at"))])
    moves = [(to, is_name, 12.0), (draft["inhibited"], name, -2.0), (draft["inhibited at"], place, -4.0), rests(4.0)]
    draft.head(3, moves, [(name, draft.into("answer", 2.0))])
    draft.head(3, moves, [(name, draft.into("answer", 2.0))])
    draft.head(4, [(answer, name, 12.0 / 4), rests(3.0)], [(name, draft.into("answer", -1.0))])
    draft.head(4, [*moves, (written, draft["is bos"], 16.0 / 4)], [(name, draft.into("answer", 3.0))])
    return draft
