"""Crosscoders and cross-layer transcoders, target by target: what each reconstruction explains, and what it costs.

    row (dictionary, m)        x^m is replaced by x^m^, alone, in the model that has it; all other sites as they are
    row (dictionary, all)      all targets at once, of a cross-layer transcoder: codes are of the unedited run

One target's reconstruction alone says how good it is there; all of a stream's at once would be the last one's alone.
Random directions stand beside: as long at every target, and as many active.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from caseback.decode.dictionaries.architectures.cross_layer import CrossLayerTranscoder
from caseback.decode.dictionaries.architectures.several_sources import SeveralSources
from caseback.decode.dictionaries.features.places import source_names, target_names
from caseback.decode.dictionaries.measures.controls import l0_of, match_l0
from caseback.decode.dictionaries.measures.decoder_rows import encoder_agreement, nearest_rows
from caseback.decode.dictionaries.measures.reconstruction import long_from, measures_of
from caseback.decode.dictionaries.measures.replacement import Batch, flat, has_next, passes, predictions, put
from caseback.decode.dictionaries.measures.sums import Sums, coded
from caseback.errors import ArgumentError, CasebackError, OutOfRange, TokensError
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.coerce import widened
from caseback.model.anatomy.sites import Site, as_site
from caseback.model.argument_kinds import JUDGED_BY_THE_FUNCTION
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model
from caseback.model.running.run import execute
from caseback.model.running.tokens import PromptsLike
from caseback.tasks.corpus import counted_tokens

ALL = "all"
MATCHED_ON = 2**12  # tokens on which a random dictionary gets its L0
_LONG = 10.0  # medians beyond which a token's norm is left out, as in training

Models = Annotated[Model | Mapping[str, Model], JUDGED_BY_THE_FUNCTION]
"""A model, or two of a crosscoder's sources by name, which come before its sites: ``"base:resid_post.5"``."""


@technique(
    entry=("4.2.15", "B.11", "B.25"),
    citation="Lindsey et al. 2024; Ameisen et al. 2025",
    cost="two passes for each target of each dictionary",
)
def source_measures(
    model: Models,
    dictionaries: Mapping[str, SeveralSources],
    prompts: PromptsLike,
    *,
    skip_first: int = 1,
    skip_special: bool = True,
    seed: int = 0,
    batch_tokens: int | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Measure dictionaries of several sources at each of their targets.

    Parameters
    ----------
    model
        The model; of crosscoders of two models, both by the names that their sources begin with.
    dictionaries
        By name; crosscoders and cross-layer transcoders.
    prompts
        Texts that none of them was trained on.
    skip_first, skip_special, batch_tokens, progress
        As in ``replacement_measures``.
    seed
        Same seed, same result. It draws the random directions.

    Returns
    -------
    xr.Dataset
        By ``dictionary``, a row for each target and its random one: what ``reconstruction_measures`` and
        ``replacement_measures`` call ``explained_variance`` in all its definitions, ``l0``, ``cosine``,
        ``relative_bias``, ``dead_share``, ``nearest_row``, ``encoder_agreement``, ``ce_increase``, ``ce_recovered``,
        ``kl`` and ``kl_ratio``, with the coordinates ``kind``, ``of`` and ``site``; of
        cross-layer transcoders a row for all targets at once, which has no explained variance. Attributes: ``ce_clean``
        of the first model, ``tokens``, what was skipped.

    Raises
    ------
    ArgumentError
        For sources that no model has, and two models that read texts otherwise.
    TokensError
        For prompts without a token that counts.
    OutOfRange
        For ``skip_first`` below 0.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.dictionaries import Facts, TopKCrosscoder
    >>> facts = Facts(by_norm=True, provenance={"sites": ["resid_post.0", "resid_post.2"]})
    >>> one = TopKCrosscoder(160, 320, n_sources=2, k=8, facts=facts)
    >>> table = source_measures(cb.load("meadow"), {"one": one}, ["Mary went to the store.", "the cat sat"])
    >>> table.dictionary.values.tolist()[:2]
    ['one at resid_post.0', 'one at resid_post.2']
    """
    if skip_first < 0:
        raise OutOfRange(f"skip_first is {skip_first}: expected 0 or more")
    if not isinstance(dictionaries, Mapping) or not dictionaries:
        raise ArgumentError("dictionaries are given by name: {'one': crosscoder}")
    ends = {name: _ends(model, name, one) for name, one in dictionaries.items()}
    first = next(iter(model.values())) if isinstance(model, Mapping) else model
    tokens = first.tokens(prompts)
    expect_same_tokens(model, tokens.ids[:, : min(64, tokens.shape[1])].tolist())
    taken = counted_tokens(first, tokens, skip_first, skip_special)
    counted = taken & has_next(tokens)
    if not bool(counted.any()):
        raise TokensError(
            f"no token counts: the first {skip_first} and the last of each prompt, and special ones, do not"
        )
    batches = list(passes(tokens, taken, counted, batch_tokens or limit("stream_tokens", first.device)))
    rows: dict[str, dict[str, Any]] = {}
    for name, one in dictionaries.items():
        own = one.to(first.device)
        sample = _states(ends[name][0], batches[:1])[:MATCHED_ON]
        both = {name: own, f"{name}, random": random_sources(own, sample, seed=seed)}
        rows |= _rows(name, both, *ends[name], batches, seed, progress)
    n = int(counted.sum())
    words = {0: [], 1: ["the first token"]}.get(skip_first, [f"the first {skip_first} tokens"])
    skipped = ", ".join([*words, *(["special tokens"] if skip_special else [])]) or "nothing"
    ce = sum(float(_losses(first, batch, [], None)[0][0]) for batch in batches) / n
    names = list(next(iter(rows.values()))["numbers"])
    arrays = {key: ("dictionary", [row["numbers"][key] for row in rows.values()]) for key in names}
    coords = {key: ("dictionary", [row[key] for row in rows.values()]) for key in ("kind", "of", "site")}
    attrs = {"ce_clean": ce, "tokens": n, "skipped": skipped, "seed": seed}
    of = labelled(arrays["ce_increase"][1], ["dictionary"], technique=source_measures, model=first, **attrs).attrs
    return xr.Dataset(arrays, {"dictionary": list(rows), **coords}, of)


def source_states(model: Models, name: str, dictionary: SeveralSources, prompts: PromptsLike) -> Iterator[Tensor]:
    """States (token, source, d) of some texts behind their first tokens, batch by batch."""
    ends = _ends(model, name, dictionary)[0]
    tokens = ends[0].model.tokens(prompts)
    taken = counted_tokens(ends[0].model, tokens, 1, True)
    for batch in passes(tokens, taken, taken, limit("stream_tokens", ends[0].model.device)):
        yield _states(ends, [batch])


class End(NamedTuple):
    """One source or target: the model that has it, and where."""

    model: Model
    site: Site
    name: str


def expect_same_tokens(model: Models, rows: list[list[int]]) -> None:
    """Refuse two models whose tokenizers write the same ids for other texts.

    Raises
    ------
    ArgumentError
    """
    if not isinstance(model, Mapping) or len(model) < 2:
        return
    texts = {name: [[one.token_text(i) for i in row] for row in rows] for name, one in model.items()}
    (name, first), *others = texts.items()
    for other, own in others:
        if own != first:
            raise ArgumentError(f"{other} has other tokens than {name}: a crosscoder reads the same tokens in both")


def _ends(model: Models, name: str, dictionary: SeveralSources) -> tuple[list[End], list[End]]:
    return tuple(  # pyright: ignore[reportReturnType]
        [_end(model, name, one) for one in names] for names in (source_names(dictionary), target_names(dictionary))
    )


def _end(model: Models, name: str, source: str) -> End:
    of, colon, place = source.partition(":")
    own = model.get(of) if isinstance(model, Mapping) else model
    if isinstance(model, Mapping) and (own is None or not colon):
        of = ", ".join(model)
        raise ArgumentError(
            f"{name!r} reads {source}: expected sources of {of}, such as {next(iter(model))}:resid_post.5"
        )
    if not isinstance(own, Model) or (colon and not isinstance(model, Mapping)):
        raise ArgumentError(f"{name!r} reads {source}, a source of two models: give both by name")
    place = place if colon else source
    try:
        (site,) = own.anatomy.sites(as_site(place))
    except (CasebackError, ValueError):
        raise ArgumentError(f"{name!r} reads {source}, which is no one site of {own.name}") from None
    return End(own, site, source)


@torch.no_grad()
def _states(ends: Sequence[End], batches: Sequence[Batch]) -> Tensor:
    """(token, source, d), at the tokens that are replaced."""
    parts = []
    for batch in batches:
        own = [execute(end.model.anatomy, batch.tokens, read=[end.site], logits=False)[end.site] for end in ends]
        parts.append(torch.stack([flat(x)[batch.taken] for x in own], 1))
    return torch.cat(parts)


@torch.no_grad()
def random_sources(dictionary: SeveralSources, x: Tensor, *, seed: int = 0) -> SeveralSources:
    """The same dictionary with random directions, as long at every target, of which as many are active."""
    other = copy.deepcopy(dictionary)
    draw = torch.Generator().manual_seed(int(np.random.default_rng([seed, 1]).integers(2**62)))  # no recipe's own start
    x = x.to(other.W_enc)
    for rows, width in ((other.W_enc, other.d_in), (other.W_dec, other.d_out)):
        parts = rows.reshape(-1, width)
        drawn = torch.randn(parts.shape, generator=draw, dtype=torch.float64).to(parts)
        if rows is other.W_dec and not isinstance(other, CrossLayerTranscoder):
            drawn = other.W_enc.reshape(-1, width)  # what is read is what is written
        drawn = drawn / drawn.norm(dim=1, keepdim=True).clamp_min(1e-12) * parts.norm(dim=1, keepdim=True)
        rows.copy_(drawn.view_as(rows))
    other.b_enc.zero_()
    if not isinstance(other, CrossLayerTranscoder):
        other.b_dec.copy_(other.normalized(x).mean(0))
    match_l0(other, x, l0_of(dictionary, x))
    return other


def _rows(
    name: str,
    both: Mapping[str, SeveralSources],
    sources: Sequence[End],
    targets: Sequence[End],
    batches: Sequence[Batch],
    seed: int,
    progress: bool,
) -> dict[str, dict[str, Any]]:
    """All rows of a dictionary and of the random one beside it."""
    sums = {who: [Sums.of(one) for _ in targets] for who, one in both.items()}
    at_once = isinstance(next(iter(both.values())), CrossLayerTranscoder)
    places = [*targets, *([End(targets[0].model, targets[0].site, ALL)] if at_once else [])]
    draw = np.random.default_rng(seed)
    nats: dict[tuple[str, str], Tensor] = {}
    for batch in progress_bar(batches, f"splice {name}", show=progress, unit="batch"):
        x, wanted = (_states(ends, [batch]) for ends in (sources, targets))
        clean = {
            id(one): _losses(one, batch, [], None) for one in {id(end.model): end.model for end in targets}.values()
        }
        values = {"zero": torch.zeros_like(wanted)}
        for who, one in both.items():
            values[who], fired = coded(one, x)
            for m, own in enumerate(sums[who]):
                own.add(wanted[:, m], values[who][:, m], fired)
            noise = torch.from_numpy(draw.standard_normal(wanted.shape)).to(wanted)
            lengths = (wanted - values[who]).norm(dim=-1, keepdim=True)
            values[f"{who}, noise"] = wanted + noise / noise.norm(dim=-1, keepdim=True) * lengths
        for place in places:
            nats["clean", place.name] = nats.get(("clean", place.name), 0) + clean[id(place.model)][0]
            for who, new in values.items():
                some = [(end, new[:, m]) for m, end in enumerate(targets) if place.name in (ALL, end.name)]
                lost = _losses(place.model, batch, some, clean[id(place.model)][1])[0]
                nats[who, place.name] = nats.get((who, place.name), 0) + lost
    n = sum(int(batch.counted.sum()) for batch in batches)
    rows = {}
    for who, one in both.items():
        up_to = long_from(sums[who][0], _LONG)
        of_rows = {
            "nearest_row": float(nearest_rows(one).mean()) if not at_once else float("nan"),
            "encoder_agreement": float(encoder_agreement(one).mean()) if not at_once else float("nan"),
        }
        for m, place in enumerate(places):
            of_target = measures_of(sums[who][min(m, len(targets) - 1)], up_to)
            if place.name == ALL:
                of_target |= {key: float("nan") for key in of_target if key not in ("l0", "dead_share")}
            (ce, kl), (clean_ce, _), (zero, _), (_, random) = (
                (nats[key, place.name] / n).tolist() for key in (who, "clean", "zero", f"{who}, noise")
            )
            rows[f"{who} at {place.name}"] = {
                "kind": "trained" if who == name else "random",
                "of": f"{name} at {place.name}",
                "site": place.name,
                "numbers": of_target
                | of_rows
                | {
                    "ce_increase": ce - clean_ce,
                    "ce_recovered": (zero - ce) / (zero - clean_ce) if zero != clean_ce else float("nan"),
                    "kl": kl,
                    "kl_ratio": kl / random if random else float("nan"),
                },
            }
    return rows


def _losses(
    model: Model, batch: Batch, written: Sequence[tuple[End, Tensor]], log_p: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Cross entropy and divergence from ``log_p``, summed over counted tokens, with values in their places."""
    clean = (
        execute(model.anatomy, batch.tokens, read=[end.site for end, _ in written], logits=False) if written else None
    )
    edits = [] if clean is None else [put(clean, end.site, batch, values) for end, values in written]
    log_q = widened(predictions(model, batch, [], edits)[1])
    following = batch.tokens.ids.roll(-1, 1)[batch.counted][:, None].to(log_q.device)
    before = log_q if log_p is None else widened(log_p).to(log_q.device)
    return torch.stack([-log_q.gather(1, following).sum(), (before.exp() * (before - log_q)).sum()]).cpu(), log_q
