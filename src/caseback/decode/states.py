"""What a model holds of some prompts, at many places at once: what probes, directions and erasers are fitted to.

    x (place, example, d):   one pass over the prompts, whatever number of layers and sites is read

A place is a layer of a site, or one head of it. An example is a prompt, read at one of its positions or averaged over
several, or a token of a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import CasebackError, LoadError
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import MAPS, Site
from caseback.model.arguments import checked
from caseback.model.running.edits import Edit
from caseback.model.running.frames import Positions, Rows, batch_frame
from caseback.model.running.measure import measured
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import Run, execute, sites_read
from caseback.model.running.tokens import PromptsLike, Tokens


class Place(NamedTuple):
    """A layer of a site, or one head there; ``**place.address`` is an edit's address.

    Examples
    --------
    >>> str(Place("z", 3, 1)), Place("resid_post", 2).address
    ('z.3.1', {'site': 'resid_post', 'layer': 2, 'head': None})
    """

    site: str
    layer: int | None = None
    head: int | None = None

    @classmethod
    def of(cls, text: str) -> Place:
        """The place of a name, as ``str`` gives it.

        Examples
        --------
        >>> Place.of("z.3.1"), Place.of("embed")
        (Place(site='z', layer=3, head=1), Place(site='embed', layer=None, head=None))
        """
        site, *numbers = text.split(".")
        if len(numbers) > 2 or not all(number.isdecimal() for number in numbers):
            return cls(text)  # a module's path
        return cls(site, *map(int, numbers))

    @property
    def address(self) -> dict[str, Any]:
        """What an edit is given of it."""
        return {"site": self.site, "layer": self.layer, "head": self.head}

    def __str__(self) -> str:
        return ".".join(str(part) for part in self if part is not None)


@dataclass(frozen=True, eq=False)
class States:
    """What was read.

    Attributes
    ----------
    x
        (place, example, d), in float32 at least.
    places
        Of the first dimension.
    prompt
        (example,) the prompt that each example is of: groups of tokens that know each other.
    """

    x: Float[Tensor, "place example d"]
    places: list[Place]
    prompt: Int[Tensor, " example"]

    @property
    def names(self) -> list[str]:
        """The places in words."""
        return [str(place) for place in self.places]

    def __repr__(self) -> str:
        shown = self.names if len(self.places) < 4 else [*self.names[:2], "...", self.names[-1]]
        return f"States({', '.join(shown)}; {self.x.shape[1]} examples of width {self.x.shape[2]})"


@checked
def read_states(
    model: Model,
    prompts: PromptsLike,
    *,
    sites: str | Sequence[Any] = "resid_post",
    pos: Positions = -1,
    reduce: Literal["mean"] | None = None,
    batch_tokens: int | None = None,
    progress: bool = False,
) -> States:
    """Read some sites of every prompt in one pass.

    Parameters
    ----------
    model
        The model.
    prompts
        Prompts, as ``Tokens`` or anything that ``Model.tokens`` takes.
    sites
        One or several: ``"resid_post"`` is all its layers, ``"resid_post.5"`` one. At a site with heads each head is a
        place of its own. All must be of one width.
    pos
        Positions of each prompt, counted from its first token, or from its end where negative; by default the last.
    reduce
        ``"mean"`` averages the positions of a prompt; without it each token is an example. A prompt's first token is
        the sink of many models, a hundred times as long as the others, and then most of a mean with it:
        ``pos=slice(1, None)`` leaves it out.
    batch_tokens
        Tokens of a pass, padding included; by default as the budget has it.
    progress
        Show a progress bar.

    Returns
    -------
    States
        ``x`` (place, example, d), examples in the order of the prompts.

    Raises
    ------
    CasebackError
        For sites of several widths, maps of attention, and positions that no prompt has.

    Notes
    -----
    Layers beyond the last that is read are not run.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> read_states(model, ["the cat", "the old dog"], sites=["embed", "resid_post"])
    States(embed, resid_post.0, ..., resid_post.3; 2 examples of width 160)
    """
    options = {"pos": pos, "reduce": reduce, "batch_tokens": batch_tokens, "progress": progress}

    def run_of(some: Tokens, rows: Tensor, at: list[Site]) -> Run:
        return execute(model.anatomy, some, read=at, logits=False)

    return read_by(model, model.tokens(prompts).padded_on("right"), sites, run_of, options)


def read_means(model: Model, prompts: PromptsLike, sites: Any = "resid_post", *, progress: bool = False) -> States:
    """Each prompt's mean state, without its first token where it has another.

    Parameters
    ----------
    model, prompts, sites, progress
        As in ``read_states``.

    Examples
    --------
    >>> import caseback as cb
    >>> read_means(cb.load("meadow"), ["the cat", "dogs", "the old dog"], "resid_post.2")
    States(resid_post.2; 3 examples of width 160)
    """
    tokens = model.tokens(prompts)
    alone = tokens.lengths.cpu() < 2
    parts: list[States] = []
    for first, of in ((1, ~alone), (0, alone)):
        if bool(of.any()):
            rows = of.nonzero()[:, 0]
            some = tokens[rows]
            at = slice(first, None)
            read = read_states(model, some, sites=sites, pos=at, reduce="mean", progress=progress)
            parts.append(replace(read, prompt=rows[read.prompt.cpu()]))
    prompt = torch.cat([part.prompt for part in parts])
    order = prompt.argsort()
    x = torch.cat([part.x for part in parts], 1)
    return States(x[:, order.to(x.device)], parts[0].places, prompt[order])


@checked
def read_gradients(
    model: Model,
    prompts: PromptsLike,
    metric: Metric,
    *,
    sites: str | Sequence[Any] = "resid_post",
    pos: Positions = -1,
    reduce: Literal["mean"] | None = None,
    batch_tokens: int | None = None,
    progress: bool = False,
) -> States:
    """Read a metric's gradient at some sites of every prompt, as ``read_states`` reads the states there.

    Parameters
    ----------
    model
        The model.
    prompts
        Prompts, as ``Tokens`` or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. It must have a gradient.
    sites, pos, reduce, progress
        As in ``read_states``.
    batch_tokens
        Tokens of a pass, padding included; by default as the budget has it for gradients.

    Returns
    -------
    States
        ``x`` (place, example, d) is d metric / d state, examples in the order of the prompts.

    Raises
    ------
    CasebackError
        As ``read_states``, and for a metric without gradient.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> read_gradients(model, ["the cat", "the old dog"], cb.logit(" sat"), sites="resid_post.2")
    States(resid_post.2; 2 examples of width 160)
    """
    tokens = model.tokens(prompts).padded_on("right")

    def run_of(some: Tokens, rows: Tensor, at: list[Site]) -> Run:
        run, value = measured(model.anatomy, some, metric.of_rows(tokens, rows), read=at, grad=True)
        return run.grad(value, at, retain=False)

    budget = batch_tokens or limit("gradient_tokens", model.device)
    options = {"pos": pos, "reduce": reduce, "batch_tokens": budget, "progress": progress}
    return read_by(model, tokens, sites, run_of, options)


def read_by(
    model: Model,
    tokens: Tokens,
    sites: str | Sequence[Any],
    run_of: Callable[[Tokens, Tensor, list[Site]], Run],
    options: dict[str, Any],
) -> States:
    """What runs of batches of like length hold at some sites; the tokens are padded on the right."""
    pos, reduce, progress = options["pos"], options["reduce"], options["progress"]
    read = list(dict.fromkeys(sites_read(model.anatomy, sites)))
    for site in read:
        if site.name in MAPS or site == Site("logits"):
            raise CasebackError(f"{site} has no vector at each token: expected a site of the stream, a head or an MLP")
    if not read:
        raise CasebackError("no sites are given: expected one at least, such as 'resid_post'")
    parts: list[Tensor] = []
    prompt: list[Tensor] = []
    places: list[Place] = []
    batches = batches_at(model, tokens, pos, options["batch_tokens"])
    for rows, some, at in progress_bar(batches, "read", show=progress, unit="batch"):
        run = run_of(some, rows, read)
        places, values = _stacked(run, read, at.row.to(model.device))
        example = at.example
        if reduce == "mean":
            values, example = _mean_by(values, example.to(values.device), len(rows))
        parts.append(values)
        prompt.append(rows[example.cpu()])
    if not parts:
        raise CasebackError(f"no prompt has a token at positions {pos}: nothing is read")
    order = torch.cat(prompt).argsort(stable=True)
    return States(torch.cat(parts, 1)[:, order.to(model.device)], places, torch.cat(prompt)[order])


def sites_of(places: Sequence[Place]) -> list[Site]:
    """The sites of some places, each once: what is read for them."""
    return list(dict.fromkeys(Site(place.site, place.layer) for place in places))


def expect_places(model: Model, places: Sequence[Place], width: int, what: str) -> None:
    """Refuse what was fitted at places that a model does not have, or has in another width.

    Raises
    ------
    LoadError
        For another site, layer, head or width.
    """
    try:
        states = read_states(model, [[1]], sites=sites_of(places), pos=0)
    except CasebackError as error:
        raise LoadError(f"{what} is of another model: {error}") from None
    if missing := [place for place in places if place not in states.places]:
        raise LoadError(f"{what} is of another model: {model.name!r} has no {missing[0]}")
    if states.x.shape[2] != width:
        raise LoadError(f"{what} is of width {width}: {places[0]} of {model.name!r} is of width {states.x.shape[2]}")


def of_like_length(tokens: Tokens, budget: int) -> list[Int[Tensor, " prompt"]]:
    """The prompts in batches of like length, none with more tokens than the budget, padding included."""
    lengths = tokens.lengths.cpu()
    batches: list[list[int]] = [[]]
    for i in lengths.argsort(descending=True, stable=True).tolist():
        longest = int(lengths[batches[-1][0]]) if batches[-1] else 0
        if batches[-1] and (len(batches[-1]) + 1) * longest > budget:
            batches.append([])
        batches[-1].append(i)
    return [torch.tensor(batch) for batch in batches]


def batches_at(
    model: Model, tokens: Tokens, pos: Positions, batch_tokens: int | None
) -> list[tuple[Int[Tensor, " prompt"], Tokens, Rows]]:
    """Batches of prompts that have tokens at some positions: which prompts, they themselves, and the rows there."""
    batches = []
    for rows in of_like_length(tokens, batch_tokens or limit("stream_tokens", model.device)):
        longest = int(tokens.lengths[rows].max())
        some = Tokens(tokens.ids[rows, :longest], tokens.mask[rows, :longest], [tokens.text[i] for i in rows.tolist()])
        at = batch_frame(some).rows([(None, Edit("embed", pos=pos_of(pos, rows)))])
        if at is not None:
            batches.append((rows, some, at))
    return batches


def pos_of(pos: Positions, rows: Int[Tensor, " prompt"]) -> Positions:
    """Positions of some of the prompts: of a tensor with one for each, theirs."""
    return pos.cpu()[rows] if isinstance(pos, Tensor) and pos.ndim else pos


def _stacked(run: Run, sites: Sequence[Site], rows: Tensor) -> tuple[list[Place], Float[Tensor, "place token d"]]:
    """Some rows of a run's sites, each head by itself."""
    places: list[Place] = []
    values: list[Tensor] = []
    for site in sites:
        x = at_least_float32(run[site].flatten(0, 1)[rows])
        if x.ndim == 3:
            places += [Place(site.name, site.layer, head) for head in range(x.shape[1])]
            values.append(x.transpose(0, 1))
        else:
            places.append(Place(site.name, site.layer))
            values.append(x[None])
    widths = {x.shape[-1]: site for site, x in zip(sites, values, strict=True)}
    if len(widths) > 1:
        shown = ", ".join(f"{width} at {site}" for width, site in widths.items())
        raise CasebackError(f"sites of several widths ({shown}): read those of one width together")
    return places, torch.cat(values)


def _mean_by(x: Float[Tensor, "place token d"], example: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The mean over the tokens of each example that has any."""
    counts = torch.bincount(example, minlength=n)
    sums = x.new_zeros(len(x), n, x.shape[2]).index_add_(1, example, x)
    some = counts.nonzero().squeeze(-1)
    return sums[:, some] / counts[some, None], some
