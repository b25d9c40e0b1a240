"""Many distributions over the vocabulary, summarized as they are formed: what every lens has in common.

A lens gives for each place (a token of a prompt), each layer and, where it has several (heads, neurons), each unit a
row of logits z. With p = softmax(z) and f the model's own prediction there,

    entropy = -sum p log p        kl = sum f log(f / p)        js = KL(f || m) / 2 + KL(p || m) / 2,  m = (f + p) / 2
    surprise = -log p(next token of the prompt)                rank = 1 + #{v : z_v > z_target}

in nats. Logits of more than ``max_logits`` entries never exist at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from caseback.errors import OutOfRange
from caseback.model.anatomy.classes import expect_tokens_out
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.results import labelled
from caseback.model.running.metrics import Target, target_ids
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import Tokens

OF_TARGETS = ("prob", "rank", "logit")
TOP = ("top_id", "top_prob")
ALL = (*TOP, "entropy", "kl", "js", "surprise", *OF_TARGETS)

States = Callable[[int, Int[Tensor, " place"], Int[Tensor, " place"]], Float[Tensor, "place unit d_model"]]
"""What is read at a layer, given as a row of the result, for some places: (example, column) of the padded batch."""
ToLogits = Callable[[Float[Tensor, "row d_model"]], Float[Tensor, "row vocab"]]
"""How it is read, the same in every layer: the largest matrix, the unembedding, is gone through once for as many layers
as fit."""


class Places:
    """The (prompt, column) pairs that are read, and where each goes in a result.

    ``ahead`` is for a lens that reads at t what the model predicts at t + ahead: only places that have a token there
    are kept, and the model's own prediction and the token that followed are those of t + ahead.
    """

    def __init__(self, tokens: Tokens, pos: int | None, ahead: int = 0):
        self.single = pos is not None
        if pos is None:
            self.example, self.column = tokens.mask.nonzero(as_tuple=True)
        else:
            self.column = tokens.column(pos)
            self.example = torch.arange(len(tokens), device=self.column.device)
        end = (tokens.first + tokens.lengths)[self.example]
        if ahead:
            inside = self.column + ahead < end
            self.example, self.column, end = self.example[inside], self.column[inside], end[inside]
        if not len(self.example):
            raise OutOfRange(f"no prompt has a token {ahead} after the one that is read: give longer prompts")
        self.predicted_at = self.column + ahead
        own = (self.column - tokens.first[self.example]).cpu().numpy()
        self.text = [tokens.text[b][p] for b, p in zip(self.example.tolist(), own.tolist(), strict=True)]
        self.at = (self.example.cpu().numpy(), own * (not self.single))
        self.shape = (len(tokens), int(self.at[1].max()) + 1)
        following = self.predicted_at + 1
        self.next_id = tokens.ids[self.example, following.clamp(max=tokens.ids.shape[1] - 1)]
        self.has_next: Bool[Tensor, " place"] = following < end

    def put(self, values: np.ndarray) -> np.ndarray:
        """(layer, place, ...) as (layer, batch, pos, ...), or (layer, batch, ...) for a single position."""
        grid = on_grid(values, self.shape, self.at)
        return grid[:, :, 0] if self.single else grid


def on_grid(values: np.ndarray, shape: tuple[int, int], at: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """(layer, place, ...) as (layer, batch, pos, ...); what no place fills is NaN, empty or 0.

    Examples
    --------
    >>> on_grid(np.array([[1.0, 2.0, 3.0]]), (2, 2), (np.array([0, 0, 1]), np.array([0, 1, 0]))).tolist()
    [[[1.0, 2.0], [3.0, nan]]]
    """
    absent = {"f": np.nan, "U": ""}.get(values.dtype.kind, 0)
    grid = np.full((len(values), *shape, *values.shape[2:]), absent, values.dtype)
    grid[:, at[0], at[1]] = values
    return grid


def followed(model: Model, tokens: Tokens, targets: Target | Sequence[Target]) -> Int[Tensor, "batch target"]:
    """The ids of the tokens that are followed: the same for all prompts, or a list with one per prompt."""
    one = isinstance(targets, str | int | Tensor)
    each = [target_ids(t, tokens, model.tokenizer, model.d_vocab) for t in ([targets] if one else targets)]
    return torch.stack(each, -1) if each else torch.empty(len(tokens), 0, dtype=torch.long, device=tokens.ids.device)


def expect_sizes(k: int, max_logits: int) -> None:
    """Refuse to keep no token, or to form no logits.

    Raises
    ------
    OutOfRange
        For a number below 1.
    """
    if k < 1 or max_logits < 1:
        raise OutOfRange(f"k is {k} and max_logits {max_logits}: expected at least 1 of each")


def read(
    run: Run,
    layers: int,
    states: States,
    to_logits: ToLogits,
    units: int,
    at: Places,
    wanted: Int[Tensor, "batch target"],
    k: int,
    max_logits: int,
    names: Sequence[str] = ALL,
) -> tuple[dict[str, Float[Tensor, "layer place unit *rest"]], float]:
    """Every statistic of every layer, and by how much the last layer's logits differ from the model's.

    Parameters
    ----------
    run
        A run that kept its logits.
    layers
        How many rows the result has.
    states, to_logits
        What is read in each row, and how.
    units
        How many states a place has in each row.
    at
        Where it is read.
    wanted
        Tokens that are followed, for each prompt.
    k
        How many of the most probable tokens are kept.
    max_logits
        The most logits formed at once.
    names
        Which statistics; others are not computed.
    """
    expect_tokens_out(run.anatomy, "a lens")
    fitting = max(1, max_logits // (run.logits.shape[-1] * units))
    step = min(fitting, len(at.example))
    pieces: dict[str, list[Tensor]] = {name: [] for name in names}
    gap = 0.0
    for start in range(0, len(at.example), step):
        here = slice(start, start + step)
        example, column = at.example[here], at.column[here]
        final = run.logits[example.to(run.logits.device), at.predicted_at[here].to(run.logits.device)]
        reference = (at_least_float32(final).log_softmax(-1), wanted[example].to(final.device), at.next_id[here, None])
        beside = [each.to(final.device).repeat_interleave(units, 0) if units > 1 else each for each in reference]
        final_log_p, followed_ids, next_id = beside
        summaries: dict[str, list[Tensor]] = {name: [] for name in names}
        together = max(1, fitting // len(example))
        for group in (range(layers)[first : first + together] for first in range(0, layers, together)):
            with torch.no_grad():
                held = [states(layer, example, column).flatten(0, 1).to(final.device) for layer in group]
                held = torch.stack(held)
                logits = to_logits(held.flatten(0, 1)).unflatten(0, held.shape[:2]).to(final.device)
            if group[-1] == layers - 1 and units == 1:
                gap = max(gap, float((logits[-1] - final).abs().max()))
            for name, value in _summed_up(logits, final_log_p, followed_ids, next_id, k, names):
                if name in summaries:
                    summaries[name].append(value.unflatten(1, (-1, units)).cpu())
        for name, values in summaries.items():
            pieces[name].append(torch.cat(values))
    statistics = {name: torch.cat(values, 1) for name, values in pieces.items()}
    if "surprise" in statistics:
        statistics["surprise"][:, ~at.has_next.cpu()] = torch.nan
    return statistics, gap


def _summed_up(
    logits: Float[Tensor, "layer row vocab"],
    final_log_p: Float[Tensor, "row vocab"],
    wanted: Int[Tensor, "row target"],
    next_id: Int[Tensor, "row 1"],
    k: int,
    names: Sequence[str],
) -> Iterator[tuple[str, Float[Tensor, "layer row *rest"]]]:
    logits = at_least_float32(logits)
    log_p = logits.log_softmax(-1)
    top = log_p.topk(k, -1)
    yield "top_id", top.indices
    yield "top_prob", top.values.exp()
    if set(names) <= set(TOP):
        return
    p, final_p = log_p.exp(), final_log_p.exp()
    wanted, next_id = (ids.expand(len(logits), *ids.shape) for ids in (wanted, next_id))
    chosen = logits.gather(-1, wanted)
    entropy = torch.special.entr(p).sum(-1)
    yield "entropy", entropy
    # a vocabulary entry that the model rules out has probability 0 and log probability minus infinity
    yield "kl", torch.where(final_p == 0, 0.0, final_p * (final_log_p - log_p)).sum(-1).clamp_min(0)
    if "js" in names:
        middle, final_entropy = torch.special.entr((p + final_p) / 2).sum(-1), torch.special.entr(final_p).sum(-1)
        yield "js", (middle - (entropy + final_entropy) / 2).clamp_min(0)
    if "surprise" in names:
        yield "surprise", -log_p.gather(-1, next_id)[..., 0]
    yield "prob", p.gather(-1, wanted)
    rank = torch.zeros_like(wanted)
    for i, own in enumerate(chosen.unbind(-1)):
        rank[..., i] = (logits > own[..., None]).sum(-1) + 1
    yield "rank", rank
    yield "logit", chosen


def labelled_readings(
    model: Model,
    layers: Sequence[str],
    at: Places,
    wanted: Int[Tensor, "batch target"],
    statistics: dict[str, Tensor],
    technique: Callable[..., Any],
    attrs: dict[str, Any],
    units: tuple[str, Sequence[Any]] | None = None,
) -> xr.Dataset:
    """Name the statistics' axes: layer, batch, pos (unless one position is read), units if any, k or vocab."""
    lead = ["layer", "batch"] if at.single else ["layer", "batch", "pos"]
    values = {name: value.numpy() for name, value in statistics.items()}
    if units is None:
        values = {name: value[:, :, 0] for name, value in values.items()}
    if not wanted.shape[1]:
        values = {name: value for name, value in values.items() if name not in OF_TARGETS}
    values["top_text"] = texts_of(model, values["top_id"])
    coords: dict[str, Any] = {
        "layer": list(layers),
        "token": (tuple(lead[1:]), at.put(np.array([at.text], dtype=str))[0]),
    }
    dims = lead
    if units is not None:
        dims, coords[units[0]] = [*lead, units[0]], list(units[1])
    of_targets = {
        "vocab_id": (("batch", "vocab"), wanted),
        "vocab_text": (("batch", "vocab"), texts_of(model, wanted.cpu().numpy())),
    }
    variables = {}
    for name, value in values.items():
        last = ["vocab"] if name in OF_TARGETS else ["k"] if name.startswith("top") else []
        more = coords | of_targets if name in OF_TARGETS else coords
        variables[name] = labelled(
            at.put(value), [*dims, *last], more, name=name, technique=technique, model=model, **attrs
        )
    return xr.Dataset(variables, attrs=next(iter(variables.values())).attrs)


def texts_of(model: Model, ids: np.ndarray) -> np.ndarray:
    """Each id's text, asked of the tokenizer once."""
    some, where = np.unique(ids, return_inverse=True)
    return np.array([model.token_text(int(i)) for i in some] or [""], dtype=str)[where].reshape(ids.shape)
