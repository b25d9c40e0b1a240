"""The logit lens: what the model would predict if the stream went to its end from here (PRIMER 4.3.1).

    lens(x^l) = cap(scale * (norm(x^l) W_U + b_U)),    every layer read by the model's own last steps.

Nothing is fitted, so the last layer's reading is the model's output, and a layer that writes in another basis than
the last one is misread: early layers of some families are. Readings are summed up as they are formed; logits of more
than ``max_logits`` entries never exist at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import OutOfRange, UnknownSite
from caseback.model.edits import Edit
from caseback.model.metrics import Target, target_ids
from caseback.model.model import Model
from caseback.model.norms import at_least_float32
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.run import Run
from caseback.model.sites import SITES, Site, parse
from caseback.model.tokens import Tokens
from caseback.model.verify import unembed

_OF_TARGETS = ("prob", "rank", "logit")
_STATISTICS = ("top_id", "top_prob", "entropy", "kl", *_OF_TARGETS)


@technique(
    entry=("4.3.1",),
    citation="nostalgebraist 2020",
    cost="one forward + layers x positions x unembedding",
)
def logit_lens(
    model: Model,
    tokens: Any,
    *,
    targets: Target | Sequence[Target] = (),
    site: str = "resid_post",
    pos: int | None = None,
    k: int = 5,
    edits: Edit | Sequence[Edit] = (),
    max_logits: int = 2**24,
) -> xr.Dataset:
    """Read the stream after every layer as a prediction, through the model's own final norm and unembedding.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    targets
        Tokens to follow through the layers: ids or texts of one token each; an entry that is itself a list gives
        one token a prompt.
    site
        What is read: ``"resid_post"`` (with the embedding as its first row), or another site of shape (pos, d_model)
        that every layer has: a write such as ``"mlp_out"`` is read as if it were the whole stream.
    pos
        Read one position of each prompt (negative ones from its end); all of them by default.
    k
        How many of the most probable tokens to keep.
    edits
        Interventions under which the model runs.
    max_logits
        The most logits formed at once; 2**24 are 64 MB in float32, and a few times that while they are summed up.

    Returns
    -------
    xr.Dataset
        ``top_id``, ``top_text``, ``top_prob`` (layer, batch, pos, k), most probable first; ``entropy`` and ``kl``
        (layer, batch, pos) in nats, the latter KL(final || lens) from the model's prediction; for targets ``prob``,
        ``rank`` (1 is the most probable) and ``logit`` (layer, batch, pos, vocab). Positions count each prompt's own
        tokens; where a shorter prompt has none, numbers are NaN and ids and ranks 0. Layers are named ``"embed"``
        (the stream before the first), ``"0"``, ``"1"`` ... With ``pos`` given there is no dimension ``pos``.
        The attribute ``last_layer_gap`` is the largest difference between the last layer's logits and the model's:
        0, or rounding.

    Raises
    ------
    UnknownSite
        For a site that is no stream.
    TargetError
        For a target that is not one token.
    OutOfRange
        For a position that a prompt does not have, and for ``k`` or ``max_logits`` below 1.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> lens = logit_lens(model, "the cat and the dog", targets=" cat")
    >>> lens["rank"].dims, lens.sizes["layer"] == model.n_layers + 1
    (('layer', 'batch', 'pos', 'vocab'), True)
    >>> float(abs(lens["kl"].sel(layer=str(model.n_layers - 1))).max()) < 1e-6
    True
    """
    tokens = model.tokens(tokens)
    if k < 1 or max_logits < 1:
        raise OutOfRange(f"k is {k} and max_logits {max_logits}: expected at least 1 of each")
    sites = _rows_of(model, site)
    wanted = _followed(model, tokens, targets)
    run = model.run(tokens, read=sites, edits=edits)
    at = _Places(tokens, pos)
    found, gap = _read(model, run, sites, at, wanted, min(k, model.d_vocab), max_logits)
    # only the whole stream after the last layer is what the model itself unembeds
    attrs = {
        "site": sites[-1].name,
        "k": k,
        "last_layer_gap": gap if sites[-1].name == "resid_post" else None,
    }
    return _labelled(model, sites, at, wanted, found, attrs)


def _rows_of(model: Model, site: str) -> list[Site]:
    """The sites read, in the order of the computation."""
    name, layer = parse(site)
    kind = SITES[name]
    if kind.dims != ("pos", "d_model") or not kind.layered or layer is not None:
        streams = [n for n, s in SITES.items() if s.dims == ("pos", "d_model") and s.layered]
        raise UnknownSite(
            f"the lens reads a stream of every layer, {site!r} is none: choose one of {', '.join(streams)}"
        )
    return [Site("resid_pre", 0)] * (name == "resid_post") + list(model.anatomy.sites(name))


def _followed(model: Model, tokens: Tokens, targets: Target | Sequence[Target]) -> Int[Tensor, "batch target"]:
    one = isinstance(targets, str | int | Tensor)
    each = [target_ids(t, tokens, model.tokenizer, model.d_vocab) for t in ([targets] if one else targets)]
    return torch.stack(each, -1) if each else torch.empty(len(tokens), 0, dtype=torch.long, device=tokens.ids.device)


class _Places:
    """The (prompt, column) pairs that are read, and where each goes in a result."""

    def __init__(self, tokens: Tokens, pos: int | None):
        self.single = pos is not None
        if pos is None:
            self.example, self.column = tokens.mask.nonzero(as_tuple=True)
        else:
            self.column = tokens.column(pos)
            self.example = torch.arange(len(tokens), device=self.column.device)
        own = (self.column - tokens.first[self.example]).cpu().numpy()
        self.text = [tokens.text[b][p] for b, p in zip(self.example.tolist(), own.tolist(), strict=True)]
        self.at = (self.example.cpu().numpy(), own * (not self.single))
        self.shape = (len(tokens), int(self.at[1].max()) + 1)

    def put(self, values: np.ndarray) -> np.ndarray:
        """(layer, place, ...) as (layer, batch, pos, ...), or (layer, batch, ...) for a single position."""
        absent = {"f": np.nan, "U": ""}.get(values.dtype.kind, 0)
        made = np.full((len(values), *self.shape, *values.shape[2:]), absent, values.dtype)
        made[:, self.at[0], self.at[1]] = values
        return made[:, :, 0] if self.single else made


def _read(
    model: Model,
    run: Run,
    sites: list[Site],
    at: _Places,
    wanted: Int[Tensor, "batch target"],
    k: int,
    max_logits: int,
) -> tuple[dict[str, Tensor], float]:
    """Every statistic as (layer, place, ...), and by how much the last layer's logits differ from the model's."""
    rows = max(1, max_logits // model.d_vocab)
    pieces: dict[str, list[list[Tensor]]] = {name: [[] for _ in sites] for name in _STATISTICS}
    gap = 0.0
    for start in range(0, len(at.example), rows):
        example, column = at.example[start : start + rows], at.column[start : start + rows]
        final = run.logits[example.to(run.logits.device), column.to(run.logits.device)]
        final_log_p = at_least_float32(final).log_softmax(-1)
        for layer, site in enumerate(sites):
            stream = run[site.name, site.layer]
            here = (example.to(stream.device), column.to(stream.device))
            with torch.no_grad():
                logits = unembed(model.anatomy, stream[here]).to(final.device)
            if layer == len(sites) - 1:
                gap = max(gap, float((logits - final).abs().max()))
            for name, value in _summed_up(logits, final_log_p, wanted[example].to(final.device), k):
                pieces[name][layer].append(value.cpu())
    return {name: torch.stack([torch.cat(row) for row in layers]) for name, layers in pieces.items()}, gap


def _summed_up(
    logits: Float[Tensor, "row vocab"],
    final_log_p: Float[Tensor, "row vocab"],
    wanted: Int[Tensor, "row target"],
    k: int,
) -> Iterator[tuple[str, Tensor]]:
    logits = at_least_float32(logits)
    log_p = logits.log_softmax(-1)
    p, final_p = log_p.exp(), final_log_p.exp()
    top = log_p.topk(k, -1)
    chosen = logits.gather(-1, wanted)
    yield "top_id", top.indices
    yield "top_prob", top.values.exp()
    yield "entropy", torch.special.entr(p).sum(-1)
    # a vocabulary entry that the model rules out has probability 0 and log probability minus infinity
    yield "kl", torch.where(final_p == 0, 0.0, final_p * (final_log_p - log_p)).sum(-1).clamp_min(0)
    yield "prob", p.gather(-1, wanted)
    rank = torch.zeros_like(wanted)
    for i, own in enumerate(chosen.unbind(-1)):
        rank[:, i] = (logits > own[:, None]).sum(-1) + 1
    yield "rank", rank
    yield "logit", chosen


def _labelled(
    model: Model,
    sites: list[Site],
    at: _Places,
    wanted: Int[Tensor, "batch target"],
    found: dict[str, Tensor],
    attrs: dict[str, Any],
) -> xr.Dataset:
    dims = ["layer", "batch"] if at.single else ["layer", "batch", "pos"]
    values = {name: value.numpy() for name, value in found.items()}
    if not wanted.shape[1]:
        values = {name: value for name, value in values.items() if name not in _OF_TARGETS}
    values["top_text"] = _texts(model, values["top_id"])
    coords = {
        "layer": [
            "embed" if s == Site("resid_pre", 0) and sites[-1].name == "resid_post" else str(s.layer) for s in sites
        ],
        "token": (tuple(dims[1:]), at.put(np.array([at.text], dtype=str))[0]),
    }
    followed = {
        "vocab_id": (("batch", "vocab"), wanted),
        "vocab_text": (("batch", "vocab"), _texts(model, wanted.cpu().numpy())),
    }
    made = {}
    for name, value in values.items():
        last = ["vocab"] if name in _OF_TARGETS else ["k"] if name.startswith("top") else []
        more = coords | followed if name in _OF_TARGETS else coords
        made[name] = labelled(
            at.put(value), [*dims, *last], more, name=name, technique=logit_lens, model=model, **attrs
        )
    return xr.Dataset(made, attrs=made["kl"].attrs)


def _texts(model: Model, ids: np.ndarray) -> np.ndarray:
    """Each id's text, asked of the tokenizer once."""
    some, where = np.unique(ids, return_inverse=True)
    return np.array([model.token_text(int(i)) for i in some] or [""], dtype=str)[where].reshape(ids.shape)
