"""Whether layers refine one prediction (5.3.5), how like their streams are, and what rounding costs them (5.3.7).

iterative inference    KL(final || lens of layer l), share of tokens whose likeliest token is the final one;
                       cos(x_(l+1) - x_l, x_L - x_l), and cos of successive updates
similarity             linear CKA of layers l and m:  |X_l^T X_m|^2 / (|X_l^T X_l| |X_m^T X_m|),  X centered
rounding               |Q(x) - x| / |x| of the stream in whole numbers of 8 bits, one scale for all tokens, for each
                       token, for each dimension; and for all tokens with the rogue dimensions apart

all of one sample of tokens, the same at all layers. A first token's stream, far larger than the others', is in none.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.stream.fact import Numbers
from caseback.behaviors.stream.outliers import often_rogue
from caseback.errors import CasebackError
from caseback.jobs.budget import limit
from caseback.model.anatomy.coerce import in_float64
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.running.verify import unembed

LATER = 4
FEWEST = 20
LENS_TOKENS = 128
INT8 = 127


def sample(evidence: Evidence) -> Tensor:
    """The stream behind every layer at tokens of both halves of the text, (layer, token, d_model).

    Raises
    ------
    CasebackError
        For too few tokens past the first of their rows.
    """
    if (key := (__name__, "sample")) not in evidence.computed:
        parts = []
        for fold in evidence.folds(TEXT, "reservoir"):
            later = fold["position"].values >= LATER
            parts.append(torch.as_tensor(fold["resid_post"].transpose("layer", "example", "d_model").values[:, later]))
        evidence.computed[key] = at_least_float32(torch.cat(parts, 1)).to(evidence.model.device)
    x = evidence.computed[key]
    if x.shape[1] < FEWEST:
        raise CasebackError(f"{x.shape[1]} tokens past the first of their rows: expected {FEWEST} at least")
    return x


@torch.no_grad()
def iterative_inference(evidence: Evidence) -> tuple[Numbers, Numbers]:
    """How predictions come, layer by layer; of the final prediction, and the final stream, of another token."""
    x = sample(evidence)
    if len(x) < 2:
        raise CasebackError("one layer: nothing is refined")
    few = x[:, :LENS_TOKENS]
    final = log_probs(evidence, few[-1])
    other = final.roll(1, 0)
    values: dict[str, list[float]] = {"KL of the lens": [], "agreement of the lens": []}
    control: dict[str, list[float]] = {name: [] for name in values}
    for layer in few:
        own = log_probs(evidence, layer)
        for into, goal in ((values, final), (control, other)):
            into["KL of the lens"].append(float((goal.exp() * (goal - own)).sum(-1).mean()))
            into["agreement of the lens"].append(float(in_float64(own.argmax(-1) == goal.argmax(-1)).mean()))
    cosine = torch.nn.functional.cosine_similarity
    updates = x.diff(dim=0)
    for into, end in ((values, x[-1]), (control, x[-1].roll(1, 0))):
        into["updates towards the end"] = cosine(updates, end - x[:-1], dim=-1).mean(1).tolist()
    values["successive updates"] = cosine(updates[1:], updates[:-1], dim=-1).mean(1).tolist()
    control["successive updates"] = cosine(updates[1:], updates[:-1].roll(1, 1), dim=-1).mean(1).tolist()
    return values, control


def log_probs(evidence: Evidence, stream: Tensor) -> Tensor:
    """What the head says of a stream, (token, vocab), some tokens at a time."""
    anatomy = evidence.model.anatomy
    step = max(1, limit("lens_logits", stream.device) // evidence.folded.W_U.shape[1])
    parts = []
    for some in stream.split(step):
        parts.append(at_least_float32(unembed(anatomy, some.to(evidence.model.dtype))).log_softmax(-1))
    return torch.cat(parts)


def cka(x: Tensor, y: Tensor) -> float:
    """Linear CKA of two samples, (token, dimension).

    Examples
    --------
    >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double()
    >>> turned = x @ torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)).double())[0]
    >>> round(cka(x, 2 * turned), 6), cka(x, x.roll(1, 0)) < 0.3
    (1.0, True)
    """
    x, y = (in_float64(z) - in_float64(z).mean(0) for z in (x, y))
    of = [float((a.T @ b).square().sum()) for a, b in ((x, y), (x, x), (y, y))]
    return of[0] / max((of[1] * of[2]) ** 0.5, 1e-300)


@torch.no_grad()
def similarity(evidence: Evidence) -> tuple[Numbers, Numbers]:
    """CKA of each layer with the next, and with the last; with tokens of one of them in another order."""
    x = sample(evidence)
    if len(x) < 2:
        raise CasebackError("one layer: there is no other")
    values, control = (
        {
            "with the next layer": [cka(a, b) for a, b in zip(x[:-1], other[1:], strict=True)],
            "with the last layer": [cka(a, other[-1]) for a in x[:-1]],
        }
        for other in (x, x.roll(1, 1))
    )
    return values, control


def rounded(x: Tensor, scale: Tensor) -> Tensor:
    """The nearest of 255 numbers, the largest at the scale."""
    step = scale.clamp_min(torch.finfo(x.dtype).tiny) / INT8
    return (x / step).round() * step


def rounding_error(x: Tensor, scale: Tensor) -> float:
    """|Q(x) - x| / |x|.

    Examples
    --------
    >>> x = torch.tensor([[1.0, -0.5], [100.0, 0.1]])
    >>> rounding_error(x, x.abs().amax()) > rounding_error(x, x.abs().amax(1, keepdim=True))
    True
    """
    return float((rounded(x, scale) - x).norm() / x.norm().clamp_min(torch.finfo(x.dtype).tiny))


@torch.no_grad()
def rounding(evidence: Evidence) -> tuple[Numbers, Numbers]:
    """Errors of the stream in 8 bits by layer, by what has a scale of its own; and with the rogue dimensions apart.

    The error is that of the dimensions that are not rogue, since these are what one scale for all takes away. The
    control is the same stream after a random rotation, where no dimension stands out.
    """
    x = sample(evidence)
    d = x.shape[2]
    rogue = torch.zeros(d, dtype=torch.bool, device=x.device)
    rogue[often_rogue(evidence)] = True
    turn, _ = np.linalg.qr(np.random.default_rng(evidence.seed).standard_normal((d, d)))
    turned = x @ torch.as_tensor(turn).to(x)
    values: dict[str, list[float] | float] = {}
    control: dict[str, list[float] | float] = {}
    for into, stream in ((values, x), (control, turned)):
        some = ~rogue if stream is x and not bool(rogue.all()) else torch.ones_like(rogue)
        plain = [layer[:, some] for layer in stream]
        scales = {
            "one scale": [layer.abs().amax() for layer in stream],
            "a scale a token": [layer.abs().amax(1, keepdim=True) for layer in stream],
            "a scale a dimension": [layer.abs().amax(0, keepdim=True)[:, some] for layer in stream],
            "one scale, rogue dimensions apart": [layer.abs().amax() for layer in plain],
        }
        for name, own in scales.items():
            into[f"error, {name}"] = [rounding_error(a, scale) for a, scale in zip(plain, own, strict=True)]
    values["rogue dimensions"] = float(rogue.sum())
    return values, control
