"""Attention probes: a label of a text, read from wherever in it a learned query looks.

    a_hp = softmax_p(q_h x_p),    z = sum_h sum_p a_hp x_p V_h + b,    p(y | text) = softmax(z)

A mean over tokens drowns what one of them says and the last token may not have it; beside the probe stand linear probes
of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from caseback.decode.probes.aggregate import last_place, token_mask
from caseback.decode.probes.judged import table_of
from caseback.decode.probes.linear_probe import linear_probe
from caseback.decode.probes.mlp_probe import measures
from caseback.decode.probes.setting import Given, Labels, Setting
from caseback.decode.probes.training import expect_training, trained
from caseback.decode.representations import as_numbers, expect_fitting
from caseback.errors import OutOfRange
from caseback.jobs.budget import limit
from caseback.model.registry import technique

DIMS = "(site, example, pos, d_model)"


@dataclass(frozen=True)
class AttentionProbe:
    """An attention probe at each site.

    Attributes
    ----------
    query
        (site, d_model, head), of features as they are.
    value
        (site, d_model, head, class).
    bias
        (site, class).
    classes
        The labels, in the order of classes.
    table
        What was measured, by site.
    """

    query: Float[Tensor, "site d head"]
    value: Float[Tensor, "site d head class"]
    bias: Float[Tensor, "site class"]
    classes: list[Any]
    table: xr.Dataset

    def attention(self, x: Tensor, mask: Tensor | None = None) -> Float[Tensor, "site example head pos"]:
        """Where each head looks."""
        expect_fitting(x, *self.query.shape[:2])
        counted = token_mask(mask, tuple(x.shape[1:3]), x.device)
        z = torch.einsum("snpd,sdh->snhp", x.to(self.query), self.query)
        return z.masked_fill(~counted[:, None], -torch.inf).softmax(-1)

    def scores(self, x: Tensor, mask: Tensor | None = None) -> Float[Tensor, "site example class"]:
        """Of each class; differences of scores are log odds."""
        expect_fitting(x, *self.query.shape[:2])
        # padding may hold anything
        clean = x.to(self.query) if mask is None else x.to(self.query).masked_fill(~mask.bool()[..., None], 0)
        each = torch.einsum("snpd,sdhc->snhpc", clean, self.value)
        return (self.attention(clean, mask)[..., None] * each).sum((2, 3)) + self.bias[:, None]

    def predict(self, x: Tensor, mask: Tensor | None = None) -> list[list[Any]]:
        """The likeliest label of each text, by site."""
        return [[self.classes[i] for i in row] for row in self.scores(x, mask).argmax(-1).tolist()]


@technique(
    entry=("4.1.1", "B.35"),
    citation="Alain & Bengio 2016; McKenzie et al. 2025",
    cost="epochs passes over all tokens' features; no model is run",
)
def attention_probe(
    x: Any,
    y: Labels,
    *,
    mask: Tensor | None = None,
    heads: int = 1,
    weight_decay: float = 0.01,
    epochs: int = 60,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
    groups: Labels | None = None,
    types: Labels | None = None,
    sites: Sequence[Any] | None = None,
    n_folds: int = 4,
    resamples: int = 1000,
    seed: int = 0,
) -> AttentionProbe:
    """Train probes that choose the tokens they read, at many sites at once, and judge them on held-out groups.

    Parameters
    ----------
    x
        Representations of tokens (site, example, pos, d_model); (example, pos, d_model) of one site.
    y
        A label for each example, a text.
    mask
        (example, pos), which tokens count: no padding, and not the first token where the model parks attention there.
        By default all.
    heads
        Queries, each with weights of its own.
    weight_decay, epochs, batch_size, learning_rate
        Of AdamW, whose step falls along half a cosine. The epoch counts that an inner fold likes best.
    groups
        What each text belongs to (its template, its source): a group is never on both sides.
    types
        A type for each text, for the control task.
    sites
        Names of the sites; by default their numbers.
    n_folds
        Into how many parts groups are dealt; one is held out.
    resamples
        Resamples of the held-out groups for the 95 % interval.
    seed
        Same seed, same result.

    Returns
    -------
    AttentionProbe
        ``table`` has by site what ``mlp_probe`` gives, and ``mean`` and ``last``: accuracies, on the same texts, of
        linear probes of the mean over tokens and of the last one.

    Raises
    ------
    CasebackError
        For one class, counts that differ, a mask that leaves a text without tokens, too few groups or examples of a
        class, numbers that are not finite, and features that never vary.

    Notes
    -----
    Entries 4.1.1 and B.35: probes that pool tokens by attention, as in McKenzie et al. 2025 (arXiv 2506.10805).

    Examples
    --------
    >>> draw = torch.Generator().manual_seed(0)
    >>> x = torch.randn(1, 400, 12, 6, generator=draw)
    >>> place, y = torch.randint(0, 12, (400,), generator=draw), torch.randint(0, 2, (400,), generator=draw)
    >>> x[0, torch.arange(400), place, 0] = 6.0  # one token is marked, and says the label
    >>> x[0, torch.arange(400), place, 1] = 4.0 * y - 2
    >>> table = attention_probe(x, y, epochs=30, learning_rate=0.03).table
    >>> bool(table.accuracy[0] > 0.95), bool(table["last"][0] < 0.7)
    (True, True)
    """
    if not 1 <= heads <= 1024:
        raise OutOfRange(f"heads {heads}: expected from 1 to 1024")
    expect_training(epochs, batch_size, learning_rate, weight_decay)
    data = as_numbers(x, DIMS)
    counted = token_mask(mask, tuple(data.shape[1:3]), data.device)
    data = data.masked_fill(~counted[..., None], 0)
    setting = Setting.dealt(Given.of(data, y, groups=groups, sites=sites, dims=DIMS), n_folds=n_folds, seed=seed)
    random = np.random.default_rng(seed)
    tasks = setting.tasks(types, random)
    options = {
        **{"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate},
        **{"weight_decay": weight_decay, "seed": seed},
    }
    step = max(1, limit("probe_numbers", data.device) // data[0].numel())
    parts, weights = [], []
    for some in data.split(step):
        own, measured = _fitted(some, counted, setting, tasks, heads, options)
        parts.append(measured)
        weights.append(own)
    table = table_of({n: torch.cat([part[n] for part in parts]) for n in parts[0]}, setting, random, resamples)
    for name, pooled in pooled_tokens(data, counted).items():
        plain = linear_probe(pooled, y, groups=groups, sites=setting.names, n_folds=n_folds, resamples=1, seed=seed)
        table[name] = plain.table.accuracy
    table.attrs["heads"] = heads
    query, value, bias = (torch.cat(part) for part in zip(*weights, strict=True))
    return AttentionProbe(query, value, bias, setting.classes, table)


def pooled_tokens(
    x: Float[Tensor, "site example pos d"], mask: Bool[Tensor, "example pos"]
) -> dict[str, Float[Tensor, "site example d"]]:
    """The mean over the tokens that count, and the last one."""
    share = mask / mask.sum(-1, keepdim=True)
    row = torch.arange(len(mask), device=x.device)
    return {"mean": torch.einsum("snpd,np->snd", x, share.to(x)), "last": x[:, row, last_place(mask)]}


def _fitted(
    x: Tensor,
    counted: Bool[Tensor, "example pos"],
    setting: Setting,
    tasks: dict[str, np.ndarray],
    heads: int,
    options: dict[str, Any],
) -> tuple[tuple[Tensor, Tensor, Tensor], dict[str, Tensor]]:
    n_classes, d = len(setting.classes), x.shape[3]
    labels = torch.from_numpy(np.stack(list(tasks.values()))).to(x.device)
    validation = setting.train[setting.inner()[0]]
    rows = np.setdiff1d(setting.train, validation)
    known = torch.from_numpy(rows).to(x.device)
    tokens = x[:, known][:, counted[known]]
    mean, scale = tokens.mean(1), tokens.std(1, correction=0)
    scale = scale.masked_fill(scale <= torch.finfo(x.dtype).eps * mean.abs() * 4, 1)

    def forward(parameters: list[Tensor], some: Tensor) -> Float[Tensor, "site task example class"]:
        query, value, bias = parameters
        z = (x[:, some] - mean[:, None, None]) / scale[:, None, None]
        looks = torch.einsum("snpd,stdh->stnph", z, query).masked_fill(~counted[some][..., None], -torch.inf)
        each = torch.einsum("snpd,stdhc->stnphc", z, value)
        return (looks.softmax(3)[..., None] * each).sum((3, 4)) + bias[:, :, None]

    def loss(parameters: list[Tensor], some: Tensor, noise: torch.Generator | None) -> Tensor:
        del noise
        z = forward(parameters, some)
        target = labels[:, some].expand(len(x), -1, -1)
        return cross_entropy(z.flatten(0, 2), target.flatten(), reduction="none").view(z.shape[:3]).mean(-1)

    draw = torch.Generator().manual_seed(options["seed"])
    normal = lambda *shape: torch.randn(shape, generator=draw, dtype=torch.float64).to(x) / d**0.5  # noqa: E731
    start = [normal(d, heads), normal(d, heads, n_classes), x.new_zeros(n_classes)]
    start = [values.expand(len(x), len(tasks), *values.shape) for values in start]
    query, value, bias = best = trained(start, loss, rows, validation, **options)
    everything = torch.arange(x.shape[1], device=x.device).split(options["batch_size"])
    with torch.no_grad():
        log_p = torch.cat([forward(best, some).log_softmax(-1) for some in everything], 2)
    # of features as they are; what the mean adds to all tokens' looks is the same, and so nothing
    own = value[:, 0] / scale[..., None, None]
    shift = torch.einsum("sd,sdhc->sc", mean, own)
    return (query[:, 0] / scale[..., None], own, bias[:, 0] - shift), measures(log_p, labels, list(tasks), setting)
