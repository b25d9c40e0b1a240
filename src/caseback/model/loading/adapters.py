"""Adapters of PEFT: models that carry some, and folders that hold one beside the name of its base model.

An adapter such as LoRA puts modules of its own in the place of linear ones, and ``anatomy.dense`` reads what they
multiply by. One that adds made-up tokens to the prompt changes what positions mean, and is refused.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from caseback.errors import LoadError
from caseback.jobs.json_text import parse_json
from caseback.model.loading.model_files import reason
from caseback.model.loading.pretrained import Source

_CONFIG = "adapter_config.json"


def carrier(hf: Any) -> Any:
    """The transformers model that carries a ``PeftModel``'s adapters; any other model as it is.

    Raises
    ------
    LoadError
        For prompt tuning and its like.
    """
    if not (hasattr(hf, "peft_config") and hasattr(hf, "get_base_model")):
        return hf
    for config in hf.peft_config.values():
        if config.is_prompt_learning:
            raise LoadError(
                f"an adapter of the kind {config.peft_type.value} puts tokens of its own before the prompt: only "
                "adapters that stand inside the model's modules are read, such as LoRA"
            )
    return hf.get_base_model()


def base_of(source: Source) -> Source | None:
    """Where the base model of an adapter's folder is read from; None for a folder that holds a model.

    Raises
    ------
    LoadError
        For an adapter that names no base model, or without what reads it.
    """
    path = source.folder / _CONFIG
    if not os.path.isfile(path) or os.path.isfile(source.folder / "config.json"):
        return None
    if find_spec("peft") is None:
        raise LoadError(
            f"{str(source.folder)!r} holds an adapter, which the package peft reads: pip install 'caseback[adapters]'"
        )
    try:
        name = parse_json(path.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise LoadError(f"{str(path)!r} is not readable JSON: {error}") from error
    if not isinstance(name, str) or not name:
        raise LoadError(f"{str(path)!r} names no base model: expected base_model_name_or_path")
    if not any(source.folder.glob("*.safetensors")) and not source.allow_pickle:
        raise LoadError(
            f"{str(source.folder)!r} has no adapter_model.safetensors; allow_pickle=True (--allow-pickle) reads other "
            "files"
        )
    return replace(source, place=name, subfolder="", revision=None)


def attach(hf: Any, source: Source) -> Any:
    """Put a folder's adapter on its base model.

    Raises
    ------
    LoadError
        For an adapter that does not fit the model, or lacks weights.
    """
    from peft import PeftModel

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            adapted = PeftModel.from_pretrained(hf, str(source.folder))
        except Exception as error:
            raise LoadError(f"cannot load the adapter of {str(source.folder)!r}: {reason(error)}") from error
    if any("missing adapter keys" in str(w.message) for w in heard):
        raise LoadError(f"{str(source.folder)!r} lacks weights of its adapter, and they would be random: mend it")
    return carrier(adapted).eval()
