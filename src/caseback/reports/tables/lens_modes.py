"""What a lens's result can be colored by: the likeliest token, a followed token's rank, entropy, a divergence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.model.arguments import checked
from caseback.reports.tables.lens_rows import by_unit
from caseback.reports.tokens_text import visible

__all__ = ["Mode", "chosen", "modes_of"]

_NAMES = {
    "entropy": "entropy, nats",
    "kl": "KL to the lens, nats",
    "js": "JS to the model, nats",
    "surprise": "surprise at the next, nats",
    "surprisal": "surprisal, nats",
}


@dataclass(frozen=True)
class Mode:
    """A way to color the grid.

    Attributes
    ----------
    name
        What it is called on the command line and on its button.
    title
        The scale's title.
    values
        (row, pos), as read; NaN where nothing was read.
    """

    name: str
    title: str
    values: np.ndarray

    @property
    def ranks(self) -> bool:
        """Whether the values are ranks, which are drawn by their logarithms."""
        return self.name.startswith("rank")

    @property
    def drawn(self) -> np.ndarray:
        """The values that the color follows."""
        return np.log10(np.where(self.values >= 1, self.values, np.nan)) if self.ranks else self.values


@checked
def modes_of(lens: xr.Dataset, batch: int = 0) -> list[Mode]:
    """The modes that a lens's or a patchscope's result has, for one prompt.

    Parameters
    ----------
    lens
        What ``logit_lens``, ``read_lens`` or ``patchscope`` gives, with a dimension ``pos``.
    batch
        Which prompt.

    Raises
    ------
    CasebackError
        For a result with dimensions other than layers, heads or neurons, positions and followed tokens.
    OutOfRange
        If there is no such prompt.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.vocabulary import logit_lens
    >>> lens = logit_lens(cb.load("meadow"), "the cat and the dog", targets=" cat")
    >>> [mode.name for mode in modes_of(lens)]
    ['top', 'rank ␣cat', 'entropy', 'kl', 'js', 'surprise']
    """
    lens = by_unit(lens)
    if set(lens["entropy"].dims) not in ({"layer", "batch", "pos"}, {"component", "batch", "pos"}):
        raise CasebackError(
            f"a lens grid is of layers by positions, and this result has {tuple(lens['entropy'].dims)}: read all "
            "positions of a stream"
        )
    if not 0 <= batch < lens.sizes["batch"]:
        raise OutOfRange(f"prompt {batch}: there are {lens.sizes['batch']}, 0 to {lens.sizes['batch'] - 1}")
    one = lens.isel(batch=batch)
    modes = [Mode("top", "probability of the likeliest", one["top_prob"].isel(k=0).values)]
    if "rank" in one and "vocab" in one["rank"].dims:
        texts = [visible(str(text)) for text in np.atleast_1d(one["vocab_text"].values)]
        modes += [
            Mode(f"rank {text}", f"rank of {text}", one["rank"].isel(vocab=i).values.astype(float))
            for i, text in enumerate(texts)
        ]
    elif "rank" in one:
        modes.append(Mode("rank", "rank of the answer", one["rank"].values.astype(float)))
    return modes + [Mode(name, title, one[name].values) for name, title in _NAMES.items() if name in one]


@checked
def chosen(modes: list[Mode], name: str) -> Mode:
    """The mode with this name; ``"rank"`` is that of the first token followed.

    Raises
    ------
    CasebackError
        If there is none.

    Examples
    --------
    >>> chosen([Mode("rank ␣cat", "rank of ␣cat", np.ones((1, 1)))], "rank").title
    'rank of ␣cat'
    """
    for mode in modes:
        if name in (mode.name, mode.name.partition(" ")[0]):
            return mode
    if name == "rank":
        raise CasebackError("the mode 'rank' needs a token whose rank is followed: name one (--target)")
    raise CasebackError(f"the mode {name!r} is unknown. {did_you_mean(name, [m.name for m in modes])}")
