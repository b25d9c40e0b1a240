"""A tiny random model of every decoder family that transformers ships.

`tiny` builds an entry of `FAMILIES` and redraws every parameter, so that no term
is zero, no norm is the identity and no attention row is uniform: a part that an
anatomy forgets then changes the logits instead of hiding.
Run as a script, it prints for each family what a test relies on: the logits are
finite, depend on the last token, and those of earlier positions do not.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from zoo_families import D_MODEL, FAMILIES, VOCAB

__all__ = ["FAMILIES", "FLOAT32_ONLY", "VOCAB", "from_config", "redraw", "tiny"]

# XGLM clamps its scores at a float32 scalar made from the smallest number of their own type.
FLOAT32_ONLY = frozenset({"xglm"})


def tiny(name: str, dtype: torch.dtype | None = None, seed: int = 0, *, attention: str = "eager") -> PreTrainedModel:
    """A small random model of one family, in evaluation mode.

    Parameters
    ----------
    name
        A key of `FAMILIES`.
    dtype
        Of the parameters; float64 unless given, but float32 for the families in
        `FLOAT32_ONLY`, whose code cannot run in float64. The same seed gives the
        same numbers, rounded.
    seed
        Of the parameters.
    attention
        The attention implementation asked for when the model is built.

    Raises
    ------
    KeyError
        If the zoo has no such family.

    Examples
    --------
    >>> tiny("llama")(torch.tensor([[1, 2, 3]])).logits.shape
    torch.Size([1, 3, 61])
    """
    if name not in FAMILIES:
        raise KeyError(f"no family {name!r} in the zoo; it has {', '.join(FAMILIES)}")
    if dtype is None:
        dtype = torch.float32 if name in FLOAT32_ONLY else torch.float64
    return from_config(FAMILIES[name](), dtype, seed, attention=attention)


def from_config(
    config: PretrainedConfig, dtype: torch.dtype, seed: int = 0, *, attention: str = "eager"
) -> PreTrainedModel:
    """A model of this config with every parameter redrawn, in evaluation mode."""
    # The default for experts, grouped_mm, has no float64 kernel on a CPU.
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, experts_implementation="eager")
    model = model.to(dtype).eval()
    redraw(model, seed)
    return model


@torch.no_grad()
def redraw(model: nn.Module, seed: int = 0) -> None:
    """Give every parameter a seeded value large enough to matter.

    Vectors, and matrices of ones, keep what they were initialised to (a norm's
    1, the 0 of a norm that adds 1 itself, a bias's 0) plus noise. Other
    matrices are normal with variance 2 / d_model, embeddings with variance 1.
    """
    generator = torch.Generator().manual_seed(seed)
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}

    def noise(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)

    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue  # a table of sinusoids (RoFormer) is no weight
        constant = bool((parameter == parameter.flatten()[0]).all())
        first = parameter.flatten()[0].item() if constant else 0.0
        if id(parameter) in embeddings:
            parameter.copy_(noise(parameter))
        elif parameter.ndim == 1 or (constant and first == 1.0):
            parameter.copy_(first + 0.3 * noise(parameter))
        else:
            parameter.copy_(noise(parameter) * (2 / D_MODEL) ** 0.5)
    for name, buffer in model.named_buffers():
        # The one kind of learned value that is kept in a buffer: it steers the choice of experts.
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(0.3 * noise(buffer))


def _print_checks() -> None:
    logging.set_verbosity_error()
    tokens = torch.randint(0, VOCAB, (2, 12), generator=torch.Generator().manual_seed(1))
    other = tokens.clone()
    other[:, -1] = (other[:, -1] + 7) % VOCAB
    for name in FAMILIES:
        with torch.no_grad():
            model = tiny(name)
            logits, changed = model(tokens).logits, model(other).logits
        difference = (logits - changed).abs().amax((0, 2))
        print(
            f"{name:26s} finite {bool(logits.isfinite().all())}"
            f"  last logits change by {difference[-1].item():7.3f}"
            f"  earlier ones by {difference[:-1].max().item():.0e}"
        )


if __name__ == "__main__":
    _print_checks()
