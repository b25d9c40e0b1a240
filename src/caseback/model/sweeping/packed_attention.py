"""Attention of packed suffixes: segments of like length as one padded batch.

A suffix's queries see the clean run's keys and values before its start, and its own from there on:

    z_i = sum over j < start of a_ij v_j (clean) + sum over start <= j <= i of a_ij v_j (its own)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from caseback.model.anatomy.sites import Site
from caseback.model.running.attention import causal, mix, pattern_of, repeat_heads, scores_of
from caseback.model.running.edit_rows import apply_edits
from caseback.model.running.frames import Frame
from caseback.model.running.session import Session
from caseback.model.sweeping.clean import Clean


@dataclass
class Bucket:
    """Segments of like length, attended to as one padded batch.

    Attributes
    ----------
    example
        The prompt of each segment.
    rows, of, at, columns
        Of every token of these segments: its packed row, its segment, its place there and its column of the prompt.
    q_rows, q_columns
        (segment, query) the packed row and the column of each query; a shorter segment repeats its last.
    q_of, q_at, q_take
        Of every query that is not such a repetition: its segment, its place there, and the row that its z goes to.
    frame
        Layout of the padded queries, for edits of scores and patterns.
    masks
        The masks made so far, by the ids of the clean run's mask and bias.
    """

    example: Tensor
    rows: Tensor
    of: Tensor
    at: Tensor
    columns: Tensor
    q_rows: Tensor
    q_columns: Tensor
    q_of: Tensor
    q_at: Tensor
    q_take: Tensor
    frame: Frame
    masks: dict[tuple[int, int], Tensor] = field(default_factory=dict)


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
    bucket: Bucket,
    clean: Clean,
    session: Session,
    layer: int,
    module: nn.Module,
    queries: Float[Tensor, "row head d_head"],
    keys: Float[Tensor, "row kv_head d_head"],
    values: Float[Tensor, "row kv_head d_head"],
    how: dict[str, Any],
    see: Callable[[Bucket, Tensor], None],
) -> Float[Tensor, "taken head d_head"]:
    """Z of a bucket's queries, with the session's edits of scores and patterns; ``see`` gets the map that is read."""
    q = queries[bucket.q_rows].transpose(1, 2)
    k, v = clean.k[layer][bucket.example], clean.v[layer][bucket.example]
    k[bucket.of, bucket.columns] = keys[bucket.rows]
    v[bucket.of, bucket.columns] = values[bucket.rows]
    k, v = (repeat_heads(x.transpose(1, 2), q.shape[1]) for x in (k, v))
    mask = _mask(bucket, clean, layer, q)
    how = {**how, "position_bias": None}
    plain = how.get("softcap") is None and how.get("s_aux") is None and getattr(module, "sinks", None) is None
    wanted = [site for site in (Site("scores", layer), Site("pattern", layer)) if session.wants(site)]
    if plain and not wanted:
        z = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=how.get("scaling"))
        return z.transpose(1, 2)[bucket.q_of, bucket.q_at]
    maps = scores_of(q, k, mask, **how)
    for name in ("scores", "pattern"):
        if name == "pattern":
            maps = pattern_of(maps, module, **how)
        site = Site(name, layer)
        if site in wanted:
            x = maps.transpose(1, 2)
            edits = session.edits.get(site, ())
            maps = apply_edits(edits, x.flatten(0, 1), bucket.frame, site, session.shifts).view_as(x).transpose(1, 2)
            if site in session.reads:
                see(bucket, maps)
    return mix(maps, v)[bucket.q_of, bucket.q_at]


def _mask(bucket: Bucket, clean: Clean, layer: int, q: Tensor) -> Tensor:
    """The clean run's mask, and its position bias, for the bucket's queries: (S, 1 or head, Q, key)."""
    mask, bias = clean.masks[layer], clean.biases[layer]
    key = (id(mask), id(bias))
    if key not in bucket.masks:
        batch, width = clean.tokens.ids.shape
        mask = causal(width, width, q.device) if mask is None else mask[..., :width]
        at = bucket.example if mask.shape[0] == batch else torch.zeros_like(bucket.example)
        taken = mask.transpose(1, 2)[at[:, None], bucket.q_columns].transpose(1, 2)
        if bias is not None:
            at = bucket.example if bias.shape[0] == batch else torch.zeros_like(bucket.example)
            low = torch.finfo(q.dtype).min
            rows = bias[at].to(q.dtype)
            taken = torch.where(taken, rows, low) if taken.dtype == torch.bool else (rows + taken).clamp_min(low)
        bucket.masks[key] = taken if taken.dtype == torch.bool else taken.to(q.dtype)
    return bucket.masks[key]
