"""A collection on disk: a folder that an interrupted job goes on from, and that can be read without the corpus.

    index.json                what was asked for, and how far it got; for people and for checking
    tally.safetensors         the counts; its metadata says how many shards belong to it
    rows-00000.safetensors    the corpus as tokens, a shard for each time that was saved

Every file is written whole or not at all, shards before the tally: what the tally does not know of is written again.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from caseback.decode.vocabulary.activating.rows import Rows
from caseback.decode.vocabulary.activating.tally import Tally
from caseback.errors import CasebackError, LoadError
from caseback.jobs.whole_file import whole_file

FORMAT = "caseback activating 1"
_TENSORS = [field.name for field in fields(Tally) if field.name != "seen"]


class Store:
    """The folder, and how much of the rows is in it already."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.shards = self.saved_rows = self.saved_tokens = 0

    def read(self) -> tuple[dict[str, Any], Tally, Rows] | None:
        """What the folder holds; None where it holds nothing yet.

        Raises
        ------
        LoadError
            Where something else is there, or a file is damaged.
        """
        index, tally = self.folder / "index.json", self.folder / "tally.safetensors"
        if not index.exists():
            return None
        try:
            said = json.loads(index.read_text(encoding="utf-8"))
            if said.get("format") != FORMAT:
                raise LoadError(f"{self.folder} holds no collection of this version: expected {FORMAT!r} in index.json")
            if not tally.exists():
                return None
            with safe_open(tally, "pt") as file:
                noted = file.metadata()
                held = {name: file.get_tensor(name) for name in _TENSORS}
            rows = Rows()
            for shard in range(int(noted["shards"])):
                with safe_open(self._shard(shard), "pt") as file:
                    rows.add(file.get_tensor("ids"), file.get_tensor("lengths"))
        except (OSError, ValueError, KeyError, AttributeError, TypeError, SafetensorError) as error:
            raise LoadError(f"{self.folder} cannot be read as a collection: {error!r}") from None
        self.shards, self.saved_rows, self.saved_tokens = int(noted["shards"]), rows.n_rows, rows.n_tokens
        return said["asked"] | {"names": said["names"]}, Tally(**held, seen=int(noted["seen"])), rows

    def write(self, asked: dict[str, Any], names: list[int], tally: Tally, rows: Rows, *, whole: bool) -> None:
        """Save all that was counted so far."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if rows.n_rows > self.saved_rows:
            ids, lengths = rows.since(self.saved_tokens, self.saved_rows)
            with whole_file(self._shard(self.shards)) as draft:
                save_file({"ids": ids, "lengths": lengths}, draft)
            self.shards += 1
            self.saved_rows, self.saved_tokens = rows.n_rows, rows.n_tokens
        with whole_file(self.folder / "tally.safetensors") as draft:
            held = {name: getattr(tally, name).contiguous() for name in _TENSORS}
            save_file(held, draft, {"shards": str(self.shards), "seen": str(tally.seen)})
        said = {
            "format": FORMAT,
            "asked": asked,
            "names": names,
            "rows": rows.n_rows,
            "tokens": rows.n_tokens,
            "whole": whole,
        }
        with whole_file(self.folder / "index.json") as draft:
            draft.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")

    def expect(self, said: dict[str, Any], asked: dict[str, Any]) -> None:
        """Refuse to go on with a collection of something else."""
        for key, value in asked.items():
            if said.get(key) != value:
                raise CasebackError(
                    f"{self.folder} is a collection of something else ({key} {said.get(key)!r}, not {value!r}): "
                    "choose another folder, or remove it"
                )

    def _shard(self, number: int) -> Path:
        return self.folder / f"rows-{number:05d}.safetensors"
