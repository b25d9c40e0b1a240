"""Verification: a model's anatomy is believed only after these identities hold on a short run.

    resid_pre[0] = embed + pos_embed            resid_post = resid_pre + attn_out + mlp_out
    resid_mid = resid_pre + attn_out            logits = cap(scale * (final_norm(resid_post[-1]) W_U + b_U))
    attn_out = sum_h head_out + attn_bias       z = pattern v, the pattern's rows sum to one (with a sink: to less)
    mlp_out = mlp_post W_out + b_out            pattern = softmax(scores)
    x W_Q + b_Q = what its module makes of x    (so for W_K and W_V)
    logits while everything is read = logits

Where a family joins writes to its stream otherwise than by adding (``Family.joins``), + stands for that.

Each is a tensor comparison in the model's own precision; the first that fails is named in the refusal.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from caseback.errors import AnatomyError, EditError
from caseback.model.anatomy.anatomy import Anatomy, LayerParts
from caseback.model.anatomy.dense import bias_of, weight_matrix
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.anatomy.stream import joins
from caseback.model.running.affine import Fade
from caseback.model.running.attention import pattern_of, repeat_heads
from caseback.model.running.edit import apply_edits
from caseback.model.running.edits import Mean, Noise
from caseback.model.running.frames import Frame, Span
from caseback.model.running.run import Run, execute
from caseback.model.running.tokens import Tokens

READ = (
    "embed",
    "pos_embed",
    "resid_pre",
    "attn_norm",
    "attn_out",
    "head_out",
    "resid_mid",
    "v",
    "scores",
    "pattern",
    "z",
    "mlp_post",
    "mlp_out",
    "resid_post",
    "final_norm",
)
_LOGITS = Site("logits")
TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-4, torch.float16: 3e-2, torch.bfloat16: 1e-1}


def probe_tokens(anatomy: Anatomy, width: int = 10) -> Tokens:
    """Two short rows of ids spread over the vocabulary, no longer than the model's context."""
    width = min(width, anatomy.context or width)
    steps = torch.arange(2 * width).view(2, width)
    ids = (steps * 7919 + 3) % anatomy.d_vocab
    tokens = Tokens(ids, torch.ones_like(ids, dtype=torch.bool), [[""] * width] * 2)
    return tokens.to(anatomy.device)


def identities(anatomy: Anatomy, run: Run) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Each identity with its two sides."""
    start = run["embed"] + run["pos_embed"] if Site("pos_embed") in run.sites else run["embed"]
    yield "embed + pos_embed = resid_pre[0]", start, run["resid_pre", 0]
    for i, p in enumerate(anatomy.layers):
        yield from _layer_identities(anatomy, run, i, p)
    yield "logits = unembedding of final_norm(resid_post[-1])", unembed(anatomy, run["resid_post", -1]), run.logits


def _layer_identities(anatomy: Anatomy, run: Run, i: int, p: LayerParts) -> Iterator[tuple[str, Tensor, Tensor]]:
    at = lambda name: run[name, i]  # noqa: E731
    join_attn, join_mlp = joins(anatomy, i)
    summed = join_attn(at("resid_pre"), at("attn_out"))
    if not p.parallel:
        yield f"resid_pre + attn_out = resid_mid, layer {i}", summed, at("resid_mid")
    whole = join_mlp(summed, at("mlp_out"))
    yield f"resid_pre + attn_out + mlp_out = resid_post, layer {i}", whole, at("resid_post")
    yield from _projection_identities(anatomy, run, i, p)
    heads = at("head_out").sum(2)
    yield f"sum of head_out + attn_bias = attn_out, layer {i}", heads + _bias_share(anatomy, p, run, i), at("attn_out")
    if Site("pattern", i) in run.sites:
        recomputed = (at("pattern") @ repeat_heads(at("v").transpose(1, 2), p.dims.n_heads)).transpose(1, 2)
        yield f"pattern v = z, layer {i}", recomputed, at("z")
        yield f"softmax(scores) = pattern, layer {i}", pattern_of(at("scores"), p.attn), at("pattern")
        if getattr(p.attn, "sinks", None) is None:
            total = at("pattern").sum(-1)
            yield f"the pattern's rows sum to one, layer {i}", total, torch.ones_like(total)
    if p.w_out is not None and p.mlp_post_norm is None:
        bias = bias_of(p.w_out)
        recomputed = at("mlp_post") @ weight_matrix(p.w_out).to(at("mlp_post"))
        recomputed = (recomputed if bias is None else recomputed + bias.to(recomputed)) * anatomy.residual_scale
        yield f"mlp_post W_out + b_out = mlp_out, layer {i}", recomputed, at("mlp_out")


def _projection_identities(anatomy: Anatomy, run: Run, i: int, p: LayerParts) -> Iterator[tuple[str, Tensor, Tensor]]:
    """What heads' matrices make of the stream beside what their modules make of it."""
    x = run["attn_norm", i] if Site("attn_norm", i) in run.sites else run["resid_pre", i]
    for name, projection in (("Q", p.q), ("K", p.k), ("V", p.v)):
        if projection is not None:
            given = projection.module.forward(x).to(x.device)[..., projection.rows.to(x.device)]
            by_head = torch.einsum("bpd,hde->bphe", x, projection.weight().to(x))
            bias = projection.bias()
            by_head = by_head if bias is None else by_head + bias.to(x)
            yield f"x W_{name} + b_{name} = its module's output, layer {i}", by_head, given


def _bias_share(anatomy: Anatomy, p: LayerParts, run: Run, i: int) -> Tensor | float:
    """What attention adds beside its heads: b_O or, where a norm follows, what that makes of b_O and adds itself."""
    z = run["z", i].flatten(2)
    bias = bias_of(p.o)
    bias = None if bias is None else bias.to(z)
    if p.attn_post_norm is None:
        return 0.0 if bias is None else bias * anatomy.residual_scale
    norm = anatomy.norms[p.attn_post_norm]
    o_out = z @ weight_matrix(p.o).to(z) + (0.0 if bias is None else bias)
    share = 0.0 if bias is None else norm.frozen(bias.expand_as(o_out), norm.scale(o_out))
    return (share + (0.0 if norm.beta is None else norm.beta)) * anatomy.residual_scale


def unembed(anatomy: Anatomy, resid: Tensor, vocab: Tensor | None = None) -> Tensor:
    """Logits of a stream: final norm, unembedding, logit scale and soft-cap (``vocab``: only these entries).

    Parameters
    ----------
    resid
        (..., d_model), the stream after the last layer or wherever a lens reads it.
    vocab
        Entries to form: (k,) the same for all, or with ``resid`` (row, d_model), (row, k) for each row. They are
        formed in float32 at least.

    Raises
    ------
    EditError
        For a model under edits of ``final_norm`` or ``logits`` at positions that they name: a stream does not say which
        its rows are of. Those of all positions are made.
    """
    x = resid if anatomy.final_norm is None else anatomy.final_norm(resid)
    x = under_edits(anatomy, Site("final_norm"), x)
    if not any(site == _LOGITS for site, _ in anatomy.standing):
        return unembed_normed(anatomy, x, vocab).to(resid.device)
    logits = under_edits(anatomy, _LOGITS, unembed_normed(anatomy, x)).to(resid.device)
    if vocab is None:
        return logits
    vocab = vocab.to(logits.device)
    return at_least_float32(logits[..., vocab] if vocab.ndim == 1 else logits.gather(-1, vocab))


def under_edits(anatomy: Anatomy, site: Site, x: Tensor) -> Tensor:
    """States of tokens by themselves with the standing edits that are made at a site, such as behind the last layer."""
    edits = [(None, edit) for where, edit in anatomy.standing if where == site]
    for _, edit in edits:
        values = [getattr(edit, name, None) for name in ("value", "factor")]
        differs = edit.tied or isinstance(edit, Noise | Fade | Mean)
        differs = differs or any(isinstance(value, Tensor) and value.ndim > 1 for value in values)
        if differs or edit.pos is not None or edit.prompt is not None:
            raise EditError(
                f"this model stands under {edit.describe()}, and what is computed of a state by itself, such as its "
                "logits, does not say which position it is of: give an edit of all positions, the same at each"
            )
    if not edits or not x.numel():
        return x
    rows = x.flatten(0, -2)
    frame = Frame([Span(0, 0, 0, len(rows), 0)], [len(rows)])
    return apply_edits(edits, rows, frame, site, lambda at: np.zeros(len(at), dtype=np.int64)).view_as(x)


def unembed_normed(anatomy: Anatomy, x: Tensor, vocab: Tensor | None = None) -> Tensor:
    """The same for a stream that has passed the final norm."""
    if anatomy.family.readout is not None:
        x = anatomy.family.readout(anatomy.hf, x)
    if anatomy.unembed_project is not None:
        x = anatomy.unembed_project(x)
    if vocab is None:
        logits = anatomy.unembed(x)
    else:
        # few entries cost little, and of half precision a difference of logits would keep two digits
        x = at_least_float32(x)
        matrix, bias = weight_matrix(anatomy.unembed), bias_of(anatomy.unembed)
        weight = matrix.T[vocab.to(matrix.device)].to(x)
        logits = x @ weight.T if vocab.ndim == 1 else torch.einsum("rd,rkd->rk", x, weight)
        logits = logits if bias is None else logits + bias[vocab.to(bias.device)].to(x)
    if anatomy.logit_scale != 1.0:
        logits = logits * anatomy.logit_scale
    if anatomy.logit_softcap is not None:
        logits = torch.tanh(logits / anatomy.logit_softcap) * anatomy.logit_softcap
    return logits


def verify(anatomy: Anatomy) -> dict[str, float]:
    """Check the identities and return by how much each holds, relative to the larger side.

    Raises
    ------
    AnatomyError
        Naming the first identity that fails.
    """
    reads = [name for name in READ if name not in anatomy.lacks]
    tokens = probe_tokens(anatomy)
    plain, run = execute(anatomy, tokens), execute(anatomy, tokens, read=reads)
    with torch.no_grad():
        return _compare(anatomy, run, plain.logits)


def _compare(anatomy: Anatomy, run: Run, logits: Tensor) -> dict[str, float]:
    # quantized modules may multiply in half precision, whatever they give
    tolerance = TOLERANCE.get(torch.bfloat16 if anatomy.packed else run.logits.dtype, 2e-4)
    errors: dict[str, float] = {}
    unread = ("logits while everything is read = logits", run.logits, logits)
    for name, left, right in (unread, *identities(anatomy, run)):
        if left.shape != right.shape:
            raise AnatomyError(
                f"{type(anatomy.hf).__name__} (model type {anatomy.model_type!r}) does not fit its anatomy: "
                f"the sides of the identity '{name}' have shapes {tuple(left.shape)} and {tuple(right.shape)}"
            )
        size = float(right.abs().max())
        off = float((left.to(right.dtype) - right).abs().max()) / max(size, 1e-6)
        errors[name] = off
        if not off <= tolerance:
            raise AnatomyError(
                f"{type(anatomy.hf).__name__} (model type {anatomy.model_type!r}) does not fit its anatomy: "
                f"the identity '{name}' is off by {off:.2g} of its size (at most {tolerance:g} is rounding)"
            )
    return errors
