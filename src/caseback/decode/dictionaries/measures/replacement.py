"""What the model loses when a dictionary's reconstruction takes the place of its states (entries 4.2.15, 4.2.21).

    recovered = (CE_zero - CE_spliced) / (CE_zero - CE_clean);       raw: CE_spliced - CE_clean
    KL(p_clean || p_spliced)         the same, and its ratio to the KL of t + r, r random, |r| = |t - t^|

The same share with the mean state in place of zeros is lower, and a share near 1 can hide half a nat: all are given.
Errors of dictionaries have done several times the harm of random ones of their length (Gurnee 2024).

The token at which a reconstruction stands predicts the next one; both losses are means over the tokens that are
replaced and have a next one. A transcoder reads its site in the clean run, and what it writes stands at its target.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from caseback.decode.dictionaries.architectures.several_sources import expect_one_source
from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.measures.given import Dictionaries, named
from caseback.decode.dictionaries.measures.sums import coded
from caseback.decode.states import of_like_length
from caseback.errors import ArgumentError, CasebackError, OutOfRange, TokensError
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.classes import expect_tokens_out
from caseback.model.anatomy.coerce import in_float64, widened
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.edits import Edit, Replace
from caseback.model.running.model import Model
from caseback.model.running.run import Run, execute
from caseback.model.running.tokens import PromptsLike, Tokens
from caseback.model.running.verify import unembed
from caseback.tasks.corpus import counted_tokens


@technique(
    entry=("4.2.15", "4.2.21", "B.11"),
    citation="Bricken et al. 2023; Gurnee 2024; Karvonen et al. 2025",
    cost="one forward over the prompts, two for each site, and 1 + n_random for each dictionary",
)
def replacement_measures(
    model: Model,
    dictionaries: Dictionaries,
    prompts: PromptsLike,
    *,
    skip_first: int = 1,
    skip_special: bool = True,
    n_random: int = 1,
    seed: int = 0,
    batch_tokens: int | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Measure what a model loses with dictionaries' reconstructions in place of its states.

    Parameters
    ----------
    model
        The model.
    dictionaries
        One, or several by name; each is spliced alone, at the site that its ``facts`` name.
    prompts
        Texts, of which each has a token behind those that are skipped, and one behind that.
    skip_first
        Tokens at the beginning of each prompt that are neither replaced nor counted: dictionaries are mostly trained
        without the first, whose states are many times longer.
    skip_special
        Do the same with the tokenizer's special tokens.
    n_random
        Random errors of the same length, drawn for each token; their mean is given.
    seed
        Same seed, same result. It draws the random errors.
    batch_tokens
        Tokens of a pass, padding included; by default as the budget has it.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        By ``dictionary``: ``ce`` with the reconstruction, ``ce_increase`` over the model's own, ``ce_recovered`` of
        zeros and ``ce_recovered_of_mean``; ``kl``, ``kl_recovered`` and ``kl_recovered_of_mean``; ``kl_random`` and
        ``kl_ratio``, of random errors as long; ``ce_zero``, ``ce_mean``, ``kl_zero``, ``kl_mean`` at its site. In nats.
        Attributes: ``ce_clean``, ``tokens``, and what was skipped.

    Raises
    ------
    ArgumentError
        For a dictionary whose site is not known, or is not one of the model's.
    TokensError
        For prompts without a token that counts, and dictionaries of another width.
    OutOfRange
        For ``skip_first`` or ``n_random`` below 0.

    Notes
    -----
    Entries 4.2.15, 4.2.21 and B.11. A mean state is that of the same tokens. A dictionary that is the identity has
    ``ce_recovered`` 1, one that writes zeros 0, both exactly.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.dictionaries import Facts, TopK
    >>> model = cb.load("meadow")
    >>> random = TopK(model.d_model, 320, k=8, facts=Facts(site="resid_post.2"))
    >>> text = "When {} and {} went to the store, {} gave a drink to {}."
    >>> prompts = [text.format("Mary", "John", "John", "Mary"), text.format("Anna", "Tom", "Tom", "Anna")]
    >>> table = replacement_measures(model, random, prompts)
    >>> bool(table.ce_increase > 0), table.attrs["skipped"]
    (True, 'the first token, special tokens')
    """
    expect_tokens_out(model.anatomy, "a loss of the next token")
    if skip_first < 0 or n_random < 0:
        raise OutOfRange(f"skip_first {skip_first}, n_random {n_random}: expected 0 or more")
    spliced = {name: splice_of(model, name, one) for name, one in named(dictionaries).items()}
    tokens = model.tokens(prompts)
    taken = counted_tokens(model, tokens, skip_first, skip_special)
    counted = taken & has_next(tokens)
    if not bool(counted.any()):
        raise TokensError(
            f"no token counts: the first {skip_first} and the last of each prompt, and special ones, do not"
        )
    budget = batch_tokens or limit("stream_tokens", model.device)
    batches = list(passes(tokens, taken, counted, budget))
    means = _means(model, spliced, batches)
    random = {name: [np.random.default_rng([seed, i]) for i in range(n_random)] for name in spliced}
    totals: dict[Any, Tensor] = {}
    for batch in progress_bar(batches, "splice", show=progress, unit="batch"):
        for key, value in _measured(model, spliced, batch, means, random):
            totals[key] = totals.get(key, 0) + value
    n = int(counted.sum())
    nats = {key: (value / n).tolist() for key, value in totals.items()}
    rows = [_row(nats, name, s, n_random) for name, s in spliced.items()]
    first = {0: [], 1: ["the first token"]}.get(skip_first, [f"the first {skip_first} tokens"])
    skipped = ", ".join([*first, *(["special tokens"] if skip_special else [])]) or "nothing"
    attrs = {"ce_clean": nats["clean"][0], "tokens": n, "skipped": skipped, "n_random": n_random, "seed": seed}
    arrays: dict[str, Any] = {name: (["dictionary"], [row[name] for row in rows]) for name in rows[0]}
    of = labelled(arrays["ce"][1], ["dictionary"], technique=replacement_measures, model=model, **attrs).attrs
    return xr.Dataset(arrays, {"dictionary": list(spliced)}, of)


class Splice(NamedTuple):
    """A dictionary, and the sites of the model that it reads and writes."""

    dictionary: Dictionary
    site: Site
    target: Site


class Batch(NamedTuple):
    """Some prompts, which of their tokens are replaced, and which of these have a next one."""

    tokens: Tokens
    taken: Bool[Tensor, "batch pos"]
    counted: Bool[Tensor, "batch pos"]


def splice_of(model: Model, name: str, dictionary: Dictionary) -> Splice:
    """The sites of one dictionary.

    Raises
    ------
    ArgumentError
        Where its facts do not say which one it reads, or name several, or none of this model.
    """
    facts = dictionary.facts
    expect_one_source(dictionary, "what a model loses by a reconstruction")
    if not facts.site:
        raise ArgumentError(f"{name!r} does not say where it reads: expected facts=Facts(site='resid_post.5')")
    sites: list[Site] = []
    for given in (facts.site, facts.target or facts.site):
        try:
            several = list(model.anatomy.sites(given))
        except CasebackError as error:
            raise ArgumentError(f"{name!r} is of {given}: {error}") from None
        if len(several) != 1:
            raise ArgumentError(f"{name!r} is of {given}, which are {len(several)} sites: expected one, with its layer")
        sites += several
    return Splice(dictionary, *sites)


def has_next(tokens: Tokens) -> Bool[Tensor, "batch pos"]:
    """Which tokens have one behind them in their prompt."""
    return tokens.mask & torch.nn.functional.pad(tokens.mask[:, 1:], (0, 1), value=False)


def passes(tokens: Tokens, taken: Tensor, counted: Tensor, budget: int) -> Iterator[Batch]:
    """Prompts of like length together, with the columns that any of them needs."""
    for rows in of_like_length(tokens, budget):
        at = rows.to(tokens.ids.device)
        columns = tokens.mask[at].any(0).nonzero()[:, 0]
        part = slice(int(columns[0]), int(columns[-1]) + 1)
        some = Tokens(tokens.ids[at, part], tokens.mask[at, part], [tokens.text[i] for i in rows.tolist()])
        yield Batch(some, taken[at, part], counted[at, part])


def flat(x: Float[Tensor, "batch pos *unit"]) -> Float[Tensor, "batch pos d"]:
    """A site's states as vectors; heads stand side by side."""
    return x.flatten(2)


def _means(model: Model, spliced: Mapping[str, Splice], batches: Sequence[Batch]) -> dict[Site, Tensor]:
    """The mean state of replaced tokens at each target, and a look at every width."""
    reads = sorted({site for s in spliced.values() for site in s[1:]}, key=str)
    sums: dict[Site, Tensor] = {}
    for batch in batches:
        run = execute(model.anatomy, batch.tokens, read=reads, logits=False)
        for site in reads:
            states = in_float64(flat(run[site])[batch.taken])
            sums[site] = sums.get(site, 0) + states.sum(0)
    for name, (one, site, target) in spliced.items():
        have = len(sums[site]), len(sums[target])
        if (one.d_in, one.d_out) != have:
            wanted = f"{one.d_in} numbers and writes {one.d_out}"
            raise TokensError(f"{name!r} reads {wanted}: {site} of this model has {have[0]}, {target} {have[1]}")
    n = sum(int(batch.taken.sum()) for batch in batches)
    return {site: total / n for site, total in sums.items()}


def _measured(
    model: Model,
    spliced: Mapping[str, Splice],
    batch: Batch,
    means: Mapping[Site, Tensor],
    random: Mapping[str, Sequence[np.random.Generator]],
) -> Iterator[tuple[Any, Float[Tensor, "2"]]]:
    """The cross entropy and the divergence, summed over counted tokens, under each key: what is put where."""
    reads = sorted({site for s in spliced.values() for site in s[1:]}, key=str)
    clean, clean_log_p = predictions(model, batch, reads, [])
    following = batch.tokens.ids.roll(-1, 1)[batch.counted][:, None]

    def losses(log_q: Tensor) -> Tensor:
        wide, p = widened(log_q), widened(clean_log_p)
        return torch.stack([-wide.gather(1, following.to(wide.device)).sum(), (p.exp() * (p - wide)).sum()])

    def spliced_in(target: Site, values: Tensor) -> Tensor:
        return losses(predictions(model, batch, [], [put(clean, target, batch, values)])[1])

    yield "clean", losses(clean_log_p)
    for target in sorted({s.target for s in spliced.values()}, key=str):
        mean = means[target]
        yield ("zero", target), spliced_in(target, torch.zeros_like(mean))
        yield ("mean", target), spliced_in(target, mean)
    for name, (one, site, target) in spliced.items():
        truth = flat(clean[target])[batch.taken]
        written = coded(one, flat(clean[site])[batch.taken])[0].to(truth.device)
        yield ("dictionary", name), spliced_in(target, written)
        lengths = (in_float64(truth) - in_float64(written)).norm(dim=1, keepdim=True)
        for number, draw in enumerate(random[name]):
            noise = torch.from_numpy(draw.standard_normal(truth.shape)).to(lengths.device)
            noise = noise / noise.norm(dim=1, keepdim=True) * lengths
            yield ("random", name, number), spliced_in(target, in_float64(truth) + noise)


def put(clean: Run, target: Site, batch: Batch, values: Tensor) -> Edit:
    """The edit that puts values at the replaced tokens of a batch, and leaves the others as they are."""
    states = clean[target]
    new = flat(states).clone()
    new[batch.taken] = values.to(new)
    # an edit counts a prompt's own positions from 0
    own = torch.zeros_like(new)
    rows, columns = batch.tokens.mask.nonzero(as_tuple=True)
    own[rows, batch.tokens.position_ids[rows, columns]] = new[rows, columns]
    return Replace(target.name, own.reshape(states.shape), layer=target.layer)


def predictions(
    model: Model, batch: Batch, reads: Sequence[Site], edits: Sequence[Edit]
) -> tuple[Run, Float[Tensor, "token vocab"]]:
    """A run, and log probabilities behind each counted token; logits of no others are formed."""
    last = Site("resid_post", model.anatomy.n_layers - 1)
    run = execute(model.anatomy, batch.tokens, read=[*reads, last], edits=edits, logits=False)
    with torch.no_grad():
        logits = unembed(model.anatomy, run[last][batch.counted])
    return run, at_least_float32(logits).log_softmax(-1)


def _row(nats: Mapping[Any, list[float]], name: str, splice: Splice, n_random: int) -> dict[str, float]:
    ce_clean = nats["clean"][0]
    (ce, kl), (ce_zero, kl_zero), (ce_mean, kl_mean) = (
        nats[key] for key in (("dictionary", name), ("zero", splice.target), ("mean", splice.target))
    )
    kl_random = float(np.mean([nats["random", name, i][1] for i in range(n_random)])) if n_random else float("nan")
    return {
        "ce": ce,
        "ce_increase": ce - ce_clean,
        "ce_recovered": _share(ce_zero - ce, ce_zero - ce_clean),
        "ce_recovered_of_mean": _share(ce_mean - ce, ce_mean - ce_clean),
        "kl": kl,
        "kl_recovered": _share(kl_zero - kl, kl_zero),
        "kl_recovered_of_mean": _share(kl_mean - kl, kl_mean),
        "kl_random": kl_random,
        "kl_ratio": _share(kl, kl_random),
        "ce_zero": ce_zero,
        "ce_mean": ce_mean,
        "kl_zero": kl_zero,
        "kl_mean": kl_mean,
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
