"""Many discrete Transformers at once, with their choices relaxed so that gradients reach them.

A variable has at every position one of K codes, 0 for nothing. Each part reads variables chosen among those before it:

    head      a_ij = s_ij prod_{j<j'<=i} (1 - s_ij'),    s_ij = q_i P k_j;    x_i = sum_j a_ij v_j, the rest is nothing
    counter   the number of j <= i that q_i S k_j selects
    lookup    T[x_i, y_i]
    answer    A[x_i, y_i], over words

Which variables, each query's key (a row of P) and each entry of T are drawn from Gumbel-softmax distributions, each
entry of S from a binary one. Where all choices are hard, a head takes the latest position whose key matches, exactly;
where they are not, a_ij is the probability that j is the latest of independent matches.

Friedman et al. 2023, "Learning Transformer Programs"; they let MLPs learn the lookups, and answer by a linear map of
all variables.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

Choices = dict[str, Tensor]
SPREAD = 0.5
"""Of the first choices' logits."""


@dataclass(frozen=True)
class Shape:
    """How many parts there are in each layer, how many codes a variable has, and how many words an answer."""

    layers: int
    heads: int
    counters: int
    lookups: int
    codes: int
    words: int

    def parts(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """The shapes of each part's choices, in the order in which the parts write their variables."""
        parts: dict[str, dict[str, tuple[int, ...]]] = {}
        codes, variables = self.codes, 2
        for layer in range(self.layers):
            before = variables
            if self.heads:
                read = (self.heads, before)
                parts[f"head.{layer}"] = {
                    "query": read,
                    "key": read,
                    "value": read,
                    "match": (self.heads, codes, codes),
                }
            if self.counters:
                read = (self.counters, before)
                parts[f"counter.{layer}"] = {"query": read, "key": read, "select": (self.counters, codes, codes)}
            variables += self.heads + self.counters
            if self.lookups:
                read = (self.lookups, variables)
                parts[f"lookup.{layer}"] = {"x": read, "y": read, "table": (self.lookups, codes, codes, codes - 1)}
            variables += self.lookups
        parts["answer"] = {"x": (1, variables), "y": (1, variables), "words": (1, codes, codes, self.words)}
        return parts


def draw(shape: Shape, restarts: int, generator: torch.Generator) -> Choices:
    """The first logits of all choices, (restart, part, ...) each."""
    return {
        f"{part}.{name}": SPREAD * torch.randn(restarts, *size, generator=generator)
        for part, sizes in shape.parts().items()
        for name, size in sizes.items()
    }


def sampled(logits: Choices, temperature: float, generator: torch.Generator) -> Choices:
    """Relaxed choices; the words of an answer stay logits."""
    choices = {}
    for name, x in logits.items():
        kind = name.rpartition(".")[2]
        if kind == "words":
            choices[name] = x
        elif kind == "select":
            choices[name] = ((x + _gumbel(x, generator) - _gumbel(x, generator)) / temperature).sigmoid()
        else:
            choices[name] = ((x + _gumbel(x, generator)) / temperature).softmax(-1)
    return choices


def hardened(logits: Choices) -> Choices:
    """The likeliest choices."""
    choices = {}
    for name, x in logits.items():
        kind = name.rpartition(".")[2]
        if kind == "words":
            choices[name] = x
        elif kind == "select":
            choices[name] = (x > 0).to(x)
        else:
            choices[name] = one_hot(x.argmax(-1), x.shape[-1]).to(x)
    return choices


def variables(
    shape: Shape, choices: Choices, words: Int[Tensor, "batch pos"]
) -> Float[Tensor, "restart variable batch pos code"]:
    """How likely each variable has each code: words and positions first, then what the parts write, in their order."""
    restarts = len(choices["answer.x"])
    n = words.shape[1]
    places = torch.arange(n).expand_as(words)
    x = one_hot(torch.stack([words, places]) + 1, shape.codes).to(choices["answer.x"]).expand(restarts, -1, -1, -1, -1)
    seen = torch.ones(n, n, dtype=x.dtype).tril()
    for part in shape.parts():
        kind = part.partition(".")[0]
        of = {name: values for key, values in choices.items() if (name := key.removeprefix(f"{part}.")) != key}
        if kind == "head":
            s = _selected(_read(x, of["query"]), of["match"], _read(x, of["key"])) * seen
            later = (1 - s).flip(-1).cumprod(-1).flip(-1)  # none from here on; shifted by one: none behind here
            a = s * torch.cat([later[..., 1:], torch.ones_like(s[..., :1])], -1)
            fetched = torch.einsum("rhbij,rhbjc->rhbic", a, _read(x, of["value"]))
            rest = 1 - a.sum(-1, keepdim=True)
            x = torch.cat([x, torch.cat([fetched[..., :1] + rest, fetched[..., 1:]], -1)], 1)
        elif kind == "counter":
            count = (_selected(_read(x, of["query"]), of["select"], _read(x, of["key"])) * seen).sum(-1)
            # a count between two numbers is partly each
            x = torch.cat([x, (1 - (count[..., None] + 1 - torch.arange(shape.codes)).abs()).clamp_min(0)], 1)
        elif kind == "lookup":
            codes = _looked_up(_read(x, of["x"]), _read(x, of["y"]), of["table"])
            x = torch.cat([x, torch.cat([torch.zeros_like(codes[..., :1]), codes], -1)], 1)
    return x


def answers(shape: Shape, choices: Choices, words: Int[Tensor, "batch pos"]) -> Float[Tensor, "restart batch pos word"]:
    """The logits of what is answered at each word."""
    x = variables(shape, choices, words)
    of_answer = (_read(x, choices["answer.x"]), _read(x, choices["answer.y"]), choices["answer.words"])
    return _looked_up(*of_answer)[:, 0]


def _read(x: Tensor, chosen: Float[Tensor, "restart part variable"]) -> Float[Tensor, "restart part batch pos code"]:
    return torch.einsum("rhv,rvbnc->rhbnc", chosen, x[:, : chosen.shape[2]])


def _selected(query: Tensor, table: Tensor, key: Tensor) -> Float[Tensor, "restart part batch query key"]:
    """Whether each query selects each key; nothing selects nothing, and nothing selects it."""
    by_key = torch.einsum("rhbic,rhcd->rhbid", query[..., 1:], table[..., 1:, 1:])
    return torch.einsum("rhbid,rhbjd->rhbij", by_key, key[..., 1:])


def _looked_up(x: Tensor, y: Tensor, table: Tensor) -> Float[Tensor, "restart part batch pos value"]:
    return torch.einsum("rhbnc,rhbnd,rhcdw->rhbnw", x, y, table)


def _gumbel(like: Tensor, generator: torch.Generator) -> Tensor:
    return -torch.empty_like(like).exponential_(generator=generator).log()
