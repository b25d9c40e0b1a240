"""Attention of packed suffixes: segments of like length as padded batches.

A suffix's queries see the clean run's keys and values before its start, and its own from there on:

    z_i = sum over j < start of a_ij v_j (clean) + sum over start <= j <= i of a_ij v_j (its own)

Clean keys and packed ones stand in one list, (batch x pos + row), so that a batch of segments takes all that it sees by
one index, made on the host once for all layers. Query heads that share a key head are further queries of that head:
keys are never repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from caseback.model.anatomy.sites import Site
from caseback.model.running.attention import additive, causal, mix, pattern_of, scores_of, unmasked
from caseback.model.running.edit import apply_edits
from caseback.model.running.edit_values import on
from caseback.model.running.frames import Frame
from caseback.model.running.session import Session
from caseback.model.sweeping.clean import Clean

_NO_PLANS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""The kernels that need no plan for each new shape: a sweep's buckets have many shapes, each used a few times."""


@dataclass
class Bucket:
    """Segments of like length, attended to as one padded batch.

    Attributes
    ----------
    keys
        (segment, key) where each key and value stands: a column of the clean run's prompts one after another, or,
        after all of these, a packed row.
    rows, columns, examples
        (segment, query) the packed row, the column and the prompt of each query; a shorter segment repeats its last.
    taken
        (segment, query) which queries are no such repetition.
    frame
        Layout of the padded queries, for edits of scores and patterns.
    """

    keys: Int[np.ndarray, "segment key"]
    rows: Int[np.ndarray, "segment query"]
    columns: Int[np.ndarray, "segment query"]
    examples: Int[np.ndarray, " segment"]
    taken: np.ndarray
    frame: Frame


@dataclass
class Layout:
    """All buckets of a pass through some layers, with what they index on the device.

    Attributes
    ----------
    buckets
        The buckets.
    keys
        Their keys, on the device.
    queries
        The packed rows of all buckets' queries, one bucket after another; None where that is all rows in order.
    place
        Of each packed row, where its query stands among them; None likewise.
    masks
        The masks made so far, bucket by bucket, by the ids of the clean run's mask and bias, for queries of one head
        or of all heads that share a key head.
    """

    buckets: Sequence[Bucket]
    keys: Sequence[Tensor]
    queries: Tensor | None
    place: Tensor | None
    masks: dict[tuple[int, int, int], list[Tensor]] = field(default_factory=dict)


def layout(buckets: Sequence[Bucket], n_rows: int, device: torch.device) -> Layout:
    """Buckets that hold ``n_rows`` rows between them, as one list of queries."""
    rows = np.concatenate([bucket.rows.ravel() for bucket in buckets])
    taken = np.flatnonzero(np.concatenate([bucket.taken.ravel() for bucket in buckets]))
    place = np.empty(n_rows, dtype=np.int64)
    place[rows[taken]] = taken
    keys = on(device, np.concatenate([bucket.keys for bucket in buckets])).split([len(each.keys) for each in buckets])
    as_they_stand = np.array_equal(rows, np.arange(n_rows))
    return Layout(buckets, keys, *((None, None) if as_they_stand else (on(device, rows), on(device, place))))


def of_like_length(lengths: dict[int, int]) -> list[list[int]]:
    """Segments, given as index and length, in batches of like length, so that padding stays small."""
    batches: list[list[int]] = []
    for i in sorted(lengths, key=lengths.__getitem__):
        if batches and (len(batches[-1]) < 8 or lengths[i] <= 1.4 * lengths[batches[-1][0]]):
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def attend(
    layout: Layout,
    clean: Clean,
    session: Session,
    layer: int,
    module: nn.Module,
    queries: Float[Tensor, "row head d_head"],
    keys: Float[Tensor, "row kv_head d_head"],
    values: Float[Tensor, "row kv_head d_head"],
    how: dict[str, Any],
    see: Callable[[Bucket, Tensor], None],
) -> Float[Tensor, "row head d_head"]:
    """Z of all rows, with the session's edits of scores and patterns; ``see`` gets a bucket's map that is read."""
    every_k = torch.cat([clean.k[layer].flatten(0, 1), keys])
    every_v = torch.cat([clean.v[layer].flatten(0, 1), values])
    every_q = queries if layout.queries is None else queries[layout.queries]
    how = {**how, "position_bias": None}
    plain = how.get("softcap") is None and how.get("s_aux") is None and getattr(module, "sinks", None) is None
    wanted = [site for site in (Site("scores", layer), Site("pattern", layer)) if session.wants(site)]
    fused = plain and not wanted
    shared = queries.shape[1] // keys.shape[1] if fused else 1
    masks = _masks(layout, clean, layer, queries, shared)
    sizes = [bucket.rows.size for bucket in layout.buckets]
    by_bucket = [every_q] if len(sizes) == 1 else every_q.split(sizes)
    out = []
    for bucket, q, at, mask in zip(layout.buckets, by_bucket, layout.keys, masks, strict=True):
        q = q.unflatten(0, bucket.rows.shape)
        k, v = every_k[at].transpose(1, 2), every_v[at].transpose(1, 2)
        if fused:
            out.append(_fused(q, k, v, mask, how.get("scaling"), shared))
            continue
        maps = scores_of(q.transpose(1, 2), k, mask, **how)
        for name in ("scores", "pattern"):
            if name == "pattern":
                maps = pattern_of(maps, module, **how)
            site = Site(name, layer)
            if site in wanted:
                x = maps.transpose(1, 2)
                edits = session.edits.get(site, ())
                seen = unmasked(mask).transpose(1, 2).flatten(0, 1)
                edited = apply_edits(edits, x.flatten(0, 1), bucket.frame, site, session.shifts, visible=seen)
                maps = edited.view_as(x).transpose(1, 2)
                if site in session.reads:
                    see(bucket, maps)
        out.append(mix(maps, v).flatten(0, 1))
    z = out[0] if len(out) == 1 else torch.cat(out)
    return z if layout.place is None else z[layout.place]


def _fused(
    q: Float[Tensor, "segment query head d_head"],
    k: Float[Tensor, "segment kv_head key d_head"],
    v: Float[Tensor, "segment kv_head key d_head"],
    mask: Tensor,
    scale: float | None,
    shared: int,
) -> Float[Tensor, "query head d_head"]:
    """Z by one kernel: query heads of one key head stand after each other as queries of it."""
    segments, count = q.shape[:2]
    if shared == 1:
        return _kernel(q.transpose(1, 2), k, v, mask, scale).transpose(1, 2).flatten(0, 1)
    grouped = q.unflatten(2, (-1, shared)).permute(0, 2, 3, 1, 4).flatten(2, 3)
    z = _kernel(grouped, k, v, mask, scale).unflatten(2, (shared, count))
    return z.permute(0, 3, 1, 2, 4).reshape(segments * count, -1, z.shape[-1])


def _kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float | None) -> Tensor:
    run = nn.functional.scaled_dot_product_attention
    if q.device.type != "cuda":
        return run(q, k, v, attn_mask=mask, scale=scale)
    with sdpa_kernel(_NO_PLANS):
        return run(q, k, v, attn_mask=mask, scale=scale)


def _masks(layout: Layout, clean: Clean, layer: int, q: Tensor, shared: int) -> list[Tensor]:
    """What each bucket's scores take on by the clean run's mask and bias: (segment, 1 or head, query, key)."""
    mask, bias = clean.masks[layer], clean.biases[layer]
    key = (id(mask), id(bias), shared)
    if key not in layout.masks:
        example = np.concatenate([np.repeat(b.examples, b.rows.shape[1]) for b in layout.buckets])
        column = np.concatenate([b.columns.ravel() for b in layout.buckets])
        batch, width = clean.tokens.shape
        low = torch.finfo(q.dtype).min
        mask = causal(width, width, q.device) if mask is None else mask[..., :width]
        added = additive(_of_queries(mask, example, column, batch), q.dtype)
        if bias is not None:
            added = (_of_queries(bias, example, column, batch).to(q.dtype) + added).clamp_min(low)
        added = added.to(q.dtype)
        sizes = [bucket.rows.size for bucket in layout.buckets]
        layout.masks[key] = [
            _of_heads(own.unflatten(0, bucket.rows.shape).transpose(1, 2), shared)
            for own, bucket in zip(added.split(sizes), layout.buckets, strict=True)
        ]
    return layout.masks[key]


def _of_queries(x: Tensor, example: np.ndarray, column: np.ndarray, batch: int) -> Float[Tensor, "query head key"]:
    """A mask's or a bias's rows of some queries; one for all prompts, or one for each."""
    at = example if x.shape[0] == batch else np.zeros_like(example)
    column = column if x.shape[2] > 1 else np.zeros_like(column)
    return x.transpose(1, 2)[on(x, at), on(x, column)]


def _of_heads(mask: Float[Tensor, "segment head query key"], shared: int) -> Tensor:
    """A mask for queries among which the heads that share a key head stand after each other."""
    if shared == 1:
        return mask
    if mask.shape[1] == 1:
        return mask.repeat(1, 1, shared, 1)
    return mask.unflatten(1, (-1, shared)).flatten(2, 3)
