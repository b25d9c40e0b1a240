"""Loading: a hub id, a folder, a bundled organism or a model already in memory becomes a verified ``Model``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from caseback.errors import AnatomyError, LoadError, SiteAbsent
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.classes import classes_of
from caseback.model.anatomy.coerce import as_device, widest
from caseback.model.anatomy.families import FAMILIES, family_of
from caseback.model.anatomy.parameters import expect_numbers
from caseback.model.arguments import checked
from caseback.model.loading.adapters import attach, base_of, carrier
from caseback.model.loading.model_files import locate
from caseback.model.loading.pretrained import HUB_OPTIONS, Source, open_model, open_tokenizer, read_tokenizer
from caseback.model.running.model import Model
from caseback.model.running.verify import verify as check_identities


@checked
def load(
    model: str | Path | nn.Module,
    *,
    tokenizer: Any = None,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device | None = None,
    device_map: Any = None,
    config: Any = None,
    revision: str | None = None,
    subfolder: str = "",
    verify: bool = True,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    gguf_file: str | None = None,
    torch_dtype: torch.dtype | str | None = None,
    **kwargs: Any,
) -> Model:
    """Load a decoder-only language model and verify its anatomy. The model itself is never changed.

    A decoder with a classification or reward head (``*ForSequenceClassification``) is loaded too: its logits are of
    classes, which stand in place of tokens as targets, by the names that its config gives them or by number.

    Parameters
    ----------
    model
        The name of a bundled organism (``"meadow"``), a folder, a hub id, or a ``PreTrainedModel``. One that
        ``torch.compile`` has wrapped or compiled in place is run uncompiled, since compiled code runs no hooks. A
        ``PeftModel``, and a folder of an adapter such as LoRA, are read with what the adapter does.
    tokenizer
        The tokenizer to use, a folder or hub id of one, or None for the model's own (a ``PreTrainedModel`` has none).
    dtype, torch_dtype
        The type of the numbers, under transformers' new name or its old one; None keeps the checkpoint's own.
    config
        The config to build the model from, a folder or hub id of one, or None for the model's own.
    device, device_map, revision, subfolder, **kwargs
        Passed on to ``from_pretrained``: its options, and settings of the config that are to differ. The tokenizer is
        the subfolder's, or that of the folder above.
    verify
        Check the anatomy on a short run (one forward pass) and refuse a model that does not fit.
    allow_pickle
        Accept weights in PyTorch's pickle format, read with ``weights_only=True``. By default only safetensors.
    trust_remote_code
        Run Python code that comes with a folder or a hub repository. By default it is never run, nor asked about.
    gguf_file
        The file of the folder or hub repository that holds the model in GGUF, whose numbers are read as float32 (needs
        ``caseback[gguf]``). The tokenizer is the one beside it, or else the file's own.

    Raises
    ------
    LoadError
        For a missing folder, a folder without a causal LM, broken, pickled or incomplete weights, or a model that
        needs code of its own.
    AnatomyError
        For a family without anatomy, or a model that does not fit it, naming the identity that failed.

    Examples
    --------
    >>> import caseback as cb
    >>> cb.load("meadow").n_layers > 1
    True
    """
    dtype = _one_dtype(dtype, torch_dtype)
    device = None if device is None else as_device(device, LoadError)
    if device is not None and dtype in (torch.float64, "float64") and widest(device) != torch.float64:
        raise LoadError(f"dtype={dtype} on {device}, which has no float64: expected float32, or device='cpu'")
    hub = {key: kwargs.pop(key) for key in HUB_OPTIONS & kwargs.keys()}
    if isinstance(tokenizer, str | Path):
        tokenizer = read_tokenizer(Source(str(tokenizer), revision, trust_remote_code=trust_remote_code, hub=hub))
    if isinstance(model, nn.Module):
        model = carrier(getattr(model, "_orig_mod", model))
        placed = {"device": device, "device_map": device_map}
        _expect_nothing_to_read(kwargs, config=config, dtype=dtype, subfolder=subfolder, gguf_file=gguf_file, **placed)
        hf, name = model, str(getattr(model, "name_or_path", "") or type(model).__name__)
    else:
        place, name = locate(model, gguf_file, subfolder)
        source = Source(place, revision, subfolder, trust_remote_code, allow_pickle, gguf_file, hub)
        base = base_of(source)
        hf = open_model(base or source, config, dtype, device, {"device_map": device_map, **kwargs})
        tokenizer = open_tokenizer(source) if tokenizer is None else tokenizer
        if base is not None:
            tokenizer = open_tokenizer(base) if tokenizer is None else tokenizer
            hf = attach(hf, source)
    return _legible(hf, tokenizer, name, verify)


def _one_dtype(dtype: Any, torch_dtype: Any) -> Any:
    if dtype is not None and torch_dtype is not None and dtype != torch_dtype:
        raise LoadError(f"dtype={dtype} and torch_dtype={torch_dtype}: they mean the same, expected one of them")
    return torch_dtype if dtype is None else dtype


def _expect_nothing_to_read(kwargs: dict[str, Any], **options: Any) -> None:
    """A model in memory is as it is: refuse what says how to read one."""
    given = [*kwargs, *(name for name, value in options.items() if value not in (None, ""))]
    if given:
        raise LoadError(f"{given[0]}= with a model in memory, which is taken as it is: expected a folder or a hub id")


def _legible(hf: Any, tokenizer: Any, name: str, verify: bool) -> Model:
    config = getattr(hf, "config", None)
    if hasattr(hf, "_original_forward"):
        raise LoadError(
            f"this {type(hf).__name__} was prepared by accelerate for mixed precision: pass "
            "accelerator.unwrap_model(model, keep_fp32_wrapper=False), or load it with dtype=torch.bfloat16"
        )
    if config is None or not (hasattr(hf, "generate") or classes_of(hf)):
        raise LoadError(f"{type(hf).__name__} is not a causal language model of transformers: expected a *ForCausalLM")
    if getattr(config, "is_encoder_decoder", False) or getattr(config, "add_cross_attention", False):
        raise AnatomyError(f"{type(hf).__name__} has an encoder or cross-attention: only decoder-only models are read")
    expect_numbers(hf)
    family, declared = family_of(config.get_text_config())
    try:
        anatomy = Anatomy(hf, family)
        if verify:
            check_identities(anatomy)
    except (AnatomyError, SiteAbsent) as error:
        if declared and isinstance(error, AnatomyError):
            raise
        if declared:
            raise AnatomyError(str(error)) from error
        known = ", ".join(sorted(FAMILIES))
        raise AnatomyError(
            f"model type {config.model_type!r} has no declared anatomy, "
            f"and the common layout does not fit it: {error}. "
            f"Declared: {known}"
        ) from error
    return Model(hf, tokenizer, anatomy, name, declared)
