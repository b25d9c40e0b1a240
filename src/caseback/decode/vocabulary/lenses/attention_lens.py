"""The attention lens: a map from what each head of a layer writes to words (PRIMER 4.3.4).

    z = sum_h n_h L_h + beta W_U + b_U,    min over L  E KL(f || softmax cap(c z)),    reading of a head: c n_h L_h

n_h is the head's write after the final norm, whose denominator is held at what it is for the whole stream, so that
with L_h = W_U, where training begins, a head's reading is its direct logit attribution. L_h is free, (d_model, vocab)
per head; or of low rank, (I + A_h B_h) W_U, which is 2 rank d_model numbers per head in place of d_model times the
vocabulary (463 million for a layer of GPT-2-small). Sakarvadia et al. (2023) train free maps, on the write itself with
no norm, and on a prompt's last token; here every token counts.
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
from caseback.decode.vocabulary.lenses.lens_statistics import Places, expect_sizes, followed, labelled_readings, read
from caseback.decode.vocabulary.lenses.logit_lens import units_of
from caseback.decode.vocabulary.lenses.vocabulary_kl import VocabularyKL
from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.model.algebra.under_edits import END, edited_end, pushed_through_end
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.registry import technique
from caseback.model.running.edits import Edit
from caseback.model.running.metrics import Target
from caseback.model.running.model import Model
from caseback.model.running.run import Run, execute
from caseback.model.running.tokens import PromptsLike, Tokens
from caseback.model.running.verify import under_edits


@dataclass(frozen=True)
class AttentionLens:
    """Maps from the heads of a layer to words.

    Attributes
    ----------
    layer
        Whose heads.
    down, up
        A (head, d_model, rank) and B (head, rank, d_model); None for free maps.
    weight
        L (head, d_model, vocab) of free maps; None for those of low rank.
    fingerprint
        Of the unembedding that it was fitted for.
    provenance
        How it was fitted: steps, tokens, divergences.
    """

    layer: int
    down: Float[Tensor, "head d_model rank"] | None
    up: Float[Tensor, "head rank d_model"] | None
    weight: Float[Tensor, "head d_model vocab"] | None
    fingerprint: str
    provenance: dict[str, Any] = field(default_factory=dict)

    def expect(self, model: Model) -> None:
        """Refuse a model that it was not fitted for.

        Raises
        ------
        CasebackError
            Where the unembedding, the width or the layer's heads differ, or the model does not have the layer.
        """
        maps = self.down if self.weight is None else self.weight
        assert maps is not None
        heads, d = maps.shape[:2]
        own = model.anatomy.layers[self.layer].dims.n_heads if 0 <= self.layer < model.n_layers else None
        if (heads, d) != (own, model.d_model) or self.fingerprint != fingerprint(model):
            raise CasebackError(
                f"this attention lens was not fitted for {model!r} (it is for {heads} heads of layer {self.layer} "
                f"and width {d}, fingerprint {self.fingerprint[:12]}; the model has "
                f"{'no such layer' if own is None else f'{own} heads there'} and width {model.d_model}, fingerprint "
                f"{fingerprint(model)[:12]}): fit one on this model"
            )


@technique(
    role="lens",
    entry=("4.3.4",),
    citation="Sakarvadia et al. 2023",
    cost="steps x tokens x (forward + 3 unembeddings), low rank",
)
def fit_attention_lens(
    model: Model,
    texts: Iterable[str],
    *,
    layer: int,
    rank: int | None = None,
    steps: int = 100,
    tokens_per_step: int = 1024,
    lr: float = 1e-3,
    length: int | None = None,
    batch: int = 8,
    seed: int = 0,
    max_logits: int | None = None,
    progress: bool = False,
) -> AttentionLens:
    """Train a map from each head of a layer to words, so that their sum is the model's prediction.

    Parameters
    ----------
    model
        The model. It only runs forward.
    texts
        The corpus: texts, or lists of token ids.
    layer
        Whose heads.
    rank
        Of A_h B_h; None for free maps, which hold heads x d_model x vocabulary numbers, and Adam two more of each.
    steps, tokens_per_step, lr
        Of Adam, its learning rate falling linearly to 0.
    length, batch
        Tokens of a row and rows of a batch, as for ``corpus_rows``.
    seed
        Same seed, same result. It draws the order of the rows, and A_h; B_h begins at 0.
    max_logits
        The most logits formed at once.
    progress
        Show a progress bar. It shows the divergence.

    Returns
    -------
    AttentionLens
        ``provenance["kl"]`` is the divergence at each step, before it.

    Raises
    ------
    CasebackError
        For an empty corpus.
    OutOfRange
        For a layer that is not there, a rank below 1 or above d_model, and for steps, tokens or a learning rate that
        are not above 0.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> texts = ["Mary went to the store.", "John saw the dog at the park."]
    >>> lens = fit_attention_lens(model, texts, layer=2, rank=2, steps=4, tokens_per_step=8, lr=1e-2)
    >>> lens.provenance["kl"][-1] < lens.provenance["kl"][0]
    True
    """
    if not 0 <= layer < model.n_layers:
        raise OutOfRange(f"layer {layer}: expected 0 to {model.n_layers - 1}")
    if rank is not None and not 1 <= rank <= model.d_model:
        raise OutOfRange(f"rank {rank}: expected 1 to {model.d_model}, or None for free maps")
    expect_steps(steps, tokens_per_step, lr)
    heads = _Heads(model, layer, max_logits)
    drawn = Draws(model, texts, length=length, batch=batch, seed=seed)
    n_heads, d, like = model.anatomy.layers[layer].dims.n_heads, model.d_model, heads.kl.rows
    if rank is None:
        parameters = [like.T.expand(n_heads, -1, -1).clone(memory_format=torch.contiguous_format)]
    else:
        generator = torch.Generator().manual_seed(seed)
        down = torch.randn(n_heads, d, rank, generator=generator, dtype=torch.float64) / d**0.5
        parameters = [down.to(like), like.new_zeros(n_heads, rank, d)]
    optimizer = torch.optim.Adam(parameters, lr=lr)
    history: list[float] = []
    bar = progress_bar(range(steps), show=progress, unit="step")
    for step in bar:
        kl, gradients = heads.gradients(drawn.of_step(step, tokens_per_step), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / steps)
        optimizer.step()
        history.append(kl)
        bar.set_postfix(kl=f"{kl:.3f}")
    provenance = {
        "kl": history,
        "steps": steps,
        "tokens_per_step": tokens_per_step,
        "lr": lr,
        "rank": rank,
        "seed": seed,
    }
    fitted = [parameter.detach() for parameter in parameters]
    down, up, weight = (None, None, fitted[0]) if rank is None else (fitted[0], fitted[1], None)
    return AttentionLens(layer, down, up, weight, fingerprint(model), provenance)


class _Heads:
    """What the heads of a layer write, after the final norm; and the divergence of their sum with its gradient."""

    def __init__(self, model: Model, layer: int, max_logits: int | None = None):
        self.model, self.layer = model, layer
        self.kl = VocabularyKL(model.anatomy, max_logits)
        # normed already, and under the edits that stand behind the norm
        self.norm, self.kl.norm, self.kl.end = self.kl.norm, None, False
        beta = None if self.norm is None else self.norm.beta
        if edited_end(model.anatomy):
            beta = under_edits(
                model.anatomy, END, self.kl.rows.new_zeros(1, model.d_model) + (0 if beta is None else beta)
            )
            beta = beta[0]
        self.beta = beta
        self.sites = [Site("head_out", layer), stream_at(model, model.n_layers)]

    def normed(self, writes: Float[Tensor, "*dims head d_model"], end: Float[Tensor, "*dims d_model"]) -> Tensor:
        """Each head's share of the final norm's output."""
        writes, end = (at_least_float32(x) for x in (writes, end))
        normed = writes if self.norm is None else self.norm.frozen(writes, self.norm.scale(end)[..., None, :])
        return pushed_through_end(self.model.anatomy, normed)

    def of(self, run: Run) -> tuple[Float[Tensor, "batch pos head d_model"], Float[Tensor, "batch pos d_model"]]:
        """n_h, and the final stream, of a run that read both."""
        writes, end = (run[site.name, site.layer].detach() for site in self.sites)
        return self.normed(writes, end.to(writes.device)), end

    @torch.no_grad()
    def gradients(self, batches: Iterable[Tokens], parameters: Sequence[Tensor]) -> tuple[float, list[Tensor]]:
        """Mean divergence over some batches, and its gradients at the parameters."""
        whole, total, count = [torch.zeros_like(p) for p in parameters], 0.0, 0
        for tokens in batches:
            run = execute(self.model.anatomy, tokens, read=self.sites, logits=False)
            n, end = (x[tokens.mask].to(parameters[0]) for x in self.of(run))
            for start in range(0, len(n), self.kl.step):
                here = slice(start, start + self.kl.step)
                log_p = self._log_p(end[here])
                free = self._free(n[here], log_p, *parameters) if len(parameters) == 1 else None
                divergence, gradients = free or self._low_rank(n[here], log_p, *parameters)
                total += float(divergence.sum())
                for sum_of, gradient in zip(whole, gradients, strict=True):
                    sum_of += gradient
            count += len(n)
        return total / count, [gradient / count for gradient in whole]

    def _log_p(self, end: Float[Tensor, "token d_model"]) -> Float[Tensor, "token vocab"]:
        """The model's own prediction."""
        return self.kl.log_probs(self._shifted(self.normed(end[:, None], end)[:, 0]))

    def _shifted(self, normed: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """With the final norm's bias, and what edits of its output add."""
        return normed if self.beta is None else normed + self.beta.to(normed)

    def _low_rank(self, n: Tensor, log_p: Tensor, down: Tensor, up: Tensor) -> tuple[Tensor, list[Tensor]]:
        inner = torch.einsum("thd,hdr->thr", n, down)
        t = self._shifted(n.sum(1) + torch.einsum("thr,hrd->td", inner, up))
        divergence, (g,) = self.kl(t[None], log_p)
        back = torch.einsum("td,hrd->thr", g, up)
        return divergence[0], [torch.einsum("thd,thr->hdr", n, back), torch.einsum("thr,td->hrd", inner, g)]

    def _free(self, n: Tensor, log_p: Tensor, weight: Tensor) -> tuple[Tensor, list[Tensor]]:
        # the constants, as if no head wrote anything
        constant = self._shifted(torch.zeros_like(n[:1, 0])) @ self.kl.rows.T
        constant = constant if self.kl.bias is None else constant + self.kl.bias
        z = (n.flatten(1) @ weight.flatten(0, 1) + constant) * self.kl.scale
        slope: Tensor | float = 1.0
        if self.kl.cap is not None:
            bent = torch.tanh(z / self.kl.cap)
            z, slope = self.kl.cap * bent, 1 - bent.square()
        log_q = z.log_softmax(-1)
        p = log_p.exp()
        divergence = torch.where(p == 0, 0.0, p * (log_p - log_q)).sum(-1)
        g = (log_q.exp() - p) * slope * self.kl.scale
        return divergence, [(n.flatten(1).T @ g).unflatten(0, n.shape[1:])]


@technique(
    role="lens",
    entry=("4.3.4",),
    citation="Sakarvadia et al. 2023",
    cost="one forward + heads x positions x unembedding",
)
def read_attention_lens(
    model: Model,
    tokens: PromptsLike,
    lens: AttentionLens,
    *,
    targets: Target | Sequence[Target] = (),
    units: Sequence[int] | None = None,
    pos: int | None = None,
    k: int = 5,
    edits: Edit | Sequence[Edit] = (),
    max_logits: int | None = None,
) -> xr.Dataset:
    """Read what each head of a layer writes as words.

    Parameters
    ----------
    model
        The model. It must be the one that the lens was fitted for.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    lens
        From ``fit_attention_lens``.
    units
        Which heads; all by default.
    targets, pos, k, edits, max_logits
        As for ``logit_lens``.

    Returns
    -------
    xr.Dataset
        As of ``logit_lens``, with a dimension ``head`` after the positions. A head's ``logit`` is its share c n_h L_h,
        before any cap and without the biases, which belong to no head.

    Raises
    ------
    CasebackError
        For a lens of another model.
    TargetError, OutOfRange
        As for ``logit_lens``, and for a head that is not there.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> lens = fit_attention_lens(model, ["Mary went to the store."], layer=2, rank=1, steps=1, tokens_per_step=4)
    >>> read_attention_lens(model, "the cat and the dog", lens, pos=-1)["top_text"].dims
    ('layer', 'batch', 'head', 'k')
    """
    lens.expect(model)
    max_logits = limit("lens_logits", given=max_logits)
    expect_sizes(k, max_logits)
    tokens = model.tokens(tokens)
    chosen = units_of(model, "head_out", units)
    assert chosen is not None
    heads = _Heads(model, lens.layer)
    wanted, at = followed(model, tokens, targets), Places(tokens, pos)
    run = model.run(tokens, read=heads.sites, edits=edits)
    n, _ = heads.of(run)
    n, like = n[:, :, chosen], heads.kl.rows
    maps = [None if value is None else value[chosen].to(like) for value in (lens.weight, lens.down, lens.up)]

    def states(_: int, example: Tensor, column: Tensor) -> Tensor:
        return n[example.to(n.device), column.to(n.device)].to(like)

    def to_logits(x: Tensor) -> Tensor:
        each, (weight, down, up) = x.unflatten(0, (-1, len(chosen))), maps
        if weight is not None:
            return torch.einsum("thd,hdv->thv", each, weight).flatten(0, 1) * heads.kl.scale
        assert down is not None and up is not None
        inner = torch.einsum("thd,hdr->thr", each, down)
        return (each + torch.einsum("thr,hrd->thd", inner, up)).flatten(0, 1) @ like.T * heads.kl.scale

    readings, _ = read(run, 1, states, to_logits, len(chosen), at, wanted, min(k, model.d_vocab), max_logits)
    attrs = {"site": "head_out", "k": k, "lens": "attention"}
    return labelled_readings(
        model, [str(lens.layer)], at, wanted, readings, read_attention_lens, attrs, ("head", chosen)
    )
