"""What a write promotes: read through the final norm, frozen as in the run, and the unembedding, less the mean."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from caseback.model.anatomy.dense import weight_matrix
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.running.model import Model


def promoted(
    model: Model, parts: Float[Tensor, "pos d_model"], final: Float[Tensor, "pos d_model"]
) -> Float[Tensor, "pos vocab"]:
    """The logits of addends of the last stream ``final``, each less its mean over the vocabulary."""
    anatomy = model.anatomy
    norm = None if anatomy.final_norm is None else anatomy.norms[anatomy.final_norm]
    unembed = at_least_float32(weight_matrix(anatomy.unembed).detach())
    if anatomy.unembed_project is not None:
        unembed = at_least_float32(weight_matrix(anatomy.unembed_project).detach()) @ unembed
    x = parts if norm is None else norm.frozen(parts, norm.scale(final))
    logits = (x @ unembed) * anatomy.logit_scale
    return logits - logits.mean(-1, keepdim=True)
