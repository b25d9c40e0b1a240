"""A collection on disk: a folder that an interrupted job goes on from, and that can be read without the corpus.

    index.json                what was asked for, and how far it got; for people and for checking
    tally.safetensors         the counts; its metadata says how many shards belong to it
    rows-00000.safetensors    the corpus as tokens, one shard per saving

Every file is written whole or not at all, with a digest of what it holds, shards before the tally: what the tally
does not know of is written again.
"""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from caseback.decode.vocabulary.activating.rows import Rows
from caseback.decode.vocabulary.activating.tally import Tally
from caseback.errors import CasebackError, LoadError
from caseback.jobs.fingerprint import fingerprint
from caseback.jobs.safe_files import expect_whole, read_json, read_tensors, write_json, write_tensors
from caseback.jobs.whole_file import make_folder

FORMAT = "caseback activating 2"
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
        if os.path.isfile(self.folder):
            raise LoadError(f"{self.folder} is a file: name a folder to keep the collection in")
        if not os.path.exists(index):
            return None
        try:
            contents = read_json(index)
            if contents.get("format") != FORMAT:
                raise LoadError(f"{self.folder} holds no collection of this version: expected {FORMAT!r} in index.json")
            expect_whole(contents, index)
            if not os.path.exists(tally):
                return None
            held, noted = read_tensors(tally, _TENSORS)
            if noted["asked"] != fingerprint(contents["asked"]):
                raise LoadError(f"{tally} was collected otherwise than index.json says: remove the folder")
            rows = Rows()
            for shard in range(int(noted["shards"])):
                saved, _ = read_tensors(self._shard(shard), ("ids", "lengths"))
                rows.add(saved["ids"], saved["lengths"])
            shards, counted = int(noted["shards"]), Tally(**held, seen=int(noted["seen"]))
            asked = contents["asked"] | {"names": contents["names"]}
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise LoadError(f"{self.folder} cannot be read as a collection: {error!r}") from None
        self.shards, self.saved_rows, self.saved_tokens = shards, rows.n_rows, rows.n_tokens
        return asked, counted, rows

    def write(self, asked: dict[str, Any], names: list[int], tally: Tally, rows: Rows, *, whole: bool) -> None:
        """Save all that was counted so far."""
        make_folder(self.folder, "the collection")
        if rows.n_rows > self.saved_rows:
            ids, lengths = rows.since(self.saved_tokens, self.saved_rows)
            write_tensors(self._shard(self.shards), {"ids": ids, "lengths": lengths})
            self.shards += 1
            self.saved_rows, self.saved_tokens = rows.n_rows, rows.n_tokens
        noted = {"shards": str(self.shards), "seen": str(tally.seen), "asked": fingerprint(asked)}
        write_tensors(self.folder / "tally.safetensors", {name: getattr(tally, name) for name in _TENSORS}, noted)
        contents = {
            "format": FORMAT,
            "asked": asked,
            "names": names,
            "rows": rows.n_rows,
            "tokens": rows.n_tokens,
            "whole": whole,
        }
        write_json(self.folder / "index.json", contents)

    def expect(self, stored: dict[str, Any], asked: dict[str, Any]) -> None:
        """Refuse to go on with a collection of something else."""
        for key, value in asked.items():
            if stored.get(key) != value:
                raise CasebackError(
                    f"{self.folder} is a collection of something else ({key} {stored.get(key)!r}, not {value!r}): "
                    "choose another folder, or remove it"
                )

    def _shard(self, number: int) -> Path:
        return self.folder / f"rows-{number:05d}.safetensors"
