"""Binding IDs: what ties a thing to its owner is a part of both their states, which can be exchanged (PRIMER 5.4.9).

    The cake is in box C, the drum is in box A. Box C contains the ->  cake        states of C, A, cake, drum: E_k, A_k

    exchanged states     E_k from the same facts about each other's boxes     of E: drum    of A: drum    of both: cake
    moved states         E_k at each other's places                           of E: cake    of A: cake    of both: cake
    added differences    E_i + D_j - D_i,  D_k = mean of E_k over other texts of E: drum    of A: drum    of both: cake
    random directions    as long as these differences                         cake, whatever is changed

The right-hand side is what a model says that binds by an ID at either end: a vector that depends on a thing's number in
the text and on neither the thing nor its place. All states of the facts are held as they are without a change, at every
layer; the changed ones stand in their places, and the question reads them. The number of each pair is drawn anew.

Feng & Steinhardt 2023, "How do language models bind entities in context?"
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from caseback.behaviors.binding.scenes import SCENES, Drawn, Scene, drawn
from caseback.behaviors.mechanisms.choices import likeliest
from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.jobs.budget import limit
from caseback.model.registry import technique
from caseback.model.results import labelled_set
from caseback.model.running.edits import Edit, Freeze, Replace
from caseback.model.running.metrics import logit_diff
from caseback.model.running.model import Model

SITE = "resid_pre"
VARIANTS = ("exchanged states", "moved states", "added differences", "random directions")
PARTS = ("entities", "attributes", "both")
THIRD = 3
LEAST = 4
"""Texts that are judged."""
States = Float[Tensor, "layer batch entity width d_model"]


@technique(
    entry=("5.4.9",),
    citation="Feng & Steinhardt 2023",
    cost="four forwards of all texts, and two sweeps of 12 variants over half of them",
)
def binding_ids(
    model: Model,
    scene: str | Scene = "boxes",
    *,
    entities: int = 2,
    behind: int = 0,
    count: int = 100,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Exchange, move and shift the states of things and of their owners, and see whose thing is named then.

    Parameters
    ----------
    model
        The model.
    scene
        ``"boxes"``, ``"homes"``, or texts of your own.
    entities
        How many there are in a text, 2 or more: with two, a third answer cannot tell an ID from an order.
    behind
        How many tokens behind each word are changed with it, 0 or 1: the comma, say, where a model may keep what it
        gathered.
    count
        How many texts are drawn. Differences are means over one half; of the other half those are judged in which the
        model names the right attribute.
    seed
        Same seed, same result. It draws texts and random directions.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        ``names`` (variant, part, batch): of the text's attributes, 1 where the likeliest is that of the entity that is
        asked about, 2 where it is the other one's, 3 where it is a third one's; ``margin``
        (variant, part, batch), the logit of the first over that of the second; ``clean`` (batch,) the margin of
        the unchanged text. ``part`` is whose states are changed. Beside them ``text``, ``asked`` and ``other``, the
        numbers of both entities. The attributes ``known`` and ``asked`` count the held-out texts.

    Raises
    ------
    CasebackError
        For an unknown scene, and where the model is not right more often than by chance (of a binomial the 95 %
        quantile), or in fewer than 4 texts.
    OutOfRange
        For fewer than two entities or more than the scene has words, or fewer than 8 texts.
    TokensError
        Where the tokenizer cuts too few of the scene's texts alike.

    Notes
    -----
    Entry 5.4.9: Feng & Steinhardt 2023, in Pythia and Llama. A state is the stream before every layer, at all tokens of
    a word.

    Examples
    --------
    >>> import caseback as cb
    >>> table = binding_ids(cb.load("meadow"), count=16)
    >>> table["names"].dims, table.sizes["variant"], table.sizes["part"]
    (('variant', 'part', 'batch'), 4, 3)
    """
    scene = _expect(scene, entities, behind, count)
    texts = drawn(model, scene, entities, behind, count, seed)
    half = torch.arange(len(texts)) < len(texts) // 2
    judged = texts[(~half).nonzero()[:, 0]]
    chosen = likeliest(*judged.answers.T.tolist())(model.run(judged.ids["plain"])).cpu() - 1
    known = chosen == judged.pair[0]
    by_chance = int(stats.binom(len(known), 1 / entities).ppf(0.95))
    if int(known.sum()) <= max(by_chance, LEAST - 1):
        raise CasebackError(
            f"of {len(known)} texts such as {judged.texts[0]!r} the model names the right thing in {int(known.sum())}, "
            f"by chance up to {by_chance}: what is not bound cannot be exchanged. Take another scene, fewer entities or"
            " more texts"
        )
    on = judged[known.nonzero()[:, 0]]
    rows = torch.arange(len(on))
    differences = _means(model, texts[half.nonzero()[:, 0]])
    variants = [_edits(on, changed) for changed in _changed(model, on, differences, seed)]
    others = [[k for k in range(entities) if k not in pair] for pair in zip(*on.pair.tolist(), strict=True)]
    own, other, *third = (on.answers[rows, which].tolist() for which in (*on.pair, *torch.tensor(others).T))
    metrics = {"names": likeliest(own, other, *third), "margin": logit_diff(own, other)}
    swept = {
        name: model.sweep(on.ids["plain"], variants, metric, progress=progress) for name, metric in metrics.items()
    }
    shape = len(VARIANTS), len(PARTS), len(on)
    values = {name: np.asarray(of.values).reshape(shape) for name, of in swept.items()}
    values["names"] = values["names"].clip(max=THIRD)
    arrays = {name: (of, ("variant", "part", "batch")) for name, of in values.items()}
    asked, exchanged = on.pair.tolist()
    return labelled_set(
        arrays | {"clean": (swept["margin"]["clean"].values, ("batch",))},
        {
            **{"variant": list(VARIANTS), "part": list(PARTS)},
            **{"text": ("batch", on.texts), "entity": ("batch", asked), "other": ("batch", exchanged)},
        },
        technique=binding_ids,
        model=model,
        entities=entities,
        behind=behind,
        known=int(known.sum()),
        asked=len(known),
        seed=seed,
    )


def _expect(scene: str | Scene, entities: int, behind: int, count: int) -> Scene:
    if isinstance(scene, str):
        if scene not in SCENES:
            raise CasebackError(f"scene {scene!r} is unknown. {did_you_mean(scene, SCENES)}")
        scene = SCENES[scene]
    most = min(len(set(scene.entities)), len(set(scene.attributes)))
    if not 2 <= entities <= most:
        raise OutOfRange(f"entities={entities}: expected 2 to {most}, as many as the scene has words")
    if not 0 <= behind <= 1:
        raise OutOfRange(f"behind={behind}: expected 0 or 1, since a word of another entity may follow")
    if count < 2 * LEAST:
        raise OutOfRange(f"count={count}: expected {2 * LEAST} texts or more, half of them to judge on")
    return scene


def _states(model: Model, texts: Drawn, ids: str) -> dict[str, States]:
    """The states of all entities and attributes in these texts, before every layer."""
    slots = {"entities": texts.entities, "attributes": texts.attributes}
    at_once = max(1, limit("stream_tokens", model.device) // texts.ids[ids].shape[1])
    parts: dict[str, list[Tensor]] = {name: [] for name in slots}
    for some in texts.ids[ids].split(at_once):
        run = model.run(some, read=[SITE])
        stream = torch.stack([run[SITE, layer] for layer in range(model.n_layers)])
        for name, places in slots.items():
            parts[name].append(stream[:, :, places.to(stream.device)])
    return {name: torch.cat(some, 1) for name, some in parts.items()}


def _means(model: Model, texts: Drawn) -> dict[str, Float[Tensor, "layer entity width d_model"]]:
    """What a state of each number is on average."""
    return {name: states.mean(1) for name, states in _states(model, texts, "plain").items()}


def _changed(
    model: Model, on: Drawn, means: dict[str, Float[Tensor, "layer entity width d_model"]], seed: int
) -> Iterator[dict[str, tuple[Tensor, ...]]]:
    """For each intervention and part, the new states (layer, batch, width, d_model) of the two whose things differ."""
    rows, both = torch.arange(len(on), device=model.device), on.pair.to(model.device)
    plain = {name: tuple(x[:, rows, which] for which in both) for name, x in _states(model, on, "plain").items()}
    exchanged = {
        name: tuple(_states(model, on, name)[name][:, rows, which] for which in both)
        for name in ("entities", "attributes")
    }
    rng = torch.Generator().manual_seed(seed)
    shift = {name: of[:, both[1]] - of[:, both[0]] for name, of in means.items()}
    random = {name: _like(of, rng) for name, of in shift.items()}
    moved = {name: pair[::-1] for name, pair in plain.items()}
    added = {name: (a + shift[name], b - shift[name]) for name, (a, b) in plain.items()}
    beside = {name: (a + random[name], b - random[name]) for name, (a, b) in plain.items()}
    for new in (exchanged, moved, added, beside):
        yield {"entities": new["entities"]}
        yield {"attributes": new["attributes"]}
        yield new


def _like(vectors: Tensor, rng: torch.Generator) -> Tensor:
    """Random directions, one for all layers, since real differences are alike there, and as long as these."""
    random = torch.randn(vectors.shape[1:], generator=rng).expand(vectors.shape).to(vectors)
    return random / random.norm(dim=-1, keepdim=True) * vectors.norm(dim=-1, keepdim=True)


def _edits(on: Drawn, changed: dict[str, tuple[Tensor, ...]]) -> list[Edit]:
    """All that is told held as it is, and the changed states in their places."""
    edits: list[Edit] = [Freeze(SITE, pos=slice(0, on.context))]
    places = {"entities": on.entities, "attributes": on.attributes}
    for name, pair in changed.items():
        for which, new in zip(on.pair, pair, strict=True):
            for part, pos in enumerate(places[name][which].T):  # the tokens of one word
                edits += [Replace(SITE, x[:, part], layer=layer, pos=pos) for layer, x in enumerate(new)]
    return edits
