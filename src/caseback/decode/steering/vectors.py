"""Steering vectors: the difference that a contrast makes in the stream, to be added wherever it is wanted.

    ActAdd   x_t <- x_t + c (h_t(positive) - h_t(negative))      t = 0, 1 ... at the front of the prompt
    CAA      x   <- x + c mean_i (h(question_i, positive answer) - h(question_i, negative answer))

The first is one pair of prompts, position by position; the second the mean over many pairs, read at the answer and
added at every position.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.decode.directions.directions import Directions
from caseback.decode.directions.find import auroc
from caseback.decode.states import Place, read_states
from caseback.errors import CasebackError, TokensError
from caseback.model.anatomy.coerce import in_float64
from caseback.model.registry import technique
from caseback.model.running.edits import Add, Edit
from caseback.model.running.frames import Positions
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike


@technique(entry=("4.2.9",), citation="Turner et al. 2023", cost="one forward of the two prompts")
def activation_addition(
    model: Model,
    positive: PromptsLike,
    negative: PromptsLike,
    *,
    layer: int,
    strength: float = 5.0,
    site: str = "resid_pre",
    pad: str | int = " ",
) -> list[Edit]:
    """Add the difference of two prompts' activations, position by position, at the front of a prompt.

    Parameters
    ----------
    model
        The model.
    positive, negative
        A prompt each, such as ``"Love"`` and ``"Hate"``. The shorter one is padded at its end.
    layer
        Before which layer; the authors' examples take 6 of GPT-2 XL's 48.
    strength
        What the difference is multiplied with; the authors' example takes 5.
    site
        Where in the layer.
    pad
        The token that fills the shorter prompt up, a space as in the paper, or its id.

    Returns
    -------
    list[Edit]
        One edit, for ``model.run`` and ``model.generate``. It acts on the first positions of each prompt, as many as
        the longer of the two has, and on no others.

    Raises
    ------
    TokensError
        For several prompts, prompts that are the same, and a ``pad`` that is not one token where one is needed.

    Notes
    -----
    Entry 4.2.9: Turner et al. 2023. Where a beginning-of-text token is put before texts, both have it and the
    difference there is 0.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> activation_addition(model, "the dog", "the cat", layer=2)[0].describe()
    'Add resid_pre L2 pos 0:3'
    """
    rows = []
    for name, prompt in (("positive", positive), ("negative", negative)):
        tokens = model.tokens(prompt)
        if len(tokens) != 1:
            raise TokensError(f"{len(tokens)} {name} prompts: expected one; contrastive_addition takes many")
        rows.append(tokens.ids[0][tokens.mask[0]].tolist())
    if rows[0] == rows[1]:
        raise TokensError("the positive and the negative prompt are the same tokens: nothing would be added")
    longest = max(map(len, rows))
    if min(map(len, rows)) < longest:
        fill = model.token_id(pad, "pad")
        rows = [ids + [fill] * (longest - len(ids)) for ids in rows]
    at = next(iter(model.anatomy.sites((site, layer))))
    high, low = model.run(rows, read=[at])[at]
    return [Add(site, strength * (high - low), layer=layer, pos=slice(0, longest))]


@technique(
    entry=("4.2.9", "B.17"), citation="Rimsky et al. 2024", cost="one forward of all prompts, up to the last layer read"
)
def contrastive_addition(
    model: Model,
    positive: PromptsLike,
    negative: PromptsLike,
    *,
    questions: PromptsLike | None = None,
    sites: str | Sequence[Any] = "resid_post",
    pos: Positions = -1,
    progress: bool = False,
) -> Directions:
    """Find the mean difference of paired prompts, at all layers at once: contrastive activation addition.

    Parameters
    ----------
    model
        The model.
    positive, negative
        Prompts that show the behavior and prompts that do not, the i-th of one beside the i-th of the other. With
        ``questions``, their answers, such as ``" (A"`` and ``" (B"``.
    questions
        What both are answers to; they are joined token by token.
    sites
        Where they are read.
    pos
        At which position of each; the last, the answer's, by default.
    progress
        Show a progress bar.

    Returns
    -------
    Directions
        ``write`` is the mean difference. ``table`` has ``auroc``, of the pairs' states against the mean difference of
        the *other* pairs, ``agreement``, the share of pairs whose own difference points along that of the others (both
        NaN for one pair), and ``length`` and ``cosine`` as ``find_directions`` has them.

    Raises
    ------
    CasebackError
        For other numbers of positive than of negative prompts, and pairs that do not differ at any site.

    Notes
    -----
    Entries 4.2.9 and B.17: Rimsky et al. 2024, who add it at every position after the instruction:
    ``found.at("resid_post.13").edits(1.0, pos="generated")``.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> warm = ["the sun is warm", "the bread was warm", "a warm day"]
    >>> cold = ["the sun is cold", "the bread was cold", "a cold day"]
    >>> found = contrastive_addition(model, warm, cold)
    >>> found.names
    ['resid_post.0', 'resid_post.1', 'resid_post.2', 'resid_post.3']
    """
    sides: list[Any] = [positive, negative]
    if questions is not None:
        sides = [model.with_answer(questions, answers) for answers in sides]
    both = [model.tokens(side) for side in sides]
    if len(both[0]) != len(both[1]):
        raise CasebackError(f"{len(both[0])} positive and {len(both[1])} negative prompts: expected pairs")
    shown = {"sites": sites, "pos": pos, "progress": progress}
    high, low = (read_states(model, tokens, **shown) for tokens in both)
    if high.x.shape != low.x.shape:
        raise CasebackError(f"pos={pos} gives the sides different numbers of states: expected a position each has")
    return of_pairs(high.x, low.x, high.places)


def of_pairs(
    positive: Float[Tensor, "place pair d"],
    negative: Float[Tensor, "place pair d"],
    places: list[Place],
    classes: tuple[Any, Any] = ("negative", "positive"),
) -> Directions:
    """The mean difference of pairs at each place, judged on each pair by the mean of the others.

    Raises
    ------
    CasebackError
        For a place at which the mean difference is zero or not finite.
    """
    high, low = in_float64(positive), in_float64(negative)
    differences = high - low
    n = differences.shape[1]
    mean = differences.mean(1)
    lengths = mean.norm(dim=1)
    if not bool((lengths > 0).all()) or not bool(lengths.isfinite().all()):
        place = places[int((~(lengths > 0) | ~lengths.isfinite()).nonzero()[0, 0])]
        raise CasebackError(
            f"at {place} the mean difference is {float(lengths.min())} long: leave that site out, or give pairs that "
            "differ before the position that is read"
        )
    norm = torch.cat([high, low], 1).norm(dim=2).mean(1)
    columns: dict[str, Any] = {
        "auroc": torch.full((len(places),), torch.nan),
        "agreement": torch.full_like(norm, torch.nan),
    }
    if n > 1:
        others = (n * mean[:, None] - differences) / (n - 1)
        scores = torch.cat([(others * high).sum(2), (others * low).sum(2)], 1)
        columns["auroc"] = auroc(scores, torch.arange(2 * n) < n)
        columns["agreement"] = ((others * differences).sum(2) > 0).double().mean(1)
    columns |= {"length": lengths / norm, "cosine": torch.ones(len(places))}
    arrays = {name: ("site", torch.as_tensor(values).cpu().numpy()) for name, values in columns.items()}
    table = xr.Dataset(arrays, {"site": [str(place) for place in places]}, {"method": "paired_difference", "pairs": n})
    bias = -((high.mean(1) + low.mean(1)) / 2 * mean).sum(1)
    return Directions(mean, mean, bias, norm, places, classes, table)
