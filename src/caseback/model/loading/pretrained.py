"""Opening what a folder or a hub id holds, with transformers: config, the class that fits, weights, tokenizer.

A causal LM is opened as one. A model that also sees or hears is opened whole, and its text decoder is what is read; a
decoder with a classification or reward head keeps that head.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from caseback.errors import LoadError
from caseback.model.loading.model_files import (
    as_numbers,
    check_folder,
    check_gguf,
    check_index,
    expect_complete,
    reason,
    stored_file,
)
from caseback.model.loading.room import expect_room, numbers_of_config, stored_numbers

HUB_OPTIONS = frozenset({"cache_dir", "force_download", "local_files_only", "proxies", "token"})
"""Options that say how files are fetched: all that is read of a model is read with them."""
_OF_THE_MODEL = frozenset({"quantization_config", "attn_implementation", "experts_implementation"})
"""Options that a config would take too, and that the model's own loading is to see."""


@dataclass(frozen=True)
class Source:
    """A folder or a hub id, and how it is read."""

    place: str
    revision: str | None = None
    subfolder: str = ""
    trust_remote_code: bool = False
    allow_pickle: bool = False
    gguf_file: str | None = None
    hub: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.is_folder and self.subfolder and not os.path.isdir(self.folder):
            raise LoadError(f"{self.place!r} has no subfolder {self.subfolder!r}")

    @property
    def is_folder(self) -> bool:
        return os.path.isdir(self.place)

    @property
    def folder(self) -> Path:
        return Path(self.place, self.subfolder)

    @property
    def options(self) -> dict[str, Any]:
        """What every call of transformers is told."""
        gguf = {} if self.gguf_file is None else {"gguf_file": self.gguf_file}
        return {"revision": self.revision, "subfolder": self.subfolder, **self.hub, **gguf}

    @property
    def has_tokenizer(self) -> bool:
        if self.is_folder:
            return any(path.name.startswith(("tokenizer", "vocab.")) for path in self.folder.iterdir())
        return stored_file(self.place, "tokenizer.json", self.revision, self.subfolder, self.hub) is not None


def open_model(source: Source, config: Any, dtype: Any, device: Any, options: Mapping[str, Any]) -> Any:
    """The model, in evaluation mode.

    Parameters
    ----------
    source, config, dtype, device
        As for ``cb.load``; a config may be the place of one.
    options
        Settings of the config that are to differ, and options of ``from_pretrained``.

    Raises
    ------
    LoadError
        For what is no language model, or cannot be read, or is not complete.
    """
    import caseback.model.crystal  # noqa: F401  (registers our own architecture with transformers)

    if source.gguf_file is not None:
        check_gguf(str(source.folder) if source.is_folder else source.place, source.gguf_file)
    elif source.is_folder:
        check_folder(source.folder, source.allow_pickle)
    try:
        config, left = _config(source, config, dict(options))
        opener = _opener(config, source)
        if not source.allow_pickle and source.gguf_file is None:
            check_index(source.place, source.revision, source.subfolder, source.hub)
        _expect_room(source, opener, config, dtype, device, left)
        both: Any = opener.from_pretrained(
            source.place,
            config=config,
            dtype=dtype or "auto",
            use_safetensors=None if source.allow_pickle else True,
            trust_remote_code=source.trust_remote_code,
            **source.options,
            **{**as_numbers(source.gguf_file), **left, "output_loading_info": True},
        )
        hf, report = both
    except LoadError:
        raise
    except Exception as error:
        raise LoadError(f"cannot load {source.place!r}: {reason(error)}") from error
    expect_complete(source.place, report)
    return hf.eval() if device is None else hf.eval().to(device)


def _expect_room(source: Source, opener: Any, config: Any, dtype: Any, device: Any, options: Mapping[str, Any]) -> None:
    """Refuse what does not fit into memory, unless it goes where accelerate finds room, or is packed as it is read."""
    packed = options.get("quantization_config") or getattr(config, "quantization_config", None)
    if options.get("device_map") is None and not packed and source.gguf_file is None:
        stored = (
            stored_numbers(source.folder)
            if source.is_folder
            else numbers_of_config(opener, config, trust_remote_code=source.trust_remote_code)
        )
        expect_room(source.place, stored, dtype, device)


def _config(source: Source, config: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The config, with the settings that differ, and the options that are left for the model."""
    from transformers import AutoConfig, PretrainedConfig

    if isinstance(config, PretrainedConfig):
        return config, options
    of_model = {name: options.pop(name) for name in _OF_THE_MODEL & options.keys()}
    elsewhere = {} if config is None else {"subfolder": "", "gguf_file": None}
    both: Any = AutoConfig.from_pretrained(
        source.place if config is None else str(config),
        trust_remote_code=source.trust_remote_code,
        return_unused_kwargs=True,
        **{**source.options, **elsewhere, **options},
    )
    config, left = both
    unused = {name: value for name, value in left.items() if name in options}
    return config, {**unused, **of_model}


def _opener(config: Any, source: Source) -> Any:
    """The class of transformers that opens a model of this config."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForSequenceClassification

    kinds = " ".join(getattr(config, "architectures", None) or ())
    if "ForSequenceClassification" in kinds and type(config) in AutoModelForSequenceClassification._model_mapping:
        return AutoModelForSequenceClassification
    own_code = source.trust_remote_code and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    for opener in (AutoModelForCausalLM, AutoModelForImageTextToText):
        if own_code or type(config) in opener._model_mapping:
            return opener
    raise LoadError(f"{source.place!r} is not a causal language model: its model type is {config.model_type!r}")


def open_tokenizer(source: Source) -> Any:
    """The tokenizer that a model comes with: beside it, above its subfolder, or in its GGUF file; None without one."""
    beside = replace(source, gguf_file=None)
    for place in (beside, replace(beside, subfolder="")):
        if place.has_tokenizer:
            return read_tokenizer(place)
    if source.gguf_file is not None or not source.is_folder:
        return read_tokenizer(source)
    return None


def read_tokenizer(source: Source) -> Any:
    """A tokenizer from where it is.

    Raises
    ------
    LoadError
        Where there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source.place, trust_remote_code=source.trust_remote_code, **source.options)
    except Exception as error:
        raise LoadError(f"cannot load a tokenizer from {source.place!r}: {reason(error)}") from error
