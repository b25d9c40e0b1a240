"""Fitted things put on the Hugging Face hub, of every kind in one way."""

from __future__ import annotations

import json
import os
from pathlib import Path

from caseback.artifacts.hub import SCHEME, HubAddress, why
from caseback.artifacts.kinds import KINDS, Kind
from caseback.errors import LoadError, WriteError
from caseback.jobs.json_text import parse_json
from caseback.jobs.safe_files import read_json, read_tensors
from caseback.model.arguments import checked

__all__ = ["push"]


@checked
def push(path: str | Path, address: str, *, private: bool = False, dry_run: bool = False) -> str:
    """Put a fitted thing into a repository of the hub, which is made where there is none.

    The file goes up as it is. A repository without a README gets one, which says what the file holds, of what it was
    made, how well it did and how it is read.

    Parameters
    ----------
    path
        What a ``save_…`` function of caseback wrote.
    address
        ``hf://owner/name`` or ``hf://owner/name/path``; the path is the file's own name by default. A revision behind
        it (``?revision=drafts``) is a branch that is there.
    private
        Whether a repository that is made now is private.
    dry_run
        Whether only the file and the address are checked, and nothing goes up.

    Returns
    -------
    str
        The address by which it is loaded.

    Raises
    ------
    LoadError
        If the file holds no fitted thing of caseback, or the address is none.
    WriteError
        If the hub does not take it: no connection, no token, no right to write there.

    Examples
    --------
    ::

        cb.push("tuned.safetensors", "hf://ours/lenses")
        load_lens("hf://ours/lenses/tuned.safetensors", model=model)
    """
    path, to = Path(path), HubAddress.of(address)
    name = to.path or path.name
    where = f"{SCHEME}{to.repository}/{name}" + (f"?revision={to.revision}" if to.revision else "")
    card = _card(path, where)
    if dry_run:
        return where
    import huggingface_hub as hub

    try:
        api = hub.HfApi()
        api.create_repo(to.repository, private=private, exist_ok=True)
        parts = [hub.CommitOperationAdd(name, path)]
        if not api.file_exists(to.repository, "README.md", revision=to.revision):
            parts.append(hub.CommitOperationAdd("README.md", card.encode()))
        api.create_commit(to.repository, parts, commit_message=f"Add {name}", revision=to.revision)
    except Exception as error:  # the client raises its own, its http library's and Python's
        raise WriteError(f"{path} cannot be put at {where!r}: {why(error)}") from None
    return where


def _card(path: Path, where: str) -> str:
    """A README: what the file holds, from the file itself."""
    kind, facts = _what(path)
    lines = [
        "---",
        "library_name: caseback",
        f"tags: [caseback, {kind.name.replace(' ', '-')}]",
        "---",
        "",
        f"# {path.stem}",
        "",
        f"{kind.with_article.capitalize()} of caseback. Read it with `{kind.reader}({where!r})`.",
    ]
    for title, value in facts.items():
        lines += ["", f"## {title}", "", "```json", json.dumps(value, indent=1, ensure_ascii=False), "```"]
    return "\n".join(lines) + "\n"


def _what(path: Path) -> tuple[Kind, dict[str, object]]:
    """Which kind of fitted thing a file holds, and what it says of how it was made and how well it did."""
    if os.path.isdir(path):
        raise LoadError(f"{path} is a folder: expected one file that a save_… function of caseback wrote")
    if path.suffix == ".json":
        data = read_json(path)
    else:
        _, metadata = read_tensors(path, ())
        try:
            data = {name: parse_json(metadata.get(name, "{}")) for name in ("made", "checks")}
        except ValueError as error:
            raise LoadError(f"{path} cannot be read: {error}") from None
        data["format"] = metadata.get("format", "")
    kind = next((kind for kind in KINDS.values() if kind.format == data.get("format")), None)
    if kind is None:
        wanted = "expected a file that a save_… function of caseback wrote"
        raise LoadError(f"{path} holds no fitted thing of this version: {wanted}")
    titles = {"about": "About", "made": "Made of", "checks": "Measured"}
    return kind, {title: data[name] for name, title in titles.items() if data.get(name)}
