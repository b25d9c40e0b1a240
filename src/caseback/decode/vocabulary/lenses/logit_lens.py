"""The logit lens: what the model would predict if the stream went to its end from here (PRIMER 4.3.1).

    lens(x^l) = cap(scale * (norm(x^l) W_U + b_U)),    every layer read by the model's own last steps.

Nothing is fitted, so the last layer's reading is the model's output, and a layer that writes in another basis than
the last one is misread: early layers of some families are. What a head, an MLP or a neuron writes is read in the same
way, as if it were the whole stream; the final norm then makes it as long as a whole stream is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from caseback.decode.vocabulary.lenses.lens_statistics import (
    ALL,
    TOP,
    Places,
    States,
    expect_sizes,
    followed,
    labelled_readings,
    read,
)
from caseback.errors import OutOfRange, UnknownSite
from caseback.jobs.budget import limit
from caseback.model.algebra.writes import mlp_branch
from caseback.model.anatomy.dense import weight_shape
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import SITES, Site, parse
from caseback.model.registry import technique
from caseback.model.running.edits import Edit
from caseback.model.running.metrics import Target
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import PromptsLike
from caseback.model.running.verify import unembed


@technique(
    role="lens",
    entry=("4.3.1",),
    citation="nostalgebraist 2020",
    cost="one forward + layers x positions x unembedding",
)
def logit_lens(
    model: Model,
    tokens: PromptsLike,
    *,
    targets: Target | Sequence[Target] = (),
    site: str = "resid_post",
    units: Sequence[int] | None = None,
    pos: int | None = None,
    k: int = 5,
    edits: Edit | Sequence[Edit] = (),
    max_logits: int | None = None,
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
        one token per prompt.
    site
        What is read: ``"resid_post"`` (with the embedding as its first row), or another site of shape (pos, d_model)
        that every layer has: a write such as ``"mlp_out"`` is read as if it were the whole stream. So are
        ``"head_out"``, each head's write, and ``"mlp_post"``, each neuron's write n_u w_out_u.
    units
        Which heads or neurons are read; all heads by default, while neurons must be named.
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
        ``top_id``, ``top_text``, ``top_prob`` (layer, batch, pos, k), most probable first; ``entropy``, ``kl``,
        ``js`` and ``surprise`` (layer, batch, pos) in nats: KL(final || lens) and the Jensen-Shannon divergence from
        the model's prediction, and minus the log probability of the prompt's next token (NaN at its last); for
        targets ``prob``, ``rank`` (1 is the most probable) and ``logit`` (layer, batch, pos, vocab). Heads and
        neurons add a dimension ``head`` or ``neuron`` after the positions. Positions count each prompt's own
        tokens; where a shorter prompt has none, numbers are NaN and ids and ranks 0. Layers are named ``"embed"``
        (the stream before the first), ``"0"``, ``"1"`` ... With ``pos`` given there is no dimension ``pos``.
        The attribute ``last_layer_gap`` is the largest difference between the last layer's logits and the model's:
        0, or rounding.

    Raises
    ------
    UnknownSite
        For a site that is not read as a stream.
    TargetError
        For a target that is not one token.
    OutOfRange
        For a position, head or neuron that is not there, for ``k`` or ``max_logits`` below 1, and for neurons that
        are not named.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> lens = logit_lens(model, "the cat and the dog", targets=" cat")
    >>> lens["rank"].dims, lens.sizes["layer"] == model.n_layers + 1
    (('layer', 'batch', 'pos', 'vocab'), True)
    >>> float(abs(lens["kl"].sel(layer=str(model.n_layers - 1))).max()) < 1e-6
    True
    >>> logit_lens(model, "the cat and the dog", site="head_out", pos=-1)["top_text"].dims
    ('layer', 'batch', 'head', 'k')
    """
    tokens = model.tokens(tokens)
    max_logits = limit("lens_logits", given=max_logits)
    expect_sizes(k, max_logits)
    sites = _rows_of(model, site)
    chosen = units_of(model, sites[-1].name, units)
    wanted = followed(model, tokens, targets)
    run = model.run(tokens, read=sites, edits=edits)
    return _lens(model, run, sites, Places(tokens, pos), k, max_logits, chosen, wanted)


def lens_of_run(
    model: Model, run: Run, *, targets: Target | Sequence[Target] = (), k: int = 5, names: Sequence[str] = TOP
) -> xr.Dataset:
    """What the lens of the whole stream says of a run that has read ``STREAM``.

    For whoever needs that run for something else too, or the answer while somebody types.

    Parameters
    ----------
    model, targets, k
        As for ``logit_lens``.
    run
        The run.
    names
        Which statistics are computed, the most probable tokens among them.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> top = lens_of_run(model, model.run("the cat and the dog", read=STREAM))
    >>> top.equals(logit_lens(model, "the cat and the dog")[["top_id", "top_prob", "top_text"]])
    True
    """
    expect_sizes(k, 1)
    wanted = followed(model, run.tokens, targets)
    sites, at = _rows_of(model, "resid_post"), Places(run.tokens, None)
    return _lens(model, run, sites, at, k, limit("lens_logits"), None, wanted, names)


STREAM = (("resid_pre", 0), "resid_post")
"""What the lens of the whole stream reads."""


def _lens(
    model: Model,
    run: Run,
    sites: list[Site],
    at: Places,
    k: int,
    max_logits: int,
    chosen: list[int] | None,
    wanted: Any,
    names: Sequence[str] = ALL,
) -> xr.Dataset:
    readings, gap = read(
        run,
        len(sites),
        _states(model, run, sites, chosen),
        lambda states: unembed(model.anatomy, states.to(model.dtype)),
        1 if chosen is None else len(chosen),
        at,
        wanted,
        min(k, model.d_vocab),
        max_logits,
        names,
    )
    whole = sites[-1].name == "resid_post"
    attrs = {
        "site": sites[-1].name,
        "k": k,
        # only the whole stream after the last layer is what the model itself unembeds
        "last_layer_gap": gap if whole else None,
    }
    layers = ["embed" if whole and s.name == "resid_pre" else str(s.layer) for s in sites]
    named = None if chosen is None else ("head" if sites[-1].name == "head_out" else "neuron", chosen)
    return labelled_readings(model, layers, at, wanted, readings, logit_lens, attrs, named)


def _rows_of(model: Model, site: str) -> list[Site]:
    """The sites read, in the order of the computation."""
    name, layer = parse(site)
    kind = SITES[name]
    stream = kind.dims == ("pos", "d_model") and kind.layered
    if not (stream or name in ("head_out", "mlp_post")) or layer is not None:
        streams = [n for n, s in SITES.items() if s.dims == ("pos", "d_model") and s.layered]
        raise UnknownSite(
            f"the lens reads a stream of every layer, and {site!r} is not one: choose one of {', '.join(streams)}, or "
            "head_out or mlp_post"
        )
    # the stream that enters the first layer is the embedding, under whatever name the model's blocks read it
    return [Site("resid_pre", 0)] * (name == "resid_post") + list(model.anatomy.sites(name))


def units_of(model: Model, name: str, units: Sequence[int] | None) -> list[int] | None:
    """The heads or neurons that are read; None for a stream, which has none.

    Raises
    ------
    OutOfRange
        For one that is not there, none at all, neurons that are not named, and units of a stream.
    """
    if name not in ("head_out", "mlp_post"):
        if units is not None:
            raise OutOfRange(f"units={list(units)!r}: {name} has none, only head_out and mlp_post do")
        return None
    if name == "head_out":
        most, what = model.n_heads, "heads"
    else:
        widths = [0 if p.w_out is None else weight_shape(p.w_out)[0] for p in model.anatomy.layers]
        most, what = min(widths), "neurons"
        if units is None:
            raise OutOfRange(f"no neurons are named, and {most} per layer are too many to read: units=[...] names some")
    chosen = list(range(most)) if units is None else [int(u) for u in units]
    wrong = [u for u in chosen if not 0 <= u < most]
    if wrong or not chosen:
        raise OutOfRange(f"units {wrong or chosen}: expected some of the {most} {what} of a layer, 0 to {most - 1}")
    return chosen


def _states(model: Model, run: Run, sites: list[Site], units: list[int] | None) -> States:
    """What is read in each row of the result, for some places of the padded batch."""

    def states(
        row: int, example: Int[Tensor, " place"], column: Int[Tensor, " place"]
    ) -> Float[Tensor, "place unit d_model"]:
        site = sites[row]
        value = run[site.name, site.layer]
        here = value[example.to(value.device), column.to(value.device)].detach()
        if units is None:
            return here[:, None]
        if site.name == "head_out":
            return here[:, units]
        assert site.layer is not None
        branch = mlp_branch(model.anatomy, site.layer, here)
        return branch.push(at_least_float32(here)[:, units, None] * branch.weight[units].to(here.device))

    return states
