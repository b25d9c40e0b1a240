"""The future lens by a soft prompt: vectors under which the model itself says what a state holds (PRIMER 4.3.5).

    prompt vectors e_1 ... e_M as embeddings; at the last of them, before layer r*, the stream <- h_t before layer r
    min over e  E_t KL(f_{t+N} || what the model then predicts)

The state is read by the rest of the model, not by a map, so that what layers after r* can make of it counts. Pal et al.
(2023) train ten vectors for each depth; N = 1 asks for the token after the next one, as in ``fit_future_lens``. As the
state is written where it came from, r* = r, unless said otherwise. It is a patchscope whose target prompt is trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.decode.vocabulary.lenses.draws import Draws, expect_steps
from caseback.decode.vocabulary.lenses.lens import fingerprint, stream_at
from caseback.decode.vocabulary.lenses.vocabulary_kl import VocabularyKL
from caseback.decode.vocabulary.patchscopes.patchscope import patchscope
from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.registry import technique
from caseback.model.running.edits import Edit, Replace
from caseback.model.running.model import Model
from caseback.model.running.run import execute
from caseback.model.running.tokens import PromptsLike, Tokens


@dataclass(frozen=True)
class FuturePrompt:
    """A trained prompt and the depths that it joins.

    Attributes
    ----------
    vectors
        (pos, d_model), what the embedding would write.
    row, target_row
        Where a state is read and where it is written: r is the stream before layer r.
    ahead
        N: the prompt's end predicts the token at t + N + 1.
    fingerprint
        Of the unembedding of the model that it was trained for.
    provenance
        How it was trained: steps, divergences.
    """

    vectors: Float[Tensor, "pos d_model"]
    row: int
    target_row: int
    ahead: int
    fingerprint: str
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def ids(self) -> list[int]:
        """Token ids for a patchscope's target; the vectors make way for their embeddings."""
        return [0] * len(self.vectors)

    @property
    def edits(self) -> list[Edit]:
        """A patchscope's ``target_edits``: the vectors."""
        return [Replace("embed", self.vectors, pos=list(range(len(self.vectors))))]

    def expect(self, model: Model) -> None:
        """Refuse a model that it was not trained for.

        Raises
        ------
        CasebackError
            Where the unembedding or the width differ, or the model does not have the depths.
        """
        deepest, d = max(self.row, self.target_row), self.vectors.shape[-1]
        if d != model.d_model or deepest > model.n_layers or self.fingerprint != fingerprint(model):
            raise CasebackError(
                f"this prompt was not trained for {model!r} (it is for rows {self.row} and {self.target_row} and "
                f"width {d}, fingerprint {self.fingerprint[:12]}; the model has rows 0 to {model.n_layers} and width "
                f"{model.d_model}, fingerprint {fingerprint(model)[:12]}): train one on this model"
            )


@technique(
    role="lens",
    entry=("4.3.5",),
    citation="Pal et al. 2023",
    cost="steps x (forward + short prompts forward and backward)",
)
def fit_future_prompt(
    model: Model,
    texts: Iterable[str],
    *,
    row: int,
    target_row: int | None = None,
    ahead: int = 1,
    size: int = 10,
    steps: int = 300,
    states_per_step: int = 64,
    lr: float = 5e-4,
    decay: float = 1e-5,
    length: int | None = None,
    batch: int = 8,
    seed: int = 0,
    progress: bool = False,
) -> FuturePrompt:
    """Train a prompt at whose end the model, given a state of position t, predicts what it predicts at t + N.

    Parameters
    ----------
    model
        The model. Its parameters stay as they are.
    texts
        The corpus: texts, or lists of token ids.
    row, target_row
        Where a state is read and where it is written; the same by default.
    ahead
        N; 0 asks for the prediction at t itself.
    size
        Vectors of the prompt; 10 as published.
    steps, states_per_step
        Steps of AdamW, and how many states each sees, drawn from one or more batches.
    lr, decay
        Learning rate, falling linearly to 0, and weight decay; 5e-4 and 1e-5 as published.
    length, batch
        Tokens of a row and rows of a batch, as for ``corpus_rows``.
    seed
        Same seed, same result. It draws the order of the rows, the states, and the tokens whose embeddings the prompt
        begins with.
    progress
        Show a progress bar. It shows the divergence.

    Returns
    -------
    FuturePrompt
        ``provenance["kl"]`` is the divergence at each step, before it.

    Raises
    ------
    CasebackError
        For a corpus without a text of ``ahead`` + 1 tokens.
    OutOfRange
        For depths that are not there, and for sizes, steps, states or a learning rate that are not above 0.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> texts = ["Monday, Tuesday, Wednesday, Thursday, Friday"]
    >>> prompt = fit_future_prompt(model, texts, row=2, steps=8, states_per_step=6, lr=0.1)
    >>> prompt.provenance["kl"][-1] < prompt.provenance["kl"][0]
    True
    """
    target_row = row if target_row is None else target_row
    if not (0 <= row <= model.n_layers and 0 <= target_row <= model.n_layers):
        raise OutOfRange(f"rows {row} and {target_row}: expected 0 (the embedding) to {model.n_layers} (the end)")
    if ahead < 0 or size < 1:
        raise OutOfRange(f"ahead={ahead}, size={size}: expected at least 0 and 1")
    if decay < 0:
        raise OutOfRange(f"decay={decay}: expected 0 or more")
    expect_steps(steps, states_per_step, lr, "states")
    drawn = Draws(model, texts, length=length, batch=batch, least=ahead + 1, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    training = _Training(model, row, target_row, ahead)
    vectors = training.start(size, generator)
    optimizer = torch.optim.AdamW([vectors], lr=lr, weight_decay=decay)
    history: list[float] = []
    bar = progress_bar(range(steps), show=progress, unit="step")
    for step in bar:
        h, log_p = training.states(drawn.of_step(step, states_per_step), states_per_step, generator)
        kl, vectors.grad = training.gradient(vectors, h, log_p)
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / steps)
        optimizer.step()
        history.append(kl)
        bar.set_postfix(kl=f"{kl:.3f}")
    provenance = {
        "kl": history,
        "steps": steps,
        "states_per_step": states_per_step,
        "lr": lr,
        "decay": decay,
        "seed": seed,
    }
    return FuturePrompt(vectors.detach(), row, target_row, ahead, fingerprint(model), provenance)


class _Training:
    """States of a corpus with what they should say, and the gradient at the prompt."""

    def __init__(self, model: Model, row: int, target_row: int, ahead: int):
        self.model, self.ahead, self.kl = model, ahead, VocabularyKL(model.anatomy)
        self.source, self.written = stream_at(model, row), stream_at(model, target_row)
        self.end = stream_at(model, model.n_layers)

    def start(self, size: int, generator: torch.Generator) -> Float[Tensor, "pos d_model"]:
        """Embeddings of random tokens, as the model's blocks get them."""
        ids = torch.randint(self.model.d_vocab, (1, size), generator=generator)
        run = execute(self.model.anatomy, self.model.tokens(ids), read=["embed"], logits=False)
        return run["embed"][0].detach().clone().to(self.kl.rows.dtype)

    def states(
        self, batches: Iterable[Tokens], count: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "state d_model"], Float[Tensor, "state vocab"]]:
        """Some states drawn from the batches, and the log probabilities N positions later."""
        here, later = [], []
        for tokens in batches:
            run = execute(self.model.anatomy, tokens, read=list({self.source, self.end}), logits=False)
            last = tokens.ids.shape[1] - self.ahead
            both = tokens.mask[:, self.ahead :] & tokens.mask[:, :last]
            h, end = (run[site.name, site.layer].detach() for site in (self.source, self.end))
            here.append(h[:, :last][both.to(h.device)])
            later.append(end[:, self.ahead :][both.to(end.device)])
        h, end = torch.cat(here), torch.cat(later)
        some = torch.randperm(len(h), generator=generator)[:count].to(h.device)
        return h[some], self.kl.log_probs(end[some.to(end.device)].to(self.kl.rows))

    def gradient(
        self, vectors: Float[Tensor, "pos d_model"], h: Float[Tensor, "state d_model"], log_p: Tensor
    ) -> tuple[float, Float[Tensor, "pos d_model"]]:
        """Mean divergence over states, and its gradient at the prompt."""
        n, size = len(h), len(vectors)
        prompts = Tokens(
            torch.zeros(n, size, dtype=torch.long, device=self.model.device),
            torch.ones(n, size, dtype=torch.bool, device=self.model.device),
            [[""] * size] * n,
        )
        edits = [
            Replace("embed", vectors, pos=list(range(size))),
            Replace(self.written.name, h, layer=self.written.layer, pos=-1),
        ]
        run = execute(self.model.anatomy, prompts, read=["embed", self.end], edits=edits, grad=True, logits=False)
        stream = run[self.end.name, self.end.layer][:, -1]
        divergence, at_stream = self.kl(at_least_float32(stream.detach()).to(self.kl.rows)[None], log_p)
        if not stream.requires_grad:
            # a state written at the end leaves nothing for the prompt to do
            return float(divergence.mean()), torch.zeros_like(vectors)
        wanted = (stream * at_stream[0].to(stream)).sum(-1)
        at_embed = run.grad(wanted, ["embed"], retain=False)["embed"]
        return float(divergence.mean()), (at_embed.sum(0) / n).to(vectors)


@technique(
    role="lens", entry=("4.3.5",), citation="Pal et al. 2023", cost="one forward + positions x a short prompt's forward"
)
def read_future_prompt(
    model: Model,
    tokens: PromptsLike,
    prompt: FuturePrompt,
    *,
    k: int = 5,
    max_new_tokens: int = 0,
    edits: Edit | Sequence[Edit] = (),
) -> xr.Dataset:
    """What a trained prompt says of the state at each position, and whether the model says it N positions later.

    Parameters
    ----------
    model
        The model. It must be the one that the prompt was trained for.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    prompt
        From ``fit_future_prompt``.
    k, max_new_tokens, edits
        As for ``patchscope``.

    Returns
    -------
    xr.Dataset
        As of ``patchscope``, the answer being the model's own choice at t + N; ``surprisal`` and ``hit`` are NaN,
        ``rank`` 0 and ``answer`` empty at a prompt's last N positions, for which there is none.

    Raises
    ------
    CasebackError
        For a prompt of another model.
    OutOfRange
        Where no text is longer than N.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> prompt = fit_future_prompt(model, ["Monday, Tuesday, Wednesday"], row=2, steps=1, states_per_step=2)
    >>> read_future_prompt(model, "the cat and the dog", prompt)["hit"].dims
    ('layer', 'batch', 'pos')
    """
    prompt.expect(model)
    tokens = model.tokens(tokens)
    n, at = tokens.lengths.cpu(), torch.arange(int(tokens.lengths.max()))
    there = at + prompt.ahead < n[:, None]
    if not bool(there.any()):
        raise OutOfRange(f"no prompt has a token {prompt.ahead} after another: give longer prompts")
    logits = model.run(tokens, edits=edits).logits
    later = torch.minimum(at + prompt.ahead, n[:, None] - 1) + tokens.first.cpu()[:, None]
    answers = logits.argmax(-1).cpu().gather(1, later)
    readings = patchscope(
        model,
        tokens,
        prompt.ids,
        rows=[prompt.row],
        target_row=prompt.target_row,
        answers=answers,
        k=k,
        max_new_tokens=max_new_tokens,
        edits=edits,
        target_edits=prompt.edits,
    )
    known = xr.DataArray(there.numpy(), dims=["batch", "pos"])
    for name, absent in (("surprisal", float("nan")), ("hit", float("nan")), ("rank", 0)):
        readings[name] = readings[name].where(known, absent)
    readings["precision_at_1"] = readings["hit"].mean("batch")
    return readings.assign_coords(answer=readings["answer"].where(known, ""))
