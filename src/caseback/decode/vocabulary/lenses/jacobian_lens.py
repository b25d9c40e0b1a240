"""The Jacobian lens: what a stream does to the final stream, on average and to first order (2026, after 4.3.1).

    J_r = E_prompts mean_{t in sources} sum_{u >= t} d h_end[u] / d h_r[t],    lens_r(h) = unembed(h J_r^T)

Sources and targets leave out the first positions (attention sinks) and the last one. One forward of a prompt, copied
as often as fits, and one backward for that many of the d_model output directions give all depths at once. Seen
through ``directions`` random ones O (orthonormal rows, drawn anew for each prompt) a prompt costs a share of that:
(d / directions) O^T O J has the mean J, so the estimate settles on J as prompts add up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.decode.vocabulary.lenses.lens import Lens, fingerprint, stream_at
from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.coerce import in_float64
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.registry import technique
from caseback.model.running.model import Model
from caseback.model.running.run import execute
from caseback.model.running.tokens import Tokens
from caseback.tasks.corpus import corpus_rows


@technique(
    role="lens", entry=("4.3.1", "B.1"), citation="Anthropic 2026 (jacobian-lens)", cost="prompts x d_model backwards"
)
def fit_jacobian_lens(
    model: Model,
    texts: Iterable[str],
    *,
    rows: Sequence[int] | None = None,
    skip: int = 16,
    length: int = 128,
    copies: int | None = None,
    directions: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Lens:
    """Average the Jacobian from the stream at each depth to the final stream over the rows of a corpus.

    Parameters
    ----------
    model
        The model.
    texts
        The corpus; each row of at most ``length`` tokens counts as a prompt.
    rows
        Depths: r is the stream before layer r; all but the end by default.
    skip
        Positions at a row's beginning that are neither source nor target; 16 as published. The last one never is.
    length
        Tokens of a row at most; 128 as published, or the model's context where that is shorter.
    copies
        Output directions that go backward together: memory grows with it, and passes shrink.
    directions
        Random output directions per prompt, instead of all ``d_model``: an unbiased estimate for a share of the cost.
    seed
        Same seed, same result. It draws the random directions.
    progress
        Show a progress bar.

    Returns
    -------
    Lens
        Of kind ``"jacobian"``. ``provenance["prompts"]`` is how many rows were averaged, and ``provenance["change"]``
        by how much, relative to its norm, the last of them moved the mean.

    Raises
    ------
    CasebackError
        Where no row is longer than ``skip`` + 1 tokens.
    OutOfRange
        For sizes below 1, more directions than ``d_model``, or depths that the model does not have.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> lens = fit_jacobian_lens(model, ["Mary and John went to the store."], skip=1, directions=8)
    >>> lens.kind, lens.weight.shape[0] == model.n_layers
    ('jacobian', True)
    """
    rows = tuple(range(model.n_layers)) if rows is None else tuple(rows)
    if not rows or not all(0 <= r <= model.n_layers for r in rows):
        raise OutOfRange(f"rows {list(rows)}: expected some of 0 (the embedding) to {model.n_layers} (the end)")
    d, copies = model.d_model, limit("jacobian_copies", given=copies)
    if skip < 0 or copies < 1 or not (directions is None or 1 <= directions <= d):
        raise OutOfRange(
            f"skip={skip}, copies={copies}, directions={directions}: expected at least 0, at least 1, and 1 to {d} or "
            "None"
        )
    generator = torch.Generator().manual_seed(seed)
    mean = torch.zeros(len(rows), d, d, dtype=torch.float64)
    count, change = 0, float("nan")
    length = min(length, model.context or length)
    for tokens in progress_bar(
        corpus_rows(model, texts, length=length, batch=1, least=skip + 2), show=progress, unit="prompt"
    ):
        out = torch.eye(d) if directions is None else _orthonormal(d, directions, generator)
        seen = _jacobians(model, tokens, rows, out, skip, copies)
        whole = seen if directions is None else (d / directions) * torch.einsum("kd,rke->rde", out.double(), seen)
        count += 1
        step = (whole - mean) / count
        mean += step
        change = float(step.norm() / mean.norm())
    if not count:
        raise CasebackError(f"no text has {skip + 2} tokens: give longer ones, or a smaller skip={skip}")
    dtype = torch.promote_types(model.dtype, torch.float32)
    return Lens(
        "jacobian",
        rows,
        mean.transpose(1, 2).to(dtype),
        torch.zeros(len(rows), d, dtype=dtype),
        model.n_layers,
        fingerprint=fingerprint(model),
        provenance={"prompts": count, "change": change, "skip": skip, "directions": directions, "seed": seed},
    )


def _orthonormal(d: int, k: int, generator: torch.Generator) -> Float[Tensor, "k d"]:
    q, r = torch.linalg.qr(torch.randn(d, k, generator=generator, dtype=torch.float64))
    # signs by R, or QR's own choice of them would make the draw uneven
    return (q * r.diagonal().sign()).T.float()


def _jacobians(
    model: Model, tokens: Tokens, rows: Sequence[int], out: Float[Tensor, "k d_model"], skip: int, copies: int
) -> Float[Tensor, "row k d_model"]:
    """Rows of O J for one prompt, at every depth."""
    n = tokens.ids.shape[1]
    valid = slice(skip, n - 1)
    at = [stream_at(model, row) for row in rows]
    end = stream_at(model, model.n_layers)
    copies = min(copies, len(out))
    many = Tokens(tokens.ids.expand(copies, -1), tokens.mask.expand(copies, -1), tokens.text * copies)
    run = execute(model.anatomy, many, read=list(dict.fromkeys([*at, end])), grad=True, logits=False)
    final = run[end.name, end.layer]
    jacobians = torch.empty(len(rows), *out.shape, dtype=torch.float64)
    for start in range(0, len(out), copies):
        some = out[start : start + copies].to(final)
        # a copy for each direction; those left over in the last pass are multiplied by nothing
        wanted = torch.einsum("kpd,kd->k", final[: len(some), valid], some)
        gradients = run.grad(wanted, at, retain=start + copies < len(out))
        for i, site in enumerate(at):
            here = at_least_float32(gradients[site.name, site.layer][: len(some), valid])
            jacobians[i, start : start + len(some)] = in_float64(here).mean(1).cpu()
    return jacobians
