"""Loading: a hub id, a folder, a bundled organism or a model already in memory becomes a verified ``Model``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import nn

from caseback.errors import AnatomyError, LoadError, SiteAbsent
from caseback.jobs.json_text import parse_json
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.families import FAMILIES, family_of
from caseback.model.arguments import checked
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
    revision: str | None = None,
    verify: bool = True,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
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
    else:
        source, name = _locate(model)
        hf = _pretrained(source, dtype, device, device_map, revision, allow_pickle, trust_remote_code, kwargs)
        given = tokenizer if isinstance(tokenizer, str | Path) else None
        if tokenizer is None or given is not None:
            tokenizer = _tokenizer(str(given or source), revision, trust_remote_code, optional=given is None)
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


def _locate(model: str | Path) -> tuple[str, str]:
    """Where to load a model from, and its name."""
    text = str(model)
    bundled = Path(str(files("caseback"))) / "organisms" / text
    if text.isidentifier() and os.path.isfile(bundled / "config.json"):
        return str(bundled), text
    folder = Path(os.path.expanduser(text))
    if os.path.isdir(folder):
        if not os.path.isfile(folder / "config.json"):
            raise LoadError(f"{text!r} holds no model: it has no config.json")
        return str(folder), folder.resolve().name
    looks_like_path = (
        folder.is_absolute() or text.startswith((".", "~")) or text.count("/") > 1 or os.path.exists(folder)
    )
    if looks_like_path:
        raise LoadError(f"there is no model folder {text!r}: expected a folder with config.json and model.safetensors")
    return text, text


def _pretrained(source, dtype, device, device_map, revision, allow_pickle, trust_remote_code, kwargs) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    import caseback.model.crystal  # noqa: F401  (registers our own architecture with transformers)

    folder = Path(source)
    if os.path.isdir(folder):
        _check_folder(folder, allow_pickle)
    try:
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
        own_code = trust_remote_code and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
        if not own_code and type(config) not in AutoModelForCausalLM._model_mapping:
            raise LoadError(f"{source!r} is not a causal language model: its model type is {config.model_type!r}")
        if not allow_pickle:
            _check_index(source, revision)
        both: Any = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            dtype=dtype or "auto",
            device_map=device_map,
            revision=revision,
            use_safetensors=None if allow_pickle else True,
            trust_remote_code=trust_remote_code,
            **{**kwargs, "output_loading_info": True},
        )
        hf, report = both
    except LoadError:
        raise
    except Exception as error:
        raise LoadError(f"cannot load {source!r}: {_reason(error)}") from error
    _expect_complete(source, report)
    return hf.eval() if device is None else hf.eval().to(device)


def _expect_complete(source: str, report: Mapping[str, Any]) -> None:
    """Refuse weights that the checkpoint does not hold, or holds in another shape: they would be random numbers."""
    other_shape = [key if isinstance(key, str) else key[0] for key in report.get("mismatched_keys", ())]
    for keys, what in ((report.get("missing_keys", ()), "lacks"), (other_shape, "has in another shape")):
        names = sorted(keys)
        if names:
            some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise LoadError(
                f"{source!r} {what} weights that the model has, and they would be random: {some}; mend the "
                "checkpoint, or load the model yourself and pass it"
            )


def _check_index(source: str, revision: str | None) -> None:
    """Refuse an index of safetensors that names other files, or files outside its folder."""
    from transformers.utils.hub import cached_file

    quiet = {f"_raise_exceptions_for_{kind}": False for kind in ("missing_entries", "gated_repo", "connection_errors")}
    index = cached_file(source, "model.safetensors.index.json", revision=revision, **quiet)
    if index is None:
        return
    try:
        names = sorted(set(parse_json(Path(index).read_text(encoding="utf-8"))["weight_map"].values()))
        unsafe = [name for name in names if not name.endswith(".safetensors") or Path(name).name != name]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LoadError(f"the index of {source!r} cannot be read: {error}") from None
    if unsafe:
        raise LoadError(
            f"the index of {source!r} names {unsafe[0]!r}: expected *.safetensors beside it; pass allow_pickle=True to "
            "read others"
        )


def _check_folder(folder: Path, allow_pickle: bool) -> None:
    try:
        config = parse_json((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LoadError(f"{str(folder / 'config.json')!r} is not readable JSON: {error}") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise LoadError(f"{str(folder)!r} is not a transformers model: its config.json names no model_type")
    if not any(folder.glob("*.safetensors")) and not allow_pickle:
        pickled = any(folder.glob("*.bin"))
        hint = "its weights are pickled: pass allow_pickle=True to read them" if pickled else "it has no *.safetensors"
        raise LoadError(f"{str(folder)!r} has no weights that are safe to load: {hint}")


def _reason(error: Exception) -> str:
    """The first line of an error, which is the part that a person can use."""
    text = str(error).strip().splitlines()
    if "trust_remote_code" in str(error):
        return "it comes with Python code of its own, which is not run: read it, and pass trust_remote_code=True"
    return f"{type(error).__name__}: {text[0] if text else 'no reason given'}"


def _tokenizer(source: str, revision: str | None, trust_remote_code: bool, *, optional: bool = False) -> Any:
    from transformers import AutoTokenizer

    folder = Path(source)
    if optional and os.path.isdir(folder) and not any(folder.glob("tokenizer*")) and not any(folder.glob("vocab.*")):
        return None
    try:
        return AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise LoadError(f"cannot load a tokenizer from {source!r}: {_reason(error)}") from error
