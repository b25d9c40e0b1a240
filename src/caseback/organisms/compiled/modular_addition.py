"""Modular addition with analytic Fourier weights (PRIMER 5.4.17): "a b =" -> (a + b) mod p.

    embedding   cos w_k a, sin w_k a                     w_k = 2 pi k / p, at a few frequencies k
    attention   from "=" to the operands
    MLP         products, by 4 x y = (x + y)^2 - (x - y)^2 and x^2 = relu(x)^2 + relu(-x)^2
    logits(c)   gain sum_k r_k cos w_k (a + b - c)       read out with cos w_k c, sin w_k c

There are two ways to the products. The ``"clock"`` has one head per operand and multiplies one by the other, which is
the angle addition formula: r_k = 1. The ``"pizza"`` (Zhong et al. 2023) has one head that attends to both alike, so
that only their mean s is left; it squares that, and with A = (a + b) / 2, B = (a - b) / 2

    s = cos(w B) (cos w A, sin w A),   s_c^2 - s_s^2 = cos^2(w B) cos 2 w A,   2 s_c s_s = cos^2(w B) sin 2 w A,

which is the right angle with r_k = cos^2(w_k (a - b) / 2): never 0 for an odd p, but different for each pair.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError
from caseback.model.anatomy.sites import Site
from caseback.model.circuit import Circuit
from caseback.organisms.compiled.draft import SHARP, Draft
from caseback.organisms.compiled.organism import Organism, Variable

ALGORITHMS = ("clock", "pizza")


def modular_addition(
    p: int = 13, frequencies: int | Sequence[int] = 3, *, algorithm: str = "clock", gain: float = 1.0
) -> Organism:
    """A one-layer model that adds modulo ``p`` by rotations.

    Parameters
    ----------
    p
        The modulus, odd.
    frequencies
        The k of w_k = 2 pi k / p, or their number; then ``key_frequencies`` chooses them.
    algorithm
        ``"clock"`` or ``"pizza"``.
    gain
        What the logits are multiplied by.

    Returns
    -------
    Organism
        The clock's logits are the formula's; in the pizza's each frequency is weighted by the pair's r_k.

    Raises
    ------
    CasebackError
        For an even modulus, frequencies that leave two answers the same, or an unknown algorithm.

    References
    ----------
    Nanda et al. 2023, "Progress measures for grokking"; Zhong et al. 2023, "The clock and the pizza".

    Examples
    --------
    >>> modular_addition(13).predict([["7", "9", "="]])[0][-1]
    '3'
    """
    if algorithm not in ALGORITHMS:
        raise CasebackError(f"algorithm {algorithm!r} is unknown: expected one of {', '.join(ALGORITHMS)}")
    if p < 3 or p % 2 == 0:
        raise CasebackError(f"modulus {p}: expected an odd number from 3")
    ks = key_frequencies(p, frequencies) if isinstance(frequencies, int) else list(frequencies)
    if margin(p, ks, algorithm) < 1e-3:
        raise CasebackError(
            f"frequencies {ks} do not tell the numbers modulo {p} apart: expected some that have no divisor in common "
            f"with {p}, or more of them"
        )
    numbers, width = [str(a) for a in range(p)], 2 * len(ks)
    clock = algorithm == "clock"
    arrived = ("first", "second") if clock else ("mean",)
    parts = {"number": width, "is number": 1, "is =": 1, "place": 2} | dict.fromkeys((*arrived, "sum"), width)
    draft = Draft([*numbers, "="], 3, parts)
    waves = _waves(p, ks)
    draft.embed("number", numbers, waves)
    draft.embed("is number", numbers, torch.ones(p, 1))
    draft.embed("is =", ["="])
    draft.place("place", [1, 2])
    for i, part in enumerate(arrived):
        key = draft["place"][:, [i]] if clock else draft["is number"]
        draft.head(0, [(draft["is ="], key, SHARP)], [(draft["number"], draft.into(part))])
    draft.neurons(0, *_products(draft, arrived, len(ks)))
    draft.unembed("sum", numbers, gain * waves)
    operands = zip(arrived, ("the first operand", "the second operand") if clock else ("the mean",), strict=True)
    return Organism(
        name="modular_addition",
        model=draft.model(act="relu2"),
        function=lambda words: _sum(words, p),
        circuit=_circuit(clock, p, ks),
        variables=(
            *(_planes(draft, "number", "the number", Site("embed"), ks)),
            *(v for part, what in operands for v in _planes(draft, part, what, Site("resid_mid", 0), ks)),
            *(_planes(draft, "sum", "the sum", Site("resid_post", 0), ks)),
        ),
        inputs=(*numbers, "="),
        max_length=3,
        about=f"Addition modulo {p} by rotations at frequencies {', '.join(map(str, ks))}, as the {algorithm}.",
    )


def margin(p: int, frequencies: Sequence[int], algorithm: str = "clock") -> float:
    """By how much the right answer leads at least: the minimum, over pairs and d, of sum_k r_k (1 - cos w_k d).

    Examples
    --------
    >>> round(margin(13, [1, 2, 5]), 3), round(margin(13, [1, 2, 5], "pizza"), 3), margin(9, [3]) < 1e-9
    (2.295, 0.117, True)
    """
    w = 2 * math.pi * torch.tensor(list(frequencies), dtype=torch.float64) / p
    d = torch.arange(p, dtype=torch.float64)[:, None]
    weights = (w * d / 2).cos() ** 2 if algorithm == "pizza" else torch.ones(1, len(w)).double()
    return float((weights @ (1 - (w * d[1:]).cos()).T).min())


def key_frequencies(p: int, count: int) -> list[int]:
    """``count`` frequencies: 1, and then each time the one that gives the largest margin.

    Raises
    ------
    CasebackError
        If the modulus has fewer.

    Examples
    --------
    >>> key_frequencies(13, 3)
    [1, 2, 5]
    """
    if not 0 < count <= p // 2:
        raise CasebackError(f"{count} frequencies: the modulus {p} has 1 to {p // 2}")
    chosen = [1]
    while len(chosen) < count:
        left = [k for k in range(1, p // 2 + 1) if k not in chosen]
        # rounded, so that among equal margins the first is taken on every machine
        chosen.append(max(left, key=lambda k: round(margin(p, [*chosen, k]), 9)))
    return sorted(chosen)


def _waves(p: int, ks: Sequence[int]) -> Float[Tensor, "number wave"]:
    """The waves cos w_k a, sin w_k a, frequency by frequency."""
    turns = torch.arange(p)[:, None] * torch.tensor(list(ks)) % p
    angle = 2 * math.pi * turns.double() / p
    return torch.stack([angle.cos(), angle.sin()], -1).flatten(1).float()


def _products(draft: Draft, arrived: Sequence[str], count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Neurons that write cos and sin of the sum's angles, in pairs that square: (reads, bias, writes)."""
    reads, writes = [], []
    for k in range(count):
        (x_cos, x_sin), (y_cos, y_sin) = (draft[part][:, 2 * k : 2 * k + 2].T for part in (arrived[0], arrived[-1]))
        to_cos, to_sin = draft.into("sum")[2 * k : 2 * k + 2]
        products = ((x_cos, y_cos, to_cos), (x_sin, y_sin, -to_cos), (x_sin, y_cos, to_sin), (x_cos, y_sin, to_sin))
        for x, y, to in products:
            for square, sign in ((x + y, 0.25), (x - y, -0.25)):
                if square.any():
                    reads += [square, -square]
                    writes += [sign * to, sign * to]
    return torch.stack(reads, 1), torch.zeros(len(reads)), torch.stack(writes)


def _planes(draft: Draft, part: str, what: str, site: Site, ks: Sequence[int]) -> list[Variable]:
    basis = draft.basis(part)
    return [Variable(f"cos, sin of {what} at frequency {k}", site, basis[2 * i : 2 * i + 2]) for i, k in enumerate(ks)]


def _sum(words: Sequence[str], p: int) -> list[str | None]:
    """The sum at "=", after exactly two numbers."""
    answers: list[str | None] = [None] * len(words)
    if len(words) == 3 and words[2] == "=" and "=" not in words[:2]:
        answers[2] = str((int(words[0]) + int(words[1])) % p)
    return answers


def _circuit(clock: bool, p: int, ks: Sequence[int]) -> Circuit:
    heads = {"L0H0": "fetches the first operand", "L0H1": "fetches the second operand"}
    if not clock:
        heads = {"L0H0": "averages both operands"}
    where = "pos_embed" if clock else "embed"
    edges = [
        edge
        for head in heads
        for edge in (f"embed -> {head}.q", f"{where} -> {head}.k", f"embed -> {head}.v", f"{head} -> MLP 0")
    ]
    return Circuit.of(
        *edges,
        "MLP 0 -> logits",
        roles={"embed": "cos and sin of each number", **heads, "MLP 0": "multiplies", "logits": "reads the angle"},
        p=p,
        frequencies=list(ks),
        citation="Nanda et al. 2023",
    )
