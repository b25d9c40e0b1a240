"""Dictionaries trained through the rest of the model: what is kept is what its predictions need.

    L = KL(p || p with x^ in x's place) + beside + coefficient penalty + auxiliary

    beside    nothing                                    end to end (Braun et al. 2024)
              mean over later layers of |y - y^|^2 / |y - mean y|^2       with what happens downstream
              |x - x^|^2, and KL as large as that is     a fine-tune of a trained one (Karvonen 2025)

Squared error alone asks for what is large; this asks for what is used. A step is a clean pass over whole rows and, for
each dictionary, one with its reconstruction in the states' place and a pass back to the site. What stands in front of
a row, and sinks, keep their states. A dictionary is what it was, and can go on from one that was trained otherwise.

A crosscoder of several layers reads their clean states, and what it reconstructs of each stands in that layer's place
alone, in a pass of its own:

    L = mean over sources m of KL(p || p with x^m^ in x^m's place)

So a layer's error meets no other's. In one pass for all, what stands in the stream at a later layer would overwrite
what came from the layers before it, and their reconstructions would have no gradient at all. The loss is that of Braun
et al. for each layer; we know of none published for crosscoders, which Lindsey et al. (2024) train on squared error.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from caseback.decode.dictionaries.architectures.crosscoders import Crosscoder
from caseback.decode.dictionaries.architectures.several_sources import SeveralSources
from caseback.decode.dictionaries.dictionary import Dictionary, Losses
from caseback.decode.dictionaries.measures.replacement import Batch, Splice, flat, put, splice_of
from caseback.decode.dictionaries.registry import architecture_of
from caseback.decode.dictionaries.training.curves import (
    COLUMNS,
    Trained,
    curve_of,
    expect_finite,
    point_of,
    restore_trainers,
    training_file,
    write_trainers,
)
from caseback.decode.dictionaries.training.pools import SINK, ModelPools
from caseback.decode.dictionaries.training.recipe import Recipe
from caseback.decode.dictionaries.training.train import expect_recipes, note_training, width_of
from caseback.decode.dictionaries.training.trainer import Trainer
from caseback.errors import ArgumentError, CasebackError, OutOfRange
from caseback.jobs.interrupts import after_this_step
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.classes import expect_tokens_out
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.registry import technique
from caseback.model.running.model import Model
from caseback.model.running.run import Run, execute
from caseback.model.running.verify import unembed
from caseback.stream.documents import Corpus, documents
from caseback.stream.packing import rows_of

Beside = Literal["nothing", "later", "error"]
STEP_COLUMNS = (*COLUMNS, "kl", "beside")
SAVE_EVERY = 60.0  # seconds between checkpoints, at least


@technique(
    entry=("4.2.13", "B.10"),
    citation="Braun et al. 2024; Karvonen 2025",
    cost="for each step a clean pass over its tokens, and for each dictionary one more and its way back to the site; a "
    "crosscoder takes one for each source",
)
def train_end_to_end(
    model: Model,
    corpus: Corpus,
    recipes: Recipe | Sequence[Recipe],
    *,
    start: Sequence[Dictionary] | None = None,
    beside: Beside = "nothing",
    beside_weight: float = 1.0,
    n_tokens: int,
    step_tokens: int = 1024,
    length: int | None = None,
    bos: bool | None = None,
    sink: float | None = SINK,
    report_every: int = 50,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: bool = False,
) -> list[Trained]:
    """Train dictionaries for what the model makes of their reconstructions.

    Parameters
    ----------
    model
        The model; its weights are not changed.
    corpus
        Texts, as ``stream.collect`` takes them.
    recipes
        What to train, and how; each of one site, or a crosscoder of several layers of this model.
    start
        Dictionaries to go on from, one a recipe, which are left as they are; by default each recipe's random start.
    beside
        What is minimized beside the divergence: ``"nothing"``; ``"later"``, the share of variance of later layers'
        states that is not as it was, their mean (end to end with downstream, Braun et al. 2024); ``"error"``, the
        squared error, with the divergence scaled to the same size at each step (the fine-tune of Karvonen 2025). Of a
        crosscoder the divergence, and later layers' share, are means over its sources, and the error is their sum.
    beside_weight
        Of that.
    n_tokens
        How many each dictionary sees; a corpus with fewer is gone through again, in another order.
    step_tokens
        Of a step, about, in whole rows; logits of all of them are held at once, for each source of a crosscoder.
    length, bos
        Of the corpus's rows; see ``stream.collect``.
    sink
        States beyond so many times a step's median norm are not replaced; None replaces them too.
    report_every
        Steps between points of the curve.
    seed
        Same seed, same result. It draws the order in which rows come.
    checkpoint
        A file that keeps what is done; the same call with it goes on after an interruption.
    progress
        Show a progress bar.

    Returns
    -------
    list of Trained
        In the order of the recipes; their curves have ``kl`` and ``beside`` too.

    Raises
    ------
    ArgumentError
        For cross-layer transcoders, crosscoders of several models, two recipes of one name, or not as many dictionaries
        as recipes.
    CasebackError
        For an empty corpus, or a loss that is not finite.
    LoadError
        For a checkpoint of another training, saying what differs.

    Notes
    -----
    Entries 4.2.13 and B.10: Braun et al. 2024; Karvonen 2025. The divergence is a mean over the tokens that are
    replaced, in nats. Of a crosscoder each layer's reconstruction stands in its place alone, in a pass of its own:
    codes are of the clean states of all layers, and the error of one layer does nothing to another.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.dictionaries import Recipe, train_end_to_end
    >>> model = cb.load("meadow")
    >>> recipe = Recipe(site="resid_post.1", options={"k": 8}, width=320)
    >>> (one,) = train_end_to_end(model, ["Mary went to the store."] * 8, recipe, n_tokens=400, step_tokens=40)
    >>> bool(one.curve.sel(measure="kl")[-1] < one.curve.sel(measure="kl")[0])
    True
    """
    expect_tokens_out(model.anatomy, "a loss of the next token")
    chosen = [recipes] if isinstance(recipes, Recipe) else list(recipes)
    expect_recipes(chosen, n_tokens, step_tokens, step_tokens, report_every)
    for recipe in chosen:
        _expect_layers(model, recipe)
    if paired := [recipe.label for recipe in chosen if architecture_of(recipe.architecture).paired]:
        raise ArgumentError(f"{paired[0]!r} needs the token before each: it is trained on states, not end to end")
    if beside_weight < 0:
        raise OutOfRange(f"beside_weight is {beside_weight}: expected 0 or more")
    if start is not None and len(start) != len(chosen):
        raise ArgumentError(f"{len(start)} dictionaries to go on from, for {len(chosen)} recipes: expected one each")
    rows = list(rows_of(model, documents(corpus), length=length, bos=bos))
    sites = [site for recipe in chosen for site in (*recipe.sites, *recipe.targets)]
    pools = ModelPools(model, rows, sites, step_tokens, seed, sink)
    trainers: dict[str, Trainer] = {}
    widths = pools.widths()
    for i, recipe in enumerate(chosen):
        fresh = recipe.start(width_of(widths, recipe.sites), width_of(widths, recipe.targets), model.name)
        own = fresh if start is None else copy.deepcopy(start[i]).train()
        trainers[recipe.label] = Trainer(recipe, own.to(model.device), n_tokens)
    spliced = {name: sources_of(model, trainer.recipe, trainer.dictionary) for name, trainer in trainers.items()}
    parts = {} if checkpoint is None else pools.depends_on()
    if checkpoint is not None and start is not None:
        parts["start"] = [one.state_dict() for one in start]
    options = [[asdict(recipe) for recipe in chosen], beside, beside_weight, n_tokens, step_tokens, report_every, seed]
    file = training_file(checkpoint, {**parts, "options": options})
    points: dict[str, list[list[float]]] = {name: [] for name in trainers}
    first, number, written = next(iter(trainers.values())), 0, time.monotonic()
    if (saved := file.read()) is not None:
        number, points = restore_trainers(saved, trainers)
    with progress_bar(
        total=n_tokens, show=progress, what="training", unit="token", unit_scale=True, initial=min(first.seen, n_tokens)
    ) as bar:
        while first.seen < n_tokens:
            with after_this_step() as asked:
                before = first.seen
                clean = _clean(model, pools, number, chain(*spliced.values()), sink, later=beside == "later")
                last = before + int(clean.batch.taken.sum()) >= n_tokens
                for name, trainer in trainers.items():
                    x, y = clean.of(spliced[name])
                    if number == 0 and start is None:
                        trainer.begin(x, y)
                    target = Through(model, trainer.dictionary, spliced[name], clean, beside, beside_weight)
                    losses = trainer.step(x, y, target)
                    if trainer.recipe.resample_every and trainer.resamples:  # what is large may be of no use
                        trainer.resample(x, y, trainer.moved)
                    if (number + 1) % report_every == 0 or last or number == 0:
                        points[name].append([*point_of(trainer, losses, y), *target.parts.tolist()])
                    if last:
                        trainer.dictionary.settle(x)
                number += 1
                bar.update(min(first.seen, n_tokens) - min(before, n_tokens))
                if last or asked() or time.monotonic() - written > SAVE_EVERY:
                    expect_finite(trainers, file)
                    write_trainers(file, trainers, number, points)
                    written = time.monotonic()
    for name, trainer in trainers.items():
        note_training(trainer, "trained end to end", seed, sink, points[name])
    return [Trained(n, t.dictionary.eval(), curve_of(points[n], STEP_COLUMNS)) for n, t in trainers.items()]


def _expect_layers(model: Model, recipe: Recipe) -> None:
    """Refuse several sources that are not a crosscoder's, or no layers of this model."""
    if isinstance(recipe.site, str):
        return
    if not issubclass(architecture_of(recipe.architecture), Crosscoder):
        raise ArgumentError(
            f"{recipe.label!r} is a {recipe.architecture}: of several sources only crosscoders are trained end to end, "
            "each layer's reconstruction alone in its place; train_dictionaries trains it on squared error"
        )
    if recipe.targets != recipe.sites:
        raise ArgumentError(f"{recipe.label!r}: a crosscoder reconstructs what it reads, leave out target")
    for site in recipe.sites:
        try:
            known = len(list(model.anatomy.sites(site))) == 1
        except CasebackError:
            known = False
        if not known:
            raise ArgumentError(
                f"{recipe.label!r} reads {site!r}, which is no site of {model.name}: end to end a crosscoder is of "
                "several layers of one model, 'resid_post.1'. One of two models would need both of them, each with its "
                "own divergence: train_dictionaries trains it on squared error, with states of both"
            )


def sources_of(model: Model, recipe: Recipe, dictionary: Dictionary) -> list[Splice]:
    """Where a dictionary reads and writes: once, or for each source of a crosscoder.

    Raises
    ------
    ArgumentError
        For a dictionary to go on from that has other sources than its recipe.
    """
    several = isinstance(dictionary, SeveralSources)
    if isinstance(recipe.site, str) and not several:
        return [splice_of(model, recipe.label, dictionary)]
    own = dictionary.facts.provenance.get("sites", list(recipe.sites))
    if not several or dictionary.n_sources != len(recipe.sites) or list(own) != list(recipe.sites):
        of = f"{dictionary.architecture} of {', '.join(own) if several else dictionary.facts.site}"
        raise ArgumentError(f"{recipe.label!r} goes on from a {of}: its recipe is of {', '.join(recipe.sites)}")
    sites = [next(iter(model.anatomy.sites(site))) for site in recipe.sites]
    return [Splice(dictionary, site, site) for site in sites]


class Clean(NamedTuple):
    """What a step's rows are without any dictionary.

    Attributes
    ----------
    batch
        The rows, and which of their tokens are replaced.
    run
        Their states.
    log_p
        What is predicted at the tokens that are replaced.
    """

    batch: Batch
    run: Run
    log_p: Float[Tensor, "token vocab"]

    def of(
        self, sources: Sequence[Splice]
    ) -> tuple[Float[Tensor, "token *source d"], Float[Tensor, "token *source d"]]:
        """States that a dictionary reads, and those that it is to write, in float32 at least."""

        def at(sites: Sequence[Site]) -> Tensor:
            parts = [at_least_float32(flat(self.run[site])[self.batch.taken]) for site in sites]
            return torch.stack(parts, 1) if isinstance(sources[0].dictionary, SeveralSources) else parts[0]

        return at([one.site for one in sources]), at([one.target for one in sources])


def _clean(
    model: Model, pools: ModelPools, number: int, spliced: Iterable[Splice], sink: float | None, *, later: bool
) -> Clean:
    block = pools.block(number)
    ((tokens, rows),) = block.batches(int(block.lengths.max()) * len(block.lengths))
    own = tokens.to(model.device)
    sites = {site for splice in spliced for site in (splice.site, splice.target)}
    after = range(model.anatomy.n_layers if later else 0)
    reads = {*sites, *(Site("resid_post", layer) for layer in after), _last(model)}
    run = execute(model.anatomy, own, read=sorted(reads, key=str), logits=False)
    taken = own.mask & (own.mask.cumsum(1) > block.front[rows].to(own.mask.device)[:, None])
    if sink is not None:
        for site in sites:
            norms = flat(run[site]).float().norm(dim=-1)
            taken = taken & (norms <= sink * norms[taken].median())
    with torch.no_grad():
        log_p = at_least_float32(unembed(model.anatomy, run[_last(model)][taken])).log_softmax(-1)
    return Clean(Batch(own, taken, taken), run, log_p)


def _last(model: Model) -> Site:
    return Site("resid_post", model.anatomy.n_layers - 1)


class Through:
    """What one dictionary's step minimizes on some rows, in place of the squared error.

    ``parts`` are its divergence and what is beside it, once it was called.
    """

    def __init__(
        self,
        model: Model,
        dictionary: Dictionary,
        sources: Sequence[Splice],
        clean: Clean,
        beside: Beside,
        weight: float,
    ):
        self.model, self.dictionary, self.sources, self.clean = model, dictionary, sources, clean
        self.beside, self.weight = beside, weight
        self.parts = torch.full((2,), torch.nan)

    def __call__(self, losses: Losses) -> Tensor:
        written = self.dictionary.reconstructed(losses, *self.clean.of(self.sources))
        each = written.unbind(1) if isinstance(self.dictionary, SeveralSources) else [written]
        changed = [self._changed(one.target, part) for one, part in zip(self.sources, each, strict=True)]
        kl, rest = (torch.stack(parts).mean() for parts in zip(*changed, strict=True))
        if self.beside == "error":
            rest = losses.error
        self.parts = torch.stack([kl.detach(), rest.detach()]).cpu().double()
        if self.beside == "error":
            kl = kl * (rest.detach() / kl.detach().clamp_min(1e-12))
        return kl + self.weight * rest

    def _changed(self, target: Site, written: Float[Tensor, "token d_out"]) -> tuple[Tensor, Tensor]:
        """The divergence with one reconstruction in its place, and the share of later layers' states that changed."""
        batch, n_layers = self.clean.batch, self.model.anatomy.n_layers
        layer = n_layers if target.layer is None else target.layer
        later = [Site("resid_post", i) for i in range(layer + 1, n_layers)] if self.beside == "later" else []
        run = execute(
            self.model.anatomy,
            batch.tokens,
            read=sorted({_last(self.model), *later}, key=str),
            edits=put(self.clean.run, target, batch, written),
            grad=True,
            logits=False,
        )
        log_q = at_least_float32(unembed(self.model.anatomy, run[_last(self.model)][batch.taken])).log_softmax(-1)
        kl = (self.clean.log_p.exp() * (self.clean.log_p - log_q)).sum(-1).mean()
        if not later:
            return kl, kl.new_zeros(())
        return kl, torch.stack([_unlike(self.clean.run[s], run[s], batch.taken) for s in later]).mean()


def _unlike(clean: Tensor, changed: Tensor, taken: Bool[Tensor, "batch pos"]) -> Tensor:
    """The share of states' variance that is not as it was."""
    was, now = at_least_float32(clean[taken]), at_least_float32(changed[taken])
    return (now - was).square().sum() / (was - was.mean(0)).square().sum().clamp_min(1e-12)
