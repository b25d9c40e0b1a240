"""What a model is read from, a folder or a hub id and the files in it, checked before transformers opens any."""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from caseback.errors import LoadError
from caseback.jobs.json_text import parse_json

ORGANISMS = Path(str(files("caseback"))) / "organisms"
_NEARLY = 0.75
"""How like a bundled model's name a name must be to be taken for it misspelt."""


def locate(model: str | Path, gguf_file: str | None, subfolder: str = "") -> tuple[str, str]:
    """Where to load a model from, and its name.

    Raises
    ------
    LoadError
        For what looks like a folder and is none, a folder without a model, or a bundled model's name misspelt.
    """
    text = str(model)
    if _is_bundled(text):
        return str(ORGANISMS / text), text
    folder = Path(os.path.expanduser(text))  # the functions of os.path take any text, a NUL too
    if not os.path.isdir(folder):
        expect_there(text)
        return text, text
    inside = folder / subfolder
    held = ("config.json", "adapter_config.json")
    if gguf_file is None and os.path.isdir(inside) and not any(os.path.isfile(inside / n) for n in held):
        raise LoadError(
            f"{text!r} holds no model: it has no {subfolder and subfolder + '/'}config.json{_name_a_gguf(inside)}"
        )
    return str(folder), folder.resolve().name


def expect_there(text: str) -> None:
    """Refuse what is neither a folder nor a bundled model, and cannot be meant for an id of the hub.

    Raises
    ------
    LoadError
    """
    folder = Path(os.path.expanduser(text))
    if _is_bundled(text) or os.path.isdir(folder):
        return
    if folder.suffix == ".gguf" and os.path.isfile(folder):
        raise LoadError(
            f"{text!r} is a file: expected its folder {str(folder.parent)!r}, and gguf_file={folder.name!r} "
            f"(--gguf {folder.name})"
        )
    looks_like_path = (
        folder.is_absolute() or text.startswith((".", "~")) or text.count("/") > 1 or os.path.exists(folder)
    )
    if looks_like_path:
        raise LoadError(f"there is no model folder {text!r}: expected a folder with config.json and model.safetensors")
    _expect_no_mistyped(text, sorted(config.parent.name for config in ORGANISMS.glob("*/config.json")))


def _is_bundled(text: str) -> bool:
    return text.isidentifier() and os.path.isfile(ORGANISMS / text / "config.json")


def _expect_no_mistyped(text: str, bundled: list[str]) -> None:
    """Refuse at once what is nearly a bundled name: asked of the hub, it would be no name there after long waiting.

    An id of the hub has an owner before a slash, but for some of its oldest, which are like no name of ours.
    """
    if "/" not in text and (near := get_close_matches(text.lower(), bundled, n=3, cutoff=_NEARLY)):
        raise LoadError(
            f"there is no bundled model {text!r}. Did you mean {' or '.join(near)}? Expected one of "
            f"{', '.join(bundled)}, a folder, or a hub id such as 'owner/name'"
        )


def _name_a_gguf(folder: Path) -> str:
    """What to do about a folder whose weights are in GGUF; nothing where it has none."""
    names = _ggufs(folder)
    if not names:
        return ""
    others = f", or another of its {len(names)}" if len(names) > 1 else ""
    return f"; to read its weights in GGUF give gguf_file={names[0]!r} (--gguf {names[0]}){others}"


def _ggufs(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.gguf"))


def check_folder(folder: Path, allow_pickle: bool) -> None:
    """Refuse a folder without a transformers model, or whose weights are not safe to load."""
    try:
        config = parse_json((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LoadError(f"{str(folder / 'config.json')!r} is not readable JSON: {error}") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise LoadError(f"{str(folder)!r} is not a transformers model: its config.json names no model_type")
    if not any(folder.glob("*.safetensors")) and not allow_pickle:
        pickled = any(folder.glob("*.bin"))
        hint = (
            "its weights are pickled: pass allow_pickle=True (--allow-pickle) to read them"
            if pickled
            else "it has no *.safetensors"
        )
        raise LoadError(f"{str(folder)!r} has no weights that are safe to load: {hint}{_name_a_gguf(folder)}")


def check_gguf(source: str, gguf_file: str) -> None:
    """Refuse a GGUF file that is not there, or without what reads it."""
    if find_spec("gguf") is None:
        raise LoadError(f"{gguf_file!r} is read by the package gguf, which is missing: pip install 'caseback[gguf]'")
    folder = Path(source)
    if os.path.isdir(folder) and not os.path.isfile(folder / gguf_file):
        has = ", ".join(_ggufs(folder)) or "none"
        raise LoadError(f"{source!r} has no file {gguf_file!r}: expected one of its *.gguf ({has})")


def as_numbers(gguf_file: str | None) -> dict[str, Any]:
    """What tells transformers to unpack the blocks of a GGUF file, which newer ones keep where they have kernels."""
    import transformers

    config = getattr(transformers, "GgufConfig", None)
    return {} if gguf_file is None or config is None else {"quantization_config": config(dequantize=True)}


def check_index(source: str, revision: str | None, subfolder: str, hub: Mapping[str, Any]) -> None:
    """Refuse an index of safetensors that names other files, or files outside its folder."""
    index = stored_file(source, "model.safetensors.index.json", revision, subfolder, hub)
    if index is None:
        return
    try:
        names = sorted(set(parse_json(Path(index).read_text(encoding="utf-8"))["weight_map"].values()))
        unsafe = [name for name in names if not name.endswith(".safetensors") or Path(name).name != name]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LoadError(f"the index of {source!r} cannot be read: {error}") from None
    if unsafe:
        raise LoadError(
            f"the index of {source!r} names {unsafe[0]!r}: expected *.safetensors beside it; pass allow_pickle=True "
            "(--allow-pickle) to read others"
        )


def stored_file(source: str, name: str, revision: str | None, subfolder: str, hub: Mapping[str, Any]) -> str | None:
    """The path of one file of a folder or a hub repository, None where it has no such file."""
    from transformers.utils.hub import cached_file

    quiet = {f"_raise_exceptions_for_{kind}": False for kind in ("missing_entries", "gated_repo", "connection_errors")}
    return cached_file(source, name, revision=revision, subfolder=subfolder, **hub, **quiet)


def expect_complete(source: str, report: Mapping[str, Any]) -> None:
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


def reason(error: Exception) -> str:
    """The first line of an error, which is the part that a person can use."""
    text = str(error).strip().splitlines()
    if "trust_remote_code" in str(error):
        return (
            "it comes with Python code of its own, which is not run: read it, and pass trust_remote_code=True "
            "(--trust-remote-code)"
        )
    return f"{type(error).__name__}: {text[0] if text else 'no reason given'}"
