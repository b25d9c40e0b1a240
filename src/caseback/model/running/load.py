"""Loading: a hub id, a folder, a bundled organism or a model already in memory becomes a verified ``Model``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from caseback.errors import AnatomyError, LoadError, SiteAbsent
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.families import FAMILIES, family_of
from caseback.model.running.model import Model
from caseback.model.running.model_files import (
    as_numbers,
    check_folder,
    check_gguf,
    check_index,
    expect_complete,
    locate,
    reason,
    stored_file,
)
from caseback.model.running.verify import verify as check_identities


def load(
    model: str | Path | nn.Module,
    *,
    tokenizer: Any = None,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device | None = None,
    device_map: Any = None,
    revision: str | None = None,
    verify: bool = True,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    gguf_file: str | None = None,
    **kwargs: Any,
) -> Model:
    """Load a decoder-only language model and verify its anatomy. The model itself is never changed.

    Parameters
    ----------
    model
        The name of a bundled organism (``"meadow"``), a folder, a hub id, or a ``PreTrainedModel``.
    tokenizer
        The tokenizer to use, a folder or hub id of one, or None for the model's own (a ``PreTrainedModel`` has none).
    dtype, device, device_map, revision, **kwargs
        Passed on to ``AutoModelForCausalLM.from_pretrained``. ``dtype`` None keeps the checkpoint's own.
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
    if isinstance(model, nn.Module):
        hf, name, tokenizer = model, str(getattr(model, "name_or_path", "") or type(model).__name__), tokenizer
        if isinstance(tokenizer, str | Path):
            tokenizer = _tokenizer(str(tokenizer), revision, trust_remote_code)
        if gguf_file is not None:
            raise LoadError(f"gguf_file={gguf_file!r} with a model in memory: expected the folder that has the file")
    else:
        source, name = locate(model, gguf_file)
        hf = _pretrained(
            source, dtype, device, device_map, revision, allow_pickle, trust_remote_code, gguf_file, kwargs
        )
        if isinstance(tokenizer, str | Path):
            tokenizer = _tokenizer(str(tokenizer), revision, trust_remote_code)
        elif tokenizer is None:
            tokenizer = _own_tokenizer(source, revision, trust_remote_code, gguf_file)
    return _legible(hf, tokenizer, name, verify)


def _legible(hf: Any, tokenizer: Any, name: str, verify: bool) -> Model:
    config = getattr(hf, "config", None)
    if config is None or not hasattr(hf, "generate"):
        raise LoadError(f"{type(hf).__name__} is not a causal language model of transformers: expected a *ForCausalLM")
    if getattr(config, "is_encoder_decoder", False) or getattr(config, "add_cross_attention", False):
        raise AnatomyError(f"{type(hf).__name__} has an encoder or cross-attention: only decoder-only models are read")
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


def _pretrained(source, dtype, device, device_map, revision, allow_pickle, trust_remote_code, gguf_file, kwargs) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    import caseback.model.crystal  # noqa: F401  (registers our own architecture with transformers)

    folder, gguf = Path(source), {} if gguf_file is None else {"gguf_file": gguf_file}
    if gguf_file is not None:
        check_gguf(source, gguf_file)
    elif folder.is_dir():
        check_folder(folder, allow_pickle)
    try:
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code, **gguf)
        own_code = trust_remote_code and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
        if not own_code and type(config) not in AutoModelForCausalLM._model_mapping:
            raise LoadError(f"{source!r} is not a causal language model: its model type is {config.model_type!r}")
        if not allow_pickle and gguf_file is None:
            check_index(source, revision)
        both: Any = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            dtype=dtype or "auto",
            device_map=device_map,
            revision=revision,
            use_safetensors=None if allow_pickle else True,
            trust_remote_code=trust_remote_code,
            **gguf,
            **{**as_numbers(gguf_file), **kwargs, "output_loading_info": True},
        )
        hf, report = both
    except LoadError:
        raise
    except Exception as error:
        raise LoadError(f"cannot load {source!r}: {reason(error)}") from error
    expect_complete(source, report)
    return hf.eval() if device is None else hf.eval().to(device)


def _own_tokenizer(source: str, revision: str | None, trust_remote_code: bool, gguf_file: str | None) -> Any:
    """The tokenizer of a folder or hub repository, that inside a GGUF file where there is no other, or None."""
    folder = Path(source)
    if gguf_file is not None and stored_file(source, "tokenizer.json", revision) is None:
        return _tokenizer(source, revision, trust_remote_code, gguf_file)
    if folder.is_dir() and not any(folder.glob("tokenizer*")) and not any(folder.glob("vocab.*")):
        return None
    return _tokenizer(source, revision, trust_remote_code)


def _tokenizer(source: str, revision: str | None, trust_remote_code: bool, gguf_file: str | None = None) -> Any:
    from transformers import AutoTokenizer

    gguf = {} if gguf_file is None else {"gguf_file": gguf_file}
    try:
        return AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code, **gguf)
    except Exception as error:
        raise LoadError(f"cannot load a tokenizer from {source!r}: {reason(error)}") from error
