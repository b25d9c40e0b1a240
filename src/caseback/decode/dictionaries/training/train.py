"""Dictionaries trained on one stream: the model runs once over the text, and every dictionary takes its step.

    cost = forward passes up to the last site + steps of all dictionaries

The text is read a pool at a time (see ``pools``). With a checkpoint what is read and what is trained are written every
half a minute, and at an interrupt after the step, and the same call goes on from the step that it stopped at, with the
same numbers as if it had not been stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from caseback.decode.dictionaries.architectures.temporal import Pairs
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
from caseback.decode.dictionaries.training.model_pools import SeveralModelPools
from caseback.decode.dictionaries.training.pools import BEFORE, SINK, GivenPools, ModelPools, Pools, StoredPools
from caseback.decode.dictionaries.training.recipe import Recipe
from caseback.decode.dictionaries.training.trainer import Trainer
from caseback.errors import ArgumentError, OutOfRange
from caseback.jobs.checkpoint import Checkpoint
from caseback.jobs.interrupts import after_this_step
from caseback.jobs.progress import progress_bar
from caseback.model.argument_kinds import JUDGED_BY_THE_FUNCTION
from caseback.model.registry import technique
from caseback.model.running.model import Model
from caseback.stream.documents import Corpus, documents
from caseback.stream.packing import rows_of
from caseback.stream.store import Store

Models = Annotated[Mapping[str, Model], JUDGED_BY_THE_FUNCTION]
"""Models by name."""

SETTLE = 2**15  # tokens from which thresholds are set at the end
SAVE_EVERY = 30.0  # seconds between checkpoints
SAVE_SHARE = 10.0  # and so many times as long as one takes, at least: a wide dictionary's optimizer is gigabytes


@technique(
    entry=("4.2.13", "4.2.14", "4.2.17", "4.2.18", "4.2.19", "4.2.20", "B.2", "B.10"),
    citation="Bricken et al. 2023; Gao et al. 2024",
    cost="one pass over the tokens up to the last site, and each dictionary's steps",
)
def train_dictionaries(
    model: Model | Models | None,
    corpus: Corpus | Mapping[str, Store] | Mapping[str, Tensor],
    recipes: Recipe | Sequence[Recipe],
    *,
    n_tokens: int,
    step_tokens: int = 4096,
    pool_tokens: int = 2**17,
    length: int | None = None,
    bos: bool | None = None,
    sink: float | None = SINK,
    report_every: int = 50,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: bool = False,
    watch: Callable[[list[Trained]], None] | None = None,
) -> list[Trained]:
    """Train dictionaries on the states that a model has over a corpus.

    Parameters
    ----------
    model
        The model; its weights are not changed. For crosscoders of several models, these by name, which comes before
        their sites: ``Recipe(site=["base:resid_post.5", "chat:resid_post.5"])``. None where states are given.
    corpus
        Texts, as ``stream.collect`` takes them; or states, by site: stores that ``collect`` wrote, or tensors
        (token, d), or (text, token, d) of texts of one length, which temporal dictionaries need.
    recipes
        What to train, and how.
    n_tokens
        How many each dictionary sees, to the end of its last step; a corpus with fewer is gone through again, in
        another order.
    step_tokens
        Of a step, about: a pool is cut into steps of like size.
    pool_tokens
        Tokens that are mixed with each other.
    length, bos
        Of the corpus's rows; see ``stream.collect``.
    sink
        States beyond so many times the median norm are left out, as are tokens that stand in front of rows; None keeps
        them.
    report_every
        Steps between points of the curve.
    seed
        Same seed, same result. It draws the order in which states come.
    checkpoint
        A file that keeps what is done; the same call with it goes on after an interruption. It is written every half a
        minute, and while a long pool is read there are files beside it.
    progress
        Show a progress bar.
    watch
        Called with all dictionaries as they are, and their curves so far, whenever there is a new point.

    Returns
    -------
    list of Trained
        In the order of the recipes.

    Raises
    ------
    ArgumentError
        For options that an architecture does not have, two recipes of one name, or models that have other tokens.
    CasebackError
        For an empty corpus, or a loss that is not finite: it says at which step it began, and the checkpoint from
        before stands.
    LoadError
        For a checkpoint of another training, saying what differs.

    Notes
    -----
    Entries 4.2.13, 4.2.14 and 4.2.17 to 4.2.20: Bricken et al. 2023; Rajamanoharan et al. 2024a, b; Gao et al. 2024;
    Bussmann et al. 2024.

    Examples
    --------
    >>> states = torch.randn(512, 8, generator=torch.Generator().manual_seed(0)).relu()
    >>> recipe = Recipe(site="resid_post.0", architecture="topk", options={"k": 4}, width=16, lr=0.01)
    >>> (one,) = train_dictionaries(None, {"resid_post.0": states}, recipe, n_tokens=20_000, step_tokens=128)
    >>> bool(one.curve.sel(measure="explained")[-1] > 0.8)
    True
    """
    chosen = [recipes] if isinstance(recipes, Recipe) else list(recipes)
    expect_recipes(chosen, n_tokens, step_tokens, pool_tokens, report_every)
    sites = [site for recipe in chosen for site in (*recipe.sites, *recipe.targets)]
    paired = any(architecture_of(recipe.architecture).paired for recipe in chosen)
    pools = _pools(model, corpus, sites, pool_tokens, seed, length, bos, sink, paired, progress)
    widths = pools.widths()
    named = model.name if isinstance(model, Model) else ""
    reads = next(iter(model.values())) if isinstance(model, Mapping) else model
    device = torch.device("cpu") if reads is None else reads.device
    trainers = {
        recipe.label: Trainer(
            recipe,
            recipe.start(width_of(widths, recipe.sites), width_of(widths, recipe.targets), named).to(device),
            n_tokens,
        )
        for recipe in chosen
    }
    options = [[asdict(recipe) for recipe in chosen], n_tokens, step_tokens, pool_tokens, report_every, seed]
    parts = {} if checkpoint is None else pools.depends_on()
    file = training_file(checkpoint, {**parts, "options": options})
    points: dict[str, list[list[float]]] = {name: [] for name in trainers}
    first = next(iter(trainers.values()))  # all have made as many steps
    number = at = entered = 0  # the pool, the step in it, and the tokens before it
    if (saved := file.read()) is not None:
        number, points = restore_trainers(saved, trainers)
        at, entered = saved.state.get("at", 0), saved.state.get("entered", first.seen)
    reading = pools if isinstance(pools, ModelPools | SeveralModelPools) and file.path is not None else None
    if reading is not None:
        reading.keep(file)
    saving = Saving(file, trainers, reading)
    with progress_bar(
        total=n_tokens, show=progress, what="training", unit="token", unit_scale=True, initial=min(first.seen, n_tokens)
    ) as bar:
        while first.seen < n_tokens:
            entered = entered if at else first.seen
            left = n_tokens - entered
            enough = max(left + left // 64, min(SETTLE, n_tokens))
            pool = {name: x.to(device) for name, x in pools.pool(number, enough).items()}
            if first.moved == 0:
                for trainer in trainers.values():
                    trainer.begin(*_of(pool, trainer.recipe))
            with after_this_step() as asked:
                for rows in _steps(len(next(iter(pool.values()))), step_tokens)[at:]:
                    before = first.seen
                    last = before + rows.stop - rows.start >= n_tokens
                    for name, trainer in trainers.items():
                        x, y = _of(pool, trainer.recipe, rows)
                        losses = trainer.step(x, y, pairs=_pairs(pool, trainer, rows))
                        if trainer.resamples:
                            trainer.resample(*_of(pool, trainer.recipe), trainer.moved)
                        if trainer.moved % report_every == 0 or last or trainer.moved == 1:
                            points[name].append(point_of(trainer, losses, y))
                    bar.update(min(first.seen - before, n_tokens - int(bar.n)))
                    if first.moved % report_every == 0 or last:
                        expect_finite(trainers, file)
                        newest = dict(zip(COLUMNS, next(iter(points.values()))[-1], strict=True))
                        bar.set_postfix(
                            {name: f"{newest[name]:.3g}" for name in ("explained", "l0", "dead")}, refresh=False
                        )
                        if watch is not None:
                            watch([Trained(name, t.dictionary, curve_of(points[name])) for name, t in trainers.items()])
                    at += 1
                    if last:
                        break
                    if asked() or saving.due:
                        saving.write(number, points, at=at, entered=entered)
                    if asked():
                        raise KeyboardInterrupt
                number, at = number + 1, 0
                if first.seen >= n_tokens:
                    with torch.no_grad():
                        for trainer in trainers.values():
                            trainer.dictionary.settle(_of(pool, trainer.recipe, slice(SETTLE))[0])
                if first.seen >= n_tokens or asked() or saving.due:
                    saving.write(number, points)
    if reading is not None:
        reading.forget()
    for name, trainer in trainers.items():
        if isinstance(model, Mapping):
            facts, models = trainer.dictionary.facts, {called: one.name for called, one in model.items()}
            trainer.dictionary.facts = replace(facts, provenance={**facts.provenance, "models": models})
        note_training(trainer, "trained", seed, None if isinstance(pools, GivenPools) else sink, points[name])
    return [Trained(name, t.dictionary.eval(), curve_of(points[name])) for name, t in trainers.items()]


class Saving:
    """When a training's checkpoint is written: every so many seconds, and no more than a share of the time."""

    def __init__(
        self, file: Checkpoint, trainers: Mapping[str, Trainer], reading: ModelPools | SeveralModelPools | None
    ):
        self.file, self.trainers, self.reading = file, trainers, reading
        self.written, self.took = time.monotonic(), 0.0

    @property
    def due(self) -> bool:
        """Whether it is time."""
        return time.monotonic() - self.written > max(SAVE_EVERY, SAVE_SHARE * self.took)

    def write(self, number: int, points: Any, **state: int) -> None:
        """Write, of a loss that is finite."""
        expect_finite(self.trainers, self.file)
        began = time.monotonic()
        write_trainers(self.file, self.trainers, number, points, **state)
        if self.reading is not None:
            self.reading.forget(before=number)
        self.written = time.monotonic()
        self.took = self.written - began


def note_training(
    trainer: Trainer, what: str, seed: int, sink: float | None, points: Sequence[Sequence[float]]
) -> None:
    """Have a dictionary's facts say which tokens it was trained on, how many, how, and what its last step measured."""
    own = trainer.dictionary
    how: dict[str, Any] = {"tokens": trainer.seen, "steps": trainer.moved, "lr": trainer.lr}
    how |= {"seed": [seed, trainer.recipe.seed], "recipe": trainer.recipe.changed()}
    if points:
        last = dict(zip(COLUMNS, points[-1], strict=False))
        how["last_step"] = {name: last[name] for name in ("error", "explained", "l0", "dead")}
    tokens = "" if sink is None else f"without what stands in front of rows and states beyond {sink:g} median norms"
    own.facts = replace(own.facts, tokens=tokens, provenance={**own.facts.provenance, what: how})


def _pools(
    model: Model | Mapping[str, Model] | None,
    corpus: Any,
    sites: Sequence[str],
    pool_tokens: int,
    seed: int,
    length: int | None,
    bos: bool | None,
    sink: float | None,
    paired: bool,
    progress: bool,
) -> Pools:
    if isinstance(corpus, Mapping):
        if missing := [site for site in dict.fromkeys(sites) if site not in corpus]:
            raise ArgumentError(
                f"there are no states of {missing[0]}: those given are of {', '.join(corpus) or 'none'}"
            )
        own = {site: corpus[site] for site in dict.fromkeys(sites)}
        if all(isinstance(one, Store) for one in own.values()):
            if isinstance(model, Model):
                for store in own.values():
                    store.expect_model(model)
            return StoredPools(own, pool_tokens, seed, sink, paired=paired)
        return GivenPools(own, pool_tokens, seed, paired=paired)
    if model is None:
        raise ArgumentError("a corpus of texts needs the model that reads them: give model, or states by site")
    if isinstance(model, Mapping):
        if not model or paired:
            raise ArgumentError("several models are read for crosscoders: give some, and no temporal dictionaries")
        texts = list(documents(corpus))
        several = {name: list(rows_of(one, texts, length=length, bos=bos)) for name, one in model.items()}
        return SeveralModelPools(model, several, sites, pool_tokens, seed, sink, progress=progress)
    rows = rows_of(model, documents(corpus), length=length, bos=bos)
    return ModelPools(model, rows, sites, pool_tokens, seed, sink, paired=paired, progress=progress)


def expect_recipes(
    recipes: Sequence[Recipe], n_tokens: int, step_tokens: int, pool_tokens: int, report_every: int
) -> None:
    """Refuse what cannot be trained.

    Raises
    ------
    ArgumentError, OutOfRange
    """
    if not recipes:
        raise ArgumentError("there is nothing to train: give a recipe")
    names = [recipe.label for recipe in recipes]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ArgumentError(f"two recipes are called {twice[0]!r}: give them names, Recipe(name=...)")
    for name, value in (("n_tokens", n_tokens), ("step_tokens", step_tokens), ("report_every", report_every)):
        if value < 1:
            raise OutOfRange(f"{name} is {value}: expected 1 or more")
    if pool_tokens < step_tokens:
        raise OutOfRange(f"pools of {pool_tokens} tokens for steps of {step_tokens}: expected as many or more")


def _steps(size: int, step_tokens: int) -> list[slice]:
    """A pool cut into steps of like size."""
    cut = torch.arange(size).tensor_split(max(1, round(size / step_tokens)))
    return [slice(int(rows[0]), int(rows[-1]) + 1) for rows in cut]


def _of(pool: Mapping[str, Tensor], recipe: Recipe, rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
    """States of some of a pool's tokens, in float32 at least, and what they are to become."""

    def at(sites: Sequence[str]) -> Tensor:
        parts = [pool[site][rows] for site in sites]
        return _wide(parts[0] if isinstance(recipe.site, str) else torch.stack(parts, 1))

    x = at(recipe.sites)
    return x, x if recipe.targets == recipe.sites else at(recipe.targets)


def _pairs(pool: Mapping[str, Tensor], trainer: Trainer, rows: slice) -> Pairs | None:
    """Which of some of a pool's tokens have one before them, and its state; None where a dictionary takes none."""
    if not trainer.dictionary.paired:
        return None
    before = pool[BEFORE][rows]
    token = (before >= 0).nonzero()[:, 0]
    return Pairs(token, _wide(pool[trainer.recipe.sites[0]][before[token]]))


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def width_of(widths: Mapping[str, int], sites: Sequence[str]) -> int:
    """The numbers that a token has at each of a dictionary's sites.

    Raises
    ------
    ArgumentError
        Where they differ.
    """
    own = {site: widths[site] for site in sites}
    if len(set(own.values())) > 1:
        listed = ", ".join(f"{site} {width}" for site, width in own.items())
        raise ArgumentError(f"sources of several widths: {listed}; expected one")
    return own[sites[0]]
