"""What a write promotes: read through the final norm, frozen as in the run, and the unembedding, less the mean."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from caseback.model.algebra.under_edits import pushed_through_end
from caseback.model.anatomy.dense import wide_matrix
from caseback.model.running.model import Model


def promoted(
    model: Model, parts: Float[Tensor, "pos d_model"], final: Float[Tensor, "pos d_model"]
) -> Float[Tensor, "pos vocab"]:
    """The logits of addends of the last stream ``final``, each less its mean over the vocabulary."""
    anatomy = model.anatomy
    norm = None if anatomy.final_norm is None else anatomy.norms[anatomy.final_norm]
    unembed = wide_matrix(anatomy.unembed, anatomy.device)
    if anatomy.unembed_project is not None:
        unembed = wide_matrix(anatomy.unembed_project, anatomy.device) @ unembed
    x = pushed_through_end(anatomy, parts if norm is None else norm.frozen(parts, norm.scale(final)))
    logits = (x @ unembed) * anatomy.logit_scale
    return logits - logits.mean(-1, keepdim=True)
