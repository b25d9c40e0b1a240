"""Gadgets: the smallest models that show what one method sees and another misses (PRIMER 3.2.6, 3.2.12 … 3.2.20).

Each takes one or two bits and answers with a bit after them: "1 0 =" -> "1". The metric for all of them is
``logit_diff("1", "0")``.

    gate         a, b each fetched by one head, MLP: relu(a + b - 1) - 1/2                     and
                                                     relu(a + b) - relu(a + b - 1) - 1/2       or
    backup       A writes the answer; B of the next layer writes it where it reads no write of A
    erasure      A writes v, B of the next layer reads it and writes -v; C writes the answer
    saturation   where a head looks depends on its query, by so much that the softmax is flat on both sides
    cancellation head A writes a, MLP writes -relu(a) + 1/4: flat where a is positive, though a matters
    illusion     a bit lies along a direction that nothing reads, and one that is read carries nothing
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from caseback.model.anatomy.sites import Site
from caseback.model.circuit import Circuit, Node
from caseback.organisms.compiled.draft import ALWAYS, SHARP, Draft
from caseback.organisms.compiled.organism import BOS, Organism, Variable

BITS = ("0", "1")


def and_gate() -> Organism:
    """Conjunction, "a b =" -> a and b, each bit carried by its own head.

    Noising either bit shows it, denoising one alone shows neither (PRIMER 3.2.12).

    References
    ----------
    Heimersheim & Nanda 2024, "How to use and interpret activation patching".

    Examples
    --------
    >>> and_gate().predict([["1", "1", "="], ["1", "0", "="]])[1][-1]
    '0'
    """
    return _gate("and_gate", "and", [(1.0, -1.0)], lambda a, b: a and b)


def or_gate() -> Organism:
    """Disjunction, "a b =" -> a or b, each bit carried by its own head.

    Noising one bit alone shows neither, denoising either shows it (PRIMER 3.2.12).

    Examples
    --------
    >>> or_gate().predict([["0", "0", "="], ["1", "0", "="]])[1][-1]
    '1'
    """
    return _gate("or_gate", "or", [(1.0, 0.0), (-1.0, -1.0)], lambda a, b: a or b)


def _gate(
    name: str, operation: str, ramps: Sequence[tuple[float, float]], truth: Callable[[int, int], int]
) -> Organism:
    """A gate whose MLP adds ``weight * relu(a + b + bias)`` for each ramp."""
    draft = _draft(2, {"a": 1, "b": 1, "answer": 1})
    draft.unembed("answer", BITS, torch.tensor([[-1.0], [1.0]]))
    bit = draft["bit"][:, 1:]
    for i, part in enumerate("ab"):
        draft.head(0, [(draft["is ="], draft["place"][:, [i]], SHARP)], [(bit, draft.into(part))])
    weights, biases = torch.tensor(ramps).T
    reads = (draft["a"] + draft["b"]).expand(-1, len(ramps))
    draft.neurons(0, reads, biases, weights[:, None] * draft.into("answer"))
    draft.constant(0, -draft.into("answer", 0.5)[0])
    heads: dict[str | Node, str] = {"L0H0": "carries the first bit", "L0H1": "carries the second bit"}
    edges = [e for h in heads for e in (*_fetches(h, "pos_embed"), f"{h} -> MLP 0")]
    return _organism(
        name,
        draft,
        truth,
        Circuit.of(*edges, "MLP 0 -> logits", roles={**heads, "MLP 0": f"{operation} gate"}),
        {
            "the first bit": (Site("resid_mid", 0), "a"),
            "the second bit": (Site("resid_mid", 0), "b"),
            f"a {operation} b, less a half": (Site("resid_post", 0), "answer"),
        },
        f"The two bits are carried to the end by a head each, and an MLP is their {operation} gate.",
    )


def backup_head() -> Organism:
    """A head, "a =" -> a, and a later one that does the same where the first has not.

    The first head's direct effect is 1 and the total effect of silencing it 0, hence the self-repair 1
    (PRIMER 3.2.18). The second head writes nothing in any intact run.

    References
    ----------
    McGrath et al. 2023, "The Hydra effect"; Rushing & Nanda 2024.

    Examples
    --------
    >>> from caseback.model.running.edits import Zero
    >>> model = backup_head().model
    >>> logits = model.run(model.tokens("1 ="), edits=[Zero("z", layer=0, head=0)]).logits[0, -1]
    >>> model.tokenizer.convert_ids_to_tokens(int(logits.argmax()))
    '1'
    """
    draft = _draft(1, {"answer": 2})
    draft.unembed("answer", BITS)
    copies = [(draft["bit"], draft.into("answer"))]
    end, bits, rest = draft["is ="], draft["bit"].sum(1, keepdim=True), draft["is bos"]
    draft.head(0, [(end, bits, SHARP)], copies)
    written = draft["answer"].sum(1, keepdim=True)
    draft.head(1, [(end, bits, SHARP), (written, rest, 2 * SHARP)], copies)
    heads: dict[str | Node, str] = {"L0H0": "writes the bit", "L1H0": "backup"}
    edges = [e for h in heads for e in (*_fetches(h, "embed"), f"{h} -> logits")]
    return _organism(
        "backup_head",
        draft,
        lambda a: a,
        Circuit.of(*edges, "L0H0 -> L1H0.q", roles=heads),
        {"the bit": (Site("resid_post", 0), "answer")},
        "A head copies the bit to the end; a later head rests on <bos> while the answer is there, and copies it else.",
        by_value=True,
    )


def erasure() -> Organism:
    """A write that is erased, "a b =" -> b: one head writes a, a later one takes it back, another writes b.

    Logit attribution credits the first head with a, although silencing it changes nothing (PRIMER 3.2.6).

    References
    ----------
    Dao et al. 2023, "An adversarial example for direct logit attribution".

    Examples
    --------
    >>> erasure().predict([["1", "0", "="]])[0][-1]
    '0'
    """
    draft = _draft(2, {"written": 2, "answer": 2})
    draft.unembed("written", BITS)
    draft.unembed("answer", BITS)
    end, at = draft["is ="], draft["place"]
    for i, part in enumerate(("written", "answer")):
        draft.head(0, [(end, at[:, [i]], SHARP)], [(draft["bit"], draft.into(part))])
    draft.head(1, [(end, end, SHARP)], [(draft["written"], draft.into("written", -1.0))])
    roles: dict[str | Node, str] = {
        "L0H0": "writes the first bit",
        "L0H1": "writes the second bit",
        "L1H0": "erases the first bit",
    }
    edges = [e for h in ("L0H0", "L0H1") for e in (*_fetches(h, "pos_embed"), f"{h} -> logits")]
    erases = ["embed -> L1H0.q", "embed -> L1H0.k", "L0H0 -> L1H0.v", "L1H0 -> logits"]
    return _organism(
        "erasure",
        draft,
        lambda a, b: b,
        Circuit.of(*edges, *erases, roles=roles),
        {
            "the first bit, until erased": (Site("resid_post", 0), "written"),
            "the second bit": (Site("resid_post", 0), "answer"),
        },
        "The second bit is the answer; the first is written for it and erased again.",
        by_value=True,
    )


def saturated_query(sharpness: float = 7.6) -> Organism:
    """A flat softmax, "a b first" -> a and "a b second" -> b: the query decides where to look by a wide margin.

    Patching the query of "first" to that of "second" between different bits moves ``logit("1")`` by
    tanh(sharpness / 2) = 0.999, but its gradient says 2 sharpness e^-sharpness, 0.008 (PRIMER 3.2.16).

    Parameters
    ----------
    sharpness
        The difference of the two scores.

    References
    ----------
    Kramár et al. 2024, "AtP*".

    Examples
    --------
    >>> saturated_query().predict([["1", "0", "first"], ["1", "0", "second"]])[1][-1]
    '0'
    """
    asked = ("first", "second")
    draft = _draft(2, {"asked": 2, "answer": 2}, ends=asked)
    draft.embed("asked", asked)
    draft.unembed("answer", BITS)
    elsewhere = (draft["is bos"] + draft["is ="], -SHARP)
    draft.head(
        0,
        [(draft["asked"], draft["place"], sharpness), (ALWAYS, *elsewhere)],
        [(draft["bit"], draft.into("answer"))],
    )
    return _organism(
        "saturated_query",
        draft,
        lambda *bits, end: bits[asked.index(end)],
        Circuit.of(*_fetches("L0H0", "pos_embed"), "embed -> L0H0.k", "L0H0 -> logits", roles={"L0H0": "looks"}),
        {"the bit asked for": (Site("resid_post", 0), "answer")},
        "The last word says which bit is asked for; the head's softmax is saturated whichever it is.",
        ends=asked,
        by_value=True,
    )


def cancellation() -> Organism:
    """Effects that cancel, "a =" -> a: an MLP takes back the bit's direct effect, to first order, where it is 1.

    With a = 1/2 or -1/2 the logits are plus and minus half of a - relu(a) + 1/4. At a = 1/2 a change has a direct
    effect of +1 and an indirect effect of -1 per unit, so that their sum, which attribution patching takes, is 0; the
    change to a = -1/2 moves the metric by half a unit (PRIMER 3.2.16). A third layer does nothing, so that GradDrop
    also leaves out one without effect: its mean is half a unit as well.

    Examples
    --------
    >>> [words[-1] for words in cancellation().predict([["1", "="], ["0", "="]])]
    ['1', '0']
    """
    draft = _draft(1, {"a": 1, "answer": 1})
    both = torch.tensor([[-0.5], [0.5]])
    draft.unembed("a", BITS, both)
    draft.unembed("answer", BITS, both)
    bits = draft["bit"].sum(1, keepdim=True)
    draft.head(0, [(draft["is ="], bits, SHARP)], [(draft["bit"], both @ draft.into("a"))])
    draft.neurons(1, draft["a"], torch.zeros(1), draft.into("answer", -1.0))
    draft.constant(1, draft.into("answer", 0.25)[0])
    return _organism(
        "cancellation",
        draft,
        lambda a: a,
        Circuit.of(
            *_fetches("L0H0", "embed"),
            "L0H0 -> logits",
            "L0H0 -> MLP 1",
            "MLP 1 -> logits",
            roles={"L0H0": "writes the bit", "MLP 1": "cancels it where it is 1"},
        ),
        {"the bit, less a half": (Site("resid_post", 0), "a")},
        "A head writes the bit to the logits, and an MLP takes back as much of it as is positive.",
        layers=3,
    )


def illusion() -> Organism:
    """An unread copy of the bit, "a =" -> a, and a direction that is read but carries nothing.

    Swapping the stream along the normalized sum of the two with a run of the other bit moves half of the logit
    difference's change, although neither takes part in computing it. Of that sum only the dormant direction is in the
    row space of the unembedding, and a swap along it alone moves nothing (PRIMER 3.2.20).

    References
    ----------
    Makelov et al. 2024, "Is this the subspace you are looking for?"

    Examples
    --------
    >>> [variable.name for variable in illusion().variables]
    ['the bit', 'disconnected', 'dormant']
    """
    draft = _draft(1, {"answer": 1, "disconnected": 1, "dormant": 1})
    both = torch.tensor([[-1.0], [1.0]])
    draft.unembed("answer", BITS, both)
    draft.unembed("dormant", BITS, both)
    bits = draft["bit"].sum(1, keepdim=True)
    for part in ("answer", "disconnected"):
        draft.head(0, [(draft["is ="], bits, SHARP)], [(draft["bit"], both @ draft.into(part))])
    return _organism(
        "illusion",
        draft,
        lambda a: a,
        Circuit.of(*_fetches("L0H0", "embed"), "L0H0 -> logits", roles={"L0H0": "writes the bit"}),
        {
            "the bit": (Site("resid_post", 0), "answer"),
            "disconnected": (Site("resid_post", 0), "disconnected"),
            "dormant": (Site("resid_post", 0), "dormant"),
        },
        "One head writes the bit to the logits, another where nothing reads it; a third direction is read and empty.",
    )


def _draft(bits: int, parts: Mapping[str, int], ends: Sequence[str] = ("=",)) -> Draft:
    """Bits by position, then a word that ends the prompt; the part ``is =`` flags it, whatever the word."""
    draft = Draft([*BITS, *ends], bits + 1, {"bit": 2, "is =": 1, "is bos": 1, "place": bits} | dict(parts))
    draft.embed("bit", BITS)
    draft.embed("is =", ends, torch.ones(len(ends), 1))
    draft.embed("is bos", [BOS])
    draft.place("place", range(1, bits + 1))
    return draft


def _fetches(head: str | Node, where: str) -> tuple[str, str, str]:
    """The edges of a head that looks from the end at a bit, found by what ``where`` writes, and takes it."""
    return f"embed -> {head}.q", f"{where} -> {head}.k", f"embed -> {head}.v"


def _organism(
    name: str,
    draft: Draft,
    truth: Callable[..., int],
    circuit: Circuit,
    carried: Mapping[str, tuple[Site, str]],
    about: str,
    *,
    ends: Sequence[str] = ("=",),
    by_value: bool = False,
    layers: int = 1,
) -> Organism:
    bits = draft.max_length - 1

    def function(words: Sequence[str]) -> list[str | None]:
        answers: list[str | None] = [None] * len(words)
        if len(words) == bits + 1 and words[-1] in ends and not {*words[:-1]} - {*BITS}:
            given = {"end": words[-1]} if len(ends) > 1 else {}
            answers[-1] = str(int(truth(*map(int, words[:-1]), **given)))
        return answers

    return Organism(
        name,
        draft.model(layers=layers),
        function,
        circuit,
        tuple(
            Variable(what, site, draft.basis(part), BITS if by_value else ()) for what, (site, part) in carried.items()
        ),
        (*BITS, *ends),
        bits + 1,
        about,
    )
