"""What a remote model asks for: runs, metrics, sweeps and continuations, on prompts and edits that come as data.

Each call is a function from the model and a message to an answer, which runs what a local model runs. Before anything
runs, the rows times tokens, the edits and the numbers of the answer are counted and held to the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from caseback.errors import CasebackError, EditError, LoadError, TokensError
from caseback.jobs.budget import limit
from caseback.jobs.fingerprint import raw_digest
from caseback.jobs.json_text import expect_form
from caseback.model.anatomy.sites import MAPS, SITES, Site
from caseback.model.remote.messages import labelled_record, pack, reader_of, tokens_of, unpack
from caseback.model.remote.records import Reader, Writer
from caseback.model.results import labelled
from caseback.model.running.edits import Edit
from caseback.model.running.model import Model
from caseback.model.running.run import execute, sites_read
from caseback.model.running.tokens import Tokens

SAMPLING = frozenset({"max_new_tokens", "seed", "do_sample", "temperature"})


@dataclass(frozen=True)
class Message:
    """A call as it came."""

    body: bytes

    def key(self) -> str:
        """What tells it from others."""
        return raw_digest(self.body)

    def size(self) -> int:
        """Bytes in memory while it waits."""
        return len(self.body)


@dataclass(frozen=True)
class Call:
    """One thing that a remote model asks for.

    Attributes
    ----------
    answer
        From the model, the message's data, its tensors and what reads edits, to the answer's data and tensors.
    line
        Where it waits: sweeps with the jobs.
    """

    answer: Callable[[Model, Asked], tuple[dict[str, Any], dict[str, Tensor]]]
    line: str = "calls"
    quick = False

    def written(self, model: Model, message: Any, _: Any) -> bytes:
        """The answer as bytes."""
        data, tensors = unpack(message.body)
        with _form():
            asked = Asked(model, data, reader_of(model, data, tensors))
            answer = pack(*self.answer(asked.model, asked))
        if len(answer) > (most := limit("server_run_bytes")):
            raise CasebackError(f"an answer of {len(answer):,} bytes: this server gives {most:,}, ask for less at once")
        return answer


class _form:  # noqa: N801
    """Says of data that are not of the form that a remote model sends that this is so."""

    def __enter__(self) -> None:
        self.within = expect_form("the call is not of the form that a remote model sends")
        self.within.__enter__()

    def __exit__(self, *error: Any) -> bool | None:
        try:
            return self.within.__exit__(*error)
        except LoadError as refused:
            raise CasebackError(str(refused)) from None


class Asked:
    """A message's data, read as they are used.

    Parameters
    ----------
    model
        The model, to which the edits are added that every call of this client starts with.
    data
        The JSON object.
    reader
        What reads edits and metrics.
    """

    def __init__(self, model: Model, data: Mapping[str, Any], reader: Reader) -> None:
        self.data, self.reader = data, reader
        standing = self.edits(data.get("standing", []))
        self.model = model.edited(standing) if standing else model

    def edits(self, records: Any) -> list[Edit]:
        """Edits from their records."""
        expect_few(records, limit("server_run_edits"))
        return [self.reader.sent_edit(record) for record in records]

    def tokens(self) -> Tokens:
        """The prompts, held to the budget."""
        given = self.data["tokens"]
        if "ids" in given:
            ids, mask = (self.reader.value(given[name]) for name in ("ids", "mask"))
            expect_room(tuple(ids.shape))
            return tokens_of(self.model, ids, mask)
        return self.tokenized(given["prompts"])

    def tokenized(self, prompts: Any, **options: Any) -> Tokens:
        """Prompts that came as text or ids."""
        if isinstance(prompts, list) and len(prompts) > (most := limit("server_run_tokens")):
            raise TokensError(f"{len(prompts)} prompts: this server takes {most} tokens at once")
        tokens = self.model.tokens(prompts, **options)
        expect_room(tokens.shape)
        return tokens


def expect_room(shape: Sequence[int]) -> None:
    """Refuse more rows times tokens than one call may have.

    Raises
    ------
    TokensError
    """
    most = limit("server_run_tokens")
    if len(shape) == 2 and shape[0] * shape[1] > most:
        raise TokensError(
            f"{shape[0]} prompts of {shape[1]} tokens, padding included: this server takes {most} tokens at once, so "
            "send them in parts"
        )


def expect_few(edits: Any, most: int) -> None:
    """Refuse more edits than may be given.

    Raises
    ------
    EditError
    """
    if not isinstance(edits, list):
        raise EditError("the edits are no list")
    if len(edits) > most:
        raise EditError(f"{len(edits)} edits: this server takes {most} at once")


def _expect_answer(model: Model, tokens: Tokens, sites: Iterable[Site], logits: bool) -> None:
    """Refuse to read more than an answer may have, before anything is run."""
    rows, columns = tokens.shape
    size = torch.finfo(model.dtype).bits // 8
    entries = rows * columns * model.anatomy.d_logits if logits else 0
    for site in sites:
        entries += rows * columns * (columns if site.name in MAPS else 1) * _width(model.anatomy, site)
    if entries * size > (most := limit("server_run_bytes")):
        raise CasebackError(
            f"what is to be read of {rows} prompts of {columns} tokens has {entries * size:,} bytes: this server gives "
            f"{most:,}, so read fewer sites or layers, or ask for logits of one position (remote.logits)"
        )


_WIDTHS: WeakKeyDictionary[Any, dict[Site, int]] = WeakKeyDictionary()


def _width(anatomy: Any, site: Site) -> int:
    """How many numbers a site holds for one token of one prompt: asked of the model itself, once."""
    known = _WIDTHS.setdefault(anatomy.hf, {})
    if site not in known:
        ids, mask = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool)
        one = Tokens(ids, mask, [["0"]]).to(anatomy.device)
        known[site] = execute(anatomy, one, read=[site], logits=site.name == "logits")[site.key].numel()
    return known[site]


def _tokens_answer(tokens: Tokens, **more: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return {"text": tokens.text, **more}, {"ids": tokens.ids, "mask": tokens.mask}


def _result(array: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    tensors: dict[str, Tensor] = {}
    return {"result": labelled_record(array, tensors, "result")}, tensors


def _tokens(model: Model, asked: Asked) -> tuple[dict[str, Any], dict[str, Tensor]]:
    data = asked.data
    return _tokens_answer(asked.tokenized(data["prompts"], padding=data["padding"], bos=data["bos"]))


def _token_id(model: Model, asked: Asked) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return {"id": model.token_id(asked.data["token"])}, {}


def _text(model: Model, asked: Asked) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return {"text": model.text(asked.tokens())}, {}


def _run(model: Model, asked: Asked) -> tuple[dict[str, Any], dict[str, Tensor]]:
    given = [one if isinstance(one, str) else tuple(one) for one in asked.data["read"]]
    read = [sites_read(model.anatomy, [one]) for one in given]
    logits, tokens = bool(asked.data["logits"]), asked.tokens()
    wanted = list(dict.fromkeys(site for sites in read for site in sites))
    _expect_answer(model, tokens, wanted, logits)
    edits = asked.edits(asked.data["edits"])
    run = execute(model.anatomy, tokens, read=given, edits=edits, logits=logits)
    writer = Writer()
    sites = {str(site): writer.value(run[site.key], f"site:{site}") for site in wanted}
    names = [[str(site) for site in each] for each in read]
    data, tensors = _tokens_answer(tokens, sites=sites, read=names, edited=run.edited)
    tensors |= writer.tensors | ({"logits": run.logits} if logits else {})
    return data, tensors


def _logits(model: Model, asked: Asked) -> tuple[dict[str, Any], dict[str, Tensor]]:
    tokens = asked.tokens()
    columns = tokens.column(asked.data["pos"])
    run = model.run(tokens, edits=asked.edits(asked.data["edits"]))
    values = run.logits[torch.arange(len(tokens), device=columns.device), columns].detach()
    return _result(labelled(values, ("batch", "vocab"), name="logits", model=model, pos=asked.data["pos"]))


def _measure(model: Model, asked: Asked) -> tuple[dict[str, Any], dict[str, Tensor]]:
    metric, tokens = asked.reader.metric(asked.data["metric"]), asked.tokens()
    run = model.run(tokens, read=metric.reads, edits=asked.edits(asked.data["edits"]))
    target, foil = (None if x is None else str(x) for x in (metric.target, metric.foil))
    values = metric(run).detach()
    return _result(labelled(values, ("batch",), name=metric.name, model=model, target=target, foil=foil))


def _sweep(model: Model, asked: Asked) -> tuple[dict[str, Any], dict[str, Tensor]]:
    variants = asked.data["variants"]
    most = limit("server_edits")
    expect_few(variants, most)
    expect_few([record for variant in variants for record in variant], most)
    read = [asked.edits(variant) for variant in variants]
    metric = asked.reader.metric(asked.data["metric"])
    return _result(model.sweep(asked.tokens(), read, metric, labels=asked.data["labels"]))


def _generate(model: Model, asked: Asked) -> tuple[dict[str, Any], dict[str, Tensor]]:
    options = asked.data["options"]
    if unknown := sorted(set(options) - SAMPLING):
        raise CasebackError(f"a remote model continues prompts without {', '.join(unknown)[:200]}")
    tokens, more = asked.tokens(), options["max_new_tokens"]
    if isinstance(more, int):
        expect_room((len(tokens), tokens.shape[1] + more))
    return _tokens_answer(model.generate(tokens, edits=asked.edits(asked.data["edits"]), **options))


CALLS: Mapping[str, Call] = MappingProxyType(
    {
        "tokens": Call(_tokens),
        "token_id": Call(_token_id),
        "text": Call(_text),
        "run": Call(_run),
        "logits": Call(_logits),
        "measure": Call(_measure),
        "sweep": Call(_sweep, line="jobs"),
        "generate": Call(_generate),
    }
)


def remote_facts(model: Model) -> dict[str, Any]:
    """What a remote model must know: sizes, and the layers of every site."""
    anatomy = model.anatomy
    layers = range(model.n_layers)
    places = {
        name: [i for i in layers if anatomy.has(Site(name, i))] if kind.layered else None
        for name, kind in SITES.items()
        if name not in anatomy.lacks
    }
    return {
        "n_layers": model.n_layers,
        "n_heads": model.n_heads,
        "n_kv_heads": model.n_kv_heads,
        "d_model": model.d_model,
        "d_head": model.d_head,
        "d_vocab": model.d_vocab,
        "d_logits": anatomy.d_logits,
        "context": model.context,
        "family": anatomy.model_type,
        "sites": {name: layers for name, layers in places.items() if layers is None or layers},
    }
