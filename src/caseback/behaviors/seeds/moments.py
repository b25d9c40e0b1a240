"""Joint moments of two models' activations over a text, as streamed sums: nothing of a token's size is kept.

    C_xx, C_yy  = covariances within a layer of each model        C_xy = E[x y^T] - E[x] E[y]^T  between any two layers

Cross covariances of all layers of both models may not fit together, so the first model's layers come in groups, each
with a pass over the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.coerce import float64_device, in_float64
from caseback.model.anatomy.sites import Site
from caseback.model.running.model import Model
from caseback.model.running.run import Run, execute
from caseback.stream.documents import Corpus, documents
from caseback.stream.packing import Block, Row, blocks_of, rows_of


@dataclass(frozen=True)
class Read:
    """What is compared: a layered site, and what of it is a unit's activation, (row, pos, unit)."""

    site: str
    of: Callable[[Tensor], Tensor] = lambda x: x

    def layers(self, model: Model) -> list[int]:
        """The layers that have the site.

        Raises
        ------
        SiteAbsent
            For a model without it.
        """
        return [site.layer for site in model.anatomy.sites(self.site) if site.layer is not None]

    def at(self, run: Run, layer: int, inside: Tensor) -> Float[Tensor, "token unit"]:
        """The activations of a layer at chosen tokens."""
        return in_float64(self.of(run[self.site, layer])[inside])


@dataclass(frozen=True)
class Moments:
    """Of one layer of the first model with every layer of the other.

    Attributes
    ----------
    layer
        Which layer of the first model.
    n
        How many tokens were read.
    within
        Its covariance, (unit, unit).
    cross
        By layer of the other model, (unit, unit of the other).
    other
        By layer of the other model, its covariance.
    """

    layer: int
    n: int
    within: Float[Tensor, "unit unit"]
    cross: dict[int, Float[Tensor, "unit other"]]
    other: dict[int, Float[Tensor, "other other"]]


def moments(
    model: Model,
    other: Model,
    corpus: Corpus,
    read: Read,
    *,
    n_tokens: int | None,
    length: int | None,
    skip: int,
    progress: bool,
) -> Iterator[Moments]:
    """The moments of every layer of the first model.

    Raises
    ------
    CasebackError
        For models of different vocabularies, and texts without two tokens past the skipped ones.
    """
    if model.d_vocab != other.d_vocab:
        raise CasebackError(
            f"vocabularies of {model.d_vocab} and {other.d_vocab} tokens: expected models of one tokenizer, which read "
            "the same ids"
        )
    blocks = list(blocks_of(_some(model, corpus, length, n_tokens), limit("shard_tokens")))
    own, others = read.layers(model), read.layers(other)
    done = 0
    groups = _groups(model, other, blocks, read, own, others)
    with progress_bar(what="layers", show=progress, total=len(own)) as bar:
        while done < len(own):
            group = own[done : done + groups]
            yield from _pass(model, other, blocks, read, group, others, skip)
            done += len(group)
            bar.update(len(group))


def _some(model: Model, corpus: Corpus, length: int | None, n_tokens: int | None) -> Iterator[Row]:
    so_far = 0
    for row in rows_of(model, documents(corpus), length=length):
        yield row
        so_far += len(row.ids)
        if n_tokens is not None and so_far >= n_tokens:
            return


def _groups(
    model: Model, other: Model, blocks: Sequence[Block], read: Read, own: Sequence[int], others: Sequence[int]
) -> int:
    """How many layers of the first model fit at a time."""
    if not blocks:
        raise CasebackError("the corpus is empty: expected texts of some tokens")
    tokens, _ = next(blocks[0].batches(1))
    widths = []
    for one, layer in ((model, own[0]), (other, others[0])):
        run = execute(one.anatomy, tokens.to(one.device), read=[Site(read.site, layer)], logits=False)
        widths.append(read.of(run[read.site, layer]).shape[-1])
    bytes_of_a_layer = 8 * widths[0] * widths[1] * len(others)
    return max(1, limit("cross_moment_bytes", model.device) // max(1, bytes_of_a_layer))


@torch.no_grad()
def _pass(
    model: Model,
    other: Model,
    blocks: Sequence[Block],
    read: Read,
    own: Sequence[int],
    others: Sequence[int],
    skip: int,
) -> Iterator[Moments]:
    n, device = 0, model.device
    of_own: dict[int, _Sums] = {layer: _Sums() for layer in own}
    of_other: dict[int, _Sums] = {layer: _Sums() for layer in others}
    products: dict[tuple[int, int], Tensor] = {}
    for block in blocks:
        for tokens, _ in block.batches(limit("stream_tokens", device)):
            inside = tokens.mask & (torch.arange(tokens.shape[1]) >= skip)
            one = execute(model.anatomy, tokens.to(device), read=[Site(read.site, i) for i in own], logits=False)
            two = execute(
                other.anatomy, tokens.to(other.device), read=[Site(read.site, i) for i in others], logits=False
            )
            x = {i: read.at(one, i, inside.to(device)) for i in own}
            y = {i: read.at(two, i, inside.to(other.device)).to(float64_device(device)) for i in others}
            n += int(inside.sum())
            for sums, values in ((of_own, x), (of_other, y)):
                for layer, acts in values.items():
                    sums[layer].add(acts)
            for i, a in x.items():
                for j, b in y.items():
                    products[i, j] = a.T @ b + products.get((i, j), 0)
    if n < 2:
        raise CasebackError(f"{n} tokens past the first {skip} of each row: expected two at least; give longer texts")
    covariances = {layer: sums.covariance(n) for layer, sums in of_other.items()}
    for i in own:
        mean = of_own[i].sum / n
        cross = {j: products.pop((i, j)) / n - mean[:, None] * (of_other[j].sum / n) for j in others}
        yield Moments(i, n, of_own[i].covariance(n), cross, covariances)


class _Sums:
    """Σ x and Σ x xᵀ."""

    def __init__(self) -> None:
        self.sum: Tensor = torch.zeros(())
        self.square: Tensor = torch.zeros(())

    def add(self, x: Float[Tensor, "token unit"]) -> None:
        self.sum = x.sum(0) + self.sum.to(x)
        self.square = x.T @ x + self.square.to(x)

    def covariance(self, n: int) -> Float[Tensor, "unit unit"]:
        mean = self.sum / n
        return self.square / n - mean[:, None] * mean
