"""How well a lens reads: its divergence from the model, its bias, and how often both agree (PRIMER 4.3.1, 4.3.3).

    kl = E KL(f || q)        bias = KL( E f || E q )        agreement = share of tokens where argmax q = argmax f

E is over the tokens of a corpus, in nats. The bias is what remains when all context is averaged away: a lens that puts
too much on some words whatever it reads has a large one (Belrose et al. 2023).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import xarray as xr

from caseback.decode.vocabulary.lenses.lens import Lens, row_name, streams
from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model
from caseback.model.running.verify import unembed
from caseback.tasks.corpus import corpus_rows


@technique(
    role="judgement",
    entry=("4.3.1", "4.3.3"),
    citation="Belrose et al. 2023",
    cost="forwards over the corpus + layers x tokens x unembedding",
)
def lens_quality(
    model: Model,
    texts: Iterable[str],
    lens: Lens | None = None,
    *,
    length: int | None = None,
    batch: int | None = None,
    max_logits: int | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Measure a lens on a corpus, depth by depth.

    Parameters
    ----------
    model
        The model.
    texts
        The corpus; not the one that the lens was fitted on, if the numbers are to mean something.
    lens
        A fitted lens of the model's own position (``ahead`` 0); None for the logit lens.
    length, batch
        Tokens of a row and rows of a batch, as for ``corpus_rows``.
    max_logits
        The most logits formed at once.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        ``kl``, ``bias``, ``agreement`` and ``surprise`` (minus the log probability of the next token) by ``layer``,
        the last of which is the model itself; the attribute ``tokens`` counts what was read.

    Raises
    ------
    CasebackError
        For an empty corpus, or a lens of another model.
    OutOfRange
        For a lens that looks ahead.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> measured = lens_quality(model, ["Mary went to the store.", "John saw the dog at the park."])
    >>> float(measured["agreement"].isel(layer=-1))
    1.0
    """
    if lens is not None:
        lens.expect(model)
        if lens.ahead:
            raise OutOfRange(f"this lens looks {lens.ahead} ahead: only one that reads its own position is measured")
    rows = list(range(model.n_layers)) if lens is None else [r for r in lens.rows if r < model.n_layers]
    rows.append(model.n_layers)
    step = max(1, limit("lens_logits", given=max_logits) // model.d_vocab)
    sums = torch.zeros(len(rows), 3, dtype=torch.float64)
    mean = torch.zeros(len(rows), model.d_vocab, dtype=torch.float64)
    count = followed = 0
    for tokens in progress_bar(corpus_rows(model, texts, length=length, batch=batch), show=progress, unit="batch"):
        at = streams(model, tokens, rows)
        example, column = tokens.mask.nonzero(as_tuple=True)
        has_next = column + 1 < (tokens.first + tokens.lengths)[example]
        next_id = tokens.ids[example, (column + 1).clamp(max=tokens.ids.shape[1] - 1)]
        count, followed = count + len(example), followed + int(has_next.sum())
        for start in range(0, len(example), step):
            here = slice(start, start + step)
            where = (example[here], column[here])
            final = _log_p(model, at[model.n_layers][where])
            p, best = final.exp(), final.argmax(-1)
            for i, row in enumerate(rows):
                h = at[row][where]
                log_q = _log_p(model, h if lens is None or row not in lens.rows else lens.transport(row, h))
                mean[i] += log_q.exp().sum(0).cpu().double()
                kl = torch.where(p == 0, 0.0, p * (final - log_q)).sum()
                surprise = -(log_q.gather(-1, next_id[here, None])[:, 0] * has_next[here]).sum()
                same = (log_q.argmax(-1) == best).sum()
                sums[i] += torch.stack([kl, same.to(kl), surprise]).cpu().double()
    if not count:
        raise CasebackError("the corpus is empty: no text has as many tokens as are needed")
    mean /= count
    bias = (torch.special.xlogy(mean[-1], mean[-1]) - torch.special.xlogy(mean[-1], mean)).sum(-1).clamp_min(0)
    measures = {
        "kl": (sums[:, 0] / count).clamp_min(0),
        "agreement": sums[:, 1] / count,
        "surprise": sums[:, 2] / max(followed, 1),
        "bias": bias,
    }
    attrs = {"tokens": count, "lens": "logit" if lens is None else lens.kind}
    coords = {"layer": [row_name(row) for row in rows]}
    return xr.Dataset(
        {
            name: labelled(value, ["layer"], coords, name=name, technique=lens_quality, model=model, **attrs)
            for name, value in measures.items()
        }
    )


def _log_p(model: Model, h: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return at_least_float32(unembed(model.anatomy, h.to(model.dtype))).log_softmax(-1)
