"""What travels between a program and a server: JSON, with tensors beside it, as the bytes of a safetensors file.

    bytes = safetensors(tensors, metadata={"caseback": JSON})

Nothing is ever unpickled. Reading a message makes tensors and JSON values; what these mean is for the reader.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
import xarray as xr
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from caseback.errors import CasebackError
from caseback.jobs.json_text import expect_form, parse_json
from caseback.model.anatomy.sites import MAPS, Site, as_site
from caseback.model.remote.records import Reader, Writer
from caseback.model.running.run import Run
from caseback.model.running.tokens import Tokens, piece

KIND = "application/octet-stream"
"""The content type of a message; a page of another site may not send it unasked."""

_NAME = "caseback"


def pack(data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """A message as bytes.

    Examples
    --------
    >>> unpack(pack({"layer": 1}, {"x": torch.ones(2)}))
    ({'layer': 1}, {'x': tensor([1., 1.])})
    """
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return save(own, {_NAME: json.dumps(dict(data), allow_nan=False)})


def unpack(message: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The JSON object and the tensors of a message.

    Raises
    ------
    CasebackError
        For bytes that are no message.
    """
    try:
        size = int.from_bytes(message[:8], "little")
        header = parse_json(message[8 : 8 + size].decode()) if size <= len(message) - 8 else None
        data = parse_json(header["__metadata__"][_NAME])  # pyright: ignore[reportOptionalSubscript]
        tensors = load(message)
    except (ValueError, KeyError, TypeError, SafetensorError, OverflowError) as error:
        raise CasebackError(f"this is no message of caseback's: {type(error).__name__} {str(error)[:200]}") from None
    if not isinstance(data, dict):
        raise CasebackError("this is no message of caseback's: expected a JSON object")
    return data, tensors


def tokens_of(model: Any, ids: Tensor, mask: Tensor) -> Tokens:
    """Prompts by their ids and mask, with the text that a model's tokenizer has for them."""
    known = {t: piece(model.tokenizer, t) for t in set(ids[mask].tolist()) if 0 <= t < model.d_vocab}
    text = [[known.get(t, str(t)) for t in row[own].tolist()] for row, own in zip(ids, mask, strict=True)]
    return model.tokens(Tokens(ids, mask, text))


def reader_of(model: Any, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Reader:
    """What reads the edits and metrics of a message to a model, with the runs that it brings.

    Raises
    ------
    CasebackError
        For runs of another form, of prompts that the model cannot have, or of sites that it lacks.
    """
    anatomy, runs = model.anatomy, []
    with expect_form("a run that was sent"):
        for record in data.get("runs", []):
            tokens = tokens_of(model, tensors[record["ids"]["tensor"]], tensors[record["mask"]["tensor"]])
            held: dict[Site, Tensor] = {}
            for name, value in record["sites"].items():
                (site,) = anatomy.sites(name)
                held[site] = tensors[value["tensor"]].to(anatomy.device)
                rows = 1 if site.name in MAPS else 2  # maps have heads after their prompts
                if held[site].shape[:rows] != tokens.shape[:rows]:
                    raise CasebackError(f"a run that was sent: {site} is not of its {len(tokens)} prompts")
            logits = held.pop(Site("logits"), None)
            runs.append(Run(anatomy, tokens, held, logits, edited=bool(record["edited"])))
    return Reader(tensors, runs)


def labelled_record(array: xr.DataArray, tensors: dict[str, Tensor], name: str) -> dict[str, Any]:
    """A labeled result as data: numbers as tensors, texts as lists."""
    writer = Writer()

    def numbers(values: Any, at: str) -> Any:
        return values.tolist() if values.dtype.kind in "OU" else writer.value(torch.tensor(values), at)

    record = {
        "dims": list(array.dims),
        "name": array.name,
        "values": numbers(array.values, name),
        "coords": {
            str(key): [list(one.dims), numbers(one.values, f"{name}.{key}")] for key, one in array.coords.items()
        },
        "attrs": {str(key): writer.value(value, f"{name}.attrs.{key}") for key, value in array.attrs.items()},
    }
    tensors.update(writer.tensors)
    return record


def labelled_of(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> xr.DataArray:
    """The labeled result of data."""
    reader = Reader(tensors)

    def values(held: Any) -> Any:
        read = reader.value(held)
        return read.numpy() if isinstance(read, Tensor) else read

    coords = {key: (dims, values(held)) for key, (dims, held) in record["coords"].items()}
    attrs = {key: reader.value(value) for key, value in record["attrs"].items()}
    return xr.DataArray(values(record["values"]), coords, record["dims"], record["name"], attrs)


def site_of(name: str, known: Mapping[str, Any]) -> Site:
    """A site by its name in a message, also one that only the server's model has."""
    base, _, layer = name.rpartition(".")
    if base in known and layer.isdecimal():
        return Site(base, int(layer))
    return Site(name) if name in known or name.endswith((".input", ".output")) else as_site(name)
