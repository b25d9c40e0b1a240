"""Linear CKA between the layers of two models: two seeds, or two checkpoints of one training (5.3).

    CKA(l, m) = |C_xy|² / (|C_xx| |C_yy|)           Frobenius norms of centered covariances
    chance    = tr C_xx tr C_yy / ((n - 1) |C_xx| |C_yy|)       its mean where tokens are paired at random

It is 1 for layers that differ by a rotation and a scale. Chance is exact, and small only where there are many more
tokens than directions in use.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from caseback.behaviors.seeds.moments import Read, moments
from caseback.errors import CasebackError
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model
from caseback.stream.documents import Corpus


@technique(
    entry=("5.3.5",),
    citation="Kornblith et al. 2019",
    cost="a forward of both models per token, for each group of layers whose cross moments fit",
)
def layer_similarity(
    model: Model,
    other: Model,
    corpus: Corpus,
    *,
    site: str = "resid_post",
    n_tokens: int | None = None,
    length: int | None = None,
    skip: int = 4,
    progress: bool = False,
) -> xr.Dataset:
    """Linear CKA of every layer of a model with every layer of another, beside tokens paired at random.

    Parameters
    ----------
    model
        The model.
    other
        A model of the same tokenizer, such as another seed or checkpoint; the model itself for its own layers.
    corpus
        Text, as ``caseback.stream.collect`` takes it.
    site
        A layered site of one vector per token.
    n_tokens
        Stop the text after about so many tokens; by default it is read to its end.
    length
        Tokens per row of text; 128 by default, or the context where that is shorter.
    skip
        First tokens of each row that do not count.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        By ``layer`` and the other's ``layer_to``: ``similarity``, and ``chance``. NaN for a layer that is constant.

    Raises
    ------
    CasebackError
        For a site of more than one vector per token, models of different vocabularies, and a corpus without tokens past
        the skipped ones.

    References
    ----------
    Kornblith et al. 2019, "Similarity of neural network representations revisited".

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> same = layer_similarity(model, model, ["Mary gave a drink to John", "the cat is on the table"])
    >>> [round(float(same.similarity.sel(layer=i, layer_to=i)), 6) for i in range(4)]
    [1.0, 1.0, 1.0, 1.0]
    """
    for one in (model, other):
        first = next(iter(one.anatomy.sites(site)))
        if first.layer is None or len(first.kind.dims) != 2:
            raise CasebackError(
                f"site {site!r} holds {' x '.join(first.kind.dims)}: expected one vector per token in every layer"
            )
    if skip < 0:
        raise CasebackError(f"skip={skip}: expected 0 or more")
    rows, chances, n = {}, {}, 0
    to: list[int] = []
    for one in moments(
        model, other, corpus, Read(site), n_tokens=n_tokens, length=length, skip=skip, progress=progress
    ):
        n, to = one.n, list(one.cross)
        scale = [float(one.within.norm() * within.norm()) or np.nan for within in one.other.values()]
        traces = [float(one.within.trace() * within.trace()) for within in one.other.values()]
        rows[one.layer] = [float(c.square().sum()) / s for c, s in zip(one.cross.values(), scale, strict=True)]
        chances[one.layer] = [t / ((n - 1) * s) for t, s in zip(traces, scale, strict=True)]
    about = {"other": other.name, "site": site, "n_tokens": n, "skip": skip}
    coords = {"layer": list(rows), "layer_to": to}
    return xr.Dataset(
        {
            name: labelled(
                list(values.values()), ["layer", "layer_to"], coords, technique=layer_similarity, model=model, **about
            )
            for name, values in (("similarity", rows), ("chance", chances))
        },
        attrs=about,
    )
