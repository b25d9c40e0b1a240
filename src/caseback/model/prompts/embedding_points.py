"""Prompts at embeddings of one's choice: the metric there and its gradient, some points at a time.

A technique that averages gradients (along a path, over noise) asks for many points of the same prompts. They run as
rows of one batch, cut off after the last position that the metric reads; only the logits that it reads are formed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import OutOfRange
from caseback.jobs.batches import Batches
from caseback.jobs.budget import limit
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.prompts.per_token import aligned
from caseback.model.running.edits import Replace
from caseback.model.running.measure import measured
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import Tokens


class Points:
    """Some prompts' embeddings, to be run at other points than their own.

    Attributes
    ----------
    embedding
        (batch, pos, d_model) what the embedding writes, each prompt from 0.
    value
        (batch,) the metric of the prompts as they are.
    passes
        Forward and backward passes so far, counted in prompts.
    """

    def __init__(self, model: Model, tokens: Tokens, metric: Metric, max_batch: int | None = None):
        self.model, self.metric, self.whole = model, metric, tokens
        columns = metric.on(tokens, model.anatomy).columns
        self.tokens = tokens if columns is None else _cut(tokens, int(columns.max()) + 1)
        if max_batch is None:
            max_batch = _at_once(model, self.tokens, 0, every_position=columns is None)
        if max_batch < 1:
            raise OutOfRange(f"max_batch is {max_batch}: expected at least 1")
        self.batches, self.passes = Batches(max_batch, "points"), 0
        everyone = torch.arange(len(tokens))
        with torch.no_grad():
            clean = model.run(tokens, read=["embed"])
            self.embedding = aligned(at_least_float32(clean["embed"].detach()), tokens)
            values = [
                measured(model.anatomy, self._rows(i), metric.of_rows(tokens, i))[1] for i in everyone.split(max_batch)
            ]
        self.value = torch.cat(values).detach().cpu()

    def gradients(
        self, prompts: Int[Tensor, " row"], at: Callable[[slice], Float[Tensor, "row pos d_model"]]
    ) -> Iterator[tuple[slice, Float[Tensor, " row"], Float[Tensor, "row pos d_model"]]]:
        """The metric and its gradient at many points, a batch at a time.

        Parameters
        ----------
        prompts
            The prompt of each point.
        at
            The embeddings of a slice of the points.

        Yields
        ------
        Which points, the metric at each, and its gradient in their own positions, 0 after what the metric reads.
        """

        def forward_and_back(part: slice) -> tuple[Tensor, Tensor]:
            run, value = self._run(prompts[part], at(part), grad=True)
            gradient = run.grad(value, ["embed"], retain=False)["embed"]
            padded = torch.zeros(len(value), *self.embedding.shape[1:]).to(self.embedding)
            gradient = aligned(at_least_float32(gradient), run.tokens)[:, : padded.shape[1]]
            padded[:, : gradient.shape[1]] = gradient
            return value.detach().cpu(), padded

        for part, (value, gradient) in self.batches.over(len(prompts), forward_and_back):
            self.passes += len(value)
            yield part, value, gradient

    def values(
        self, prompts: Int[Tensor, " row"], at: Callable[[slice], Float[Tensor, "row pos d_model"]]
    ) -> Float[Tensor, " row"]:
        """The metric alone at many points."""
        forward = lambda part: self._run(prompts[part], at(part), grad=False)[1].detach().cpu()  # noqa: E731
        return torch.cat([value for _, value in self.batches.over(len(prompts), forward)])

    def _run(
        self, prompts: Int[Tensor, " row"], at: Float[Tensor, "row pos d_model"], *, grad: bool
    ) -> tuple[Run, Float[Tensor, " row"]]:
        rows = self._rows(prompts)
        edit = Replace("embed", at[:, : int(rows.lengths.max())])
        metric = self.metric.of_rows(self.whole, prompts.to(self.whole.ids.device))
        return measured(self.model.anatomy, rows, metric, read=["embed"], edits=[edit], grad=grad)

    def _rows(self, prompts: Int[Tensor, " row"]) -> Tokens:
        ids, mask = (x[prompts.to(x.device)] for x in (self.tokens.ids, self.tokens.mask))
        return Tokens(ids, mask, _picked(self.tokens.text, prompts.tolist()))


def rows_at_once(model: Model, tokens: Tokens, metric: Metric, beside: int = 0) -> int:
    """How many prompts as wide as these go forward and back together, with so many bytes a token kept beside a pass.

    gradient_tokens w / (width (w + beside))    tokens, w = bytes_on_the_way_back

    Of a metric of all positions no more than its logits allow (``gradient_logits``).
    """
    return _at_once(model, tokens, beside, every_position=metric.on(tokens, model.anatomy).columns is None)


def prompts_at_once(model: Model, tokens: Tokens, metric: Metric, beside: int = 0) -> int:
    """As ``rows_at_once``, of prompts whose parts are scored together: ``attribution_prompts`` at most."""
    return min(limit("attribution_prompts", tokens.ids.device), rows_at_once(model, tokens, metric, beside))


def room_on_the_way_back(model: Model, tokens: Tokens) -> tuple[int, int]:
    """How many tokens of prompts as wide as these one pass forward and back may have, and the bytes that one takes."""
    each = bytes_on_the_way_back(model, tokens.shape[1])
    return limit("gradient_tokens", tokens.ids.device, each=each), each


def _at_once(model: Model, tokens: Tokens, beside: int, *, every_position: bool) -> int:
    (count, each), width = room_on_the_way_back(model, tokens), tokens.shape[1]
    most = count * each // (width * (each + beside))
    if every_position:
        most = min(most, limit("gradient_logits") // (width * model.d_vocab))
    return max(1, most)


def bytes_on_the_way_back(model: Model, width: int) -> int:
    """What a forward pass keeps of one token: some vectors of each branch, and its row of each head's map."""
    anatomy = model.anatomy
    numbers = sum(
        12 * model.d_model + 4 * (anatomy.d_mlp or 4 * model.d_model) + 2 * p.dims.n_heads * width
        for p in anatomy.layers
    )
    return numbers * model.dtype.itemsize


def _picked(texts: Sequence[list[str]], rows: Sequence[int]) -> list[list[str]]:
    return [texts[i] for i in rows]


def _cut(tokens: Tokens, width: int) -> Tokens:
    """The first columns of a batch; of every prompt at least one token must be among them."""
    mask = tokens.mask[:, :width]
    texts = [row[: int(n)] for row, n in zip(tokens.text, mask.sum(-1), strict=True)]
    return Tokens(tokens.ids[:, :width], mask, texts)
