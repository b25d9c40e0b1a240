"""The real language model of the tests: its GGUF file, converted once into a folder of the user's cache.

    $CASEBACK_CACHE/smollm2-135m-DIGEST/    (by default in ~/.cache/caseback; DIGEST is of the GGUF file)

Reading GGUF takes half a minute and nearly all of it is spent on numbers that do not change; safetensors are mapped
into memory in a second, and shared by all processes that read them.
"""

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from filelock import FileLock

import caseback as cb
from caseback.jobs.fingerprint import raw_digest
from caseback.jobs.whole_file import whole_file

LAST = "config.json"
"""Moved into place after everything else: a folder that has it is whole."""


def cache() -> Path:
    """The folder that outlives a run of the tests."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(os.environ.get("CASEBACK_CACHE") or user / "caseback").expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def converted(source: Path) -> Path:
    """A folder of safetensors with the model of a folder's GGUF file and its tokenizer, written where it is not yet."""
    ggufs = sorted(source.glob("*.gguf"))
    if not ggufs:
        pytest.skip(f"needs the language model: a .gguf file in {source}")
    folder = cache() / f"{source.name}-{raw_digest(ggufs[0].read_bytes())[:16]}"
    with FileLock(f"{folder}.lock"):  # of several processes one writes, and the others wait
        if not (folder / LAST).is_file():
            if find_spec("gguf") is None:
                pytest.skip("needs the package gguf to convert the language model: pip install 'caseback[gguf]'")
            _convert(source, ggufs[0].name, folder)
    return folder


def _convert(source: Path, gguf_file: str, folder: Path) -> None:
    model = cb.load(source, gguf_file=gguf_file)
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as drafts:
        model.hf.save_pretrained(drafts)
        model.tokenizer.save_pretrained(drafts)
        for file in sorted(Path(drafts).iterdir(), key=lambda file: file.name == LAST):
            with whole_file(folder / file.name) as draft:
                file.replace(draft)
