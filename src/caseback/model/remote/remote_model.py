"""A model that ``caseback serve`` has loaded elsewhere, asked from here as if it were here.

    prompts, edits, sites, a metric   --data-->   server: Model.run, Model.sweep   --tensors, labels-->   results

The server runs the very functions that a local model runs, on the same batch, so the numbers are the same to the bit
where the machines compute alike. Code never travels: ``Apply`` and ``cb.function`` are refused on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
import xarray as xr
from torch import Tensor

from caseback.errors import CasebackError, EditError, OutOfRange
from caseback.model.anatomy.sites import as_site
from caseback.model.arguments import checked
from caseback.model.remote.line import Line
from caseback.model.remote.messages import labelled_of, site_of
from caseback.model.remote.records import Writer
from caseback.model.remote.remote_run import RemoteAnatomy, RemoteRun
from caseback.model.running.edits import Edit, listed
from caseback.model.running.metrics import Metric
from caseback.model.running.run import each_site
from caseback.model.running.tokens import PromptsLike, Tokens


@checked
def connect(url: str, *, token: str | None = None, timeout: float = 600.0) -> RemoteModel:
    """A model that a server has: ``caseback serve`` prints the address.

    Parameters
    ----------
    url
        The address, with or without its token.
    token
        What the server asks for, where it is not in the address.
    timeout
        Seconds without a word after which the server is taken to be gone.

    Returns
    -------
    RemoteModel
        With the facts of the model; nothing has been run yet.

    Raises
    ------
    CasebackError
        For what is no address, a server that does not answer or asks for a token, or another program.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.server.serving import served
    >>> with served(cb.load("meadow")) as address:
    ...     remote = connect(address)
    ...     heads = [cb.Zero("z", layer=1, head=h) for h in range(remote.n_heads)]
    ...     effects = remote.sweep("Mary and John went to", heads, cb.logit(" the"))
    >>> effects.dims, effects.sizes["variant"] == remote.n_heads
    (('variant', 'batch'), True)
    """
    if not 0.01 <= timeout <= 86_400:
        raise OutOfRange(f"timeout={timeout}: expected seconds, from a hundredth to a day")
    line = Line(url, token, timeout)
    return RemoteModel(line, line.facts())


class RemoteModel:
    """A model at a server. Make one with ``cb.connect``.

    It has ``tokens``, ``token_id``, ``text``, ``run``, ``logits``, ``measure``, ``sweep``, ``generate`` and ``edited``,
    and the facts below. Whatever else a ``Model`` has runs on a local model alone, and says so.

    Attributes
    ----------
    name, n_layers, n_heads, n_kv_heads, d_model, d_head, d_vocab, context
        As those of a ``Model``.
    dtype
        Of its numbers.
    """

    argument_hint = ": techniques run on a local model alone, cb.load(...); a remote one has run, measure and sweep"

    def __init__(self, line: Line, facts: Mapping[str, Any], standing: Sequence[Edit] = ()) -> None:
        self._line, self._facts, self._standing = line, facts, tuple(standing)
        about = facts["remote"]
        self.name, self.context = str(facts["model"]["name"]), about["context"]
        self.n_layers, self.n_heads, self.n_kv_heads = (
            int(about[key]) for key in ("n_layers", "n_heads", "n_kv_heads")
        )
        self.d_model, self.d_head, self.d_vocab = (int(about[key]) for key in ("d_model", "d_head", "d_vocab"))
        self.dtype: torch.dtype = getattr(torch, str(facts["model"]["dtype"]))

    def __repr__(self) -> str:
        under = f", under {len(self._standing)} edits" if self._standing else ""
        return (
            f"<caseback RemoteModel {self.name!r} at {self._line.at}: {self.n_layers} layers, {self.n_heads} heads, "
            f"d_model {self.d_model}, vocabulary {self.d_vocab}, {str(self.dtype).removeprefix('torch.')}{under}>"
        )

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise OnlyLocal(
            f"{name!r} is not there on a remote model, which has tokens, token_id, text, run, logits, measure, sweep, "
            "generate and edited: gradients, weights and techniques run on a local model alone, cb.load(...)"
        )

    @checked
    def tokens(self, prompts: PromptsLike, *, padding: str = "right", bos: bool | None = None) -> Tokens:
        """Tokenize prompts, as ``Model.tokens`` does."""
        data, tensors = self._ask("tokens", Writer(), prompts=_plainly(prompts), padding=padding, bos=bos)
        return _tokens(data, tensors)

    @checked
    def token_id(self, text: str | int) -> int:
        """The id of a text that is exactly one token."""
        return int(self._ask("token_id", Writer(), token=text)[0]["id"])

    @checked
    def text(self, tokens: Tokens) -> list[str]:
        """Prompts as text, special tokens left out."""
        return self._of(tokens, "text", Writer())[0]["text"]

    @checked
    def edited(self, edits: Edit | Sequence[Edit]) -> RemoteModel:
        """The same model under edits that every call of it starts with, as ``Model.edited``."""
        waiting = next((edit for edit in listed(edits) if isinstance(edit, Edit) and edit.awaits_clean), None)
        if waiting is not None:
            raise EditError(f"{waiting.describe()} refers to the unedited run of prompts that are not known yet")
        for number, edit in enumerate(listed(edits)):
            Writer().edit(edit, f"{number}")
        return RemoteModel(self._line, self._facts, (*self._standing, *listed(edits)))

    @checked
    def run(
        self,
        tokens: PromptsLike,
        *,
        read: str | Sequence[Any] = (),
        edits: Edit | Sequence[Edit] = (),
        logits: bool = True,
    ) -> RemoteRun:
        """Run the model once, reading and editing sites, as ``Model.run``.

        Parameters
        ----------
        tokens
            Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
        read
            Sites to read.
        edits
            Interventions; not ``Apply``.
        logits
            Whether the run holds the logits of all positions; ``RemoteModel.logits`` gives those of one.

        Returns
        -------
        A ``Run`` with what was read, on the CPU.
        """
        writer = Writer()
        wanted = [_site(one) for one in each_site(read)]
        data, tensors = self._of(
            tokens, "run", writer, read=wanted, edits=_edits(edits, writer, "edits"), logits=logits
        )
        places = self._facts["remote"]["sites"]
        acts = {site_of(name, places): tensors[held["tensor"]] for name, held in data["sites"].items()}
        aliases = {
            one: [site_of(name, places) for name in names]
            for one, names in zip(wanted, data["read"], strict=True)
            if isinstance(one, str)
        }
        anatomy = RemoteAnatomy(self._facts, aliases)
        return RemoteRun(anatomy, _tokens(data, tensors), acts, tensors.get("logits"), bool(data["edited"]))

    @checked
    def logits(self, tokens: PromptsLike, *, pos: int = -1, edits: Edit | Sequence[Edit] = ()) -> xr.DataArray:
        """Logits of one position of each prompt.

        Parameters
        ----------
        tokens
            Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
        pos
            The position; the last by default.
        edits
            Interventions; not ``Apply``.

        Returns
        -------
        DataArray (batch, vocab).
        """
        writer = Writer()
        return self._labelled(*self._of(tokens, "logits", writer, pos=pos, edits=_edits(edits, writer, "edits")))

    @checked
    def measure(self, tokens: PromptsLike, metric: Metric, *, edits: Edit | Sequence[Edit] = ()) -> xr.DataArray:
        """A metric of one run.

        Parameters
        ----------
        tokens
            Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
        metric
            What is measured, per prompt; not ``cb.function``.
        edits
            Interventions; not ``Apply``.

        Returns
        -------
        DataArray (batch,).
        """
        writer = Writer()
        asked = {"metric": writer.metric(metric), "edits": _edits(edits, writer, "edits")}
        return self._labelled(*self._of(tokens, "measure", writer, **asked))

    @checked
    def sweep(
        self,
        tokens: PromptsLike,
        variants: Sequence[Edit | Sequence[Edit]],
        metric: Metric,
        *,
        labels: Sequence[str] | None = None,
        progress: bool = False,
    ) -> xr.DataArray:
        """Run many variants of edits and measure each, as ``Model.sweep``.

        Parameters
        ----------
        tokens
            Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
        variants
            Each a list of edits, or one edit; not ``Apply``.
        metric
            What is measured, per prompt; not ``cb.function``.
        labels
            Names of the variants; by default their edits in words.
        progress
            Show a progress bar.

        Returns
        -------
        DataArray (variant, batch) of the metric, with the unedited run's in the coordinate ``clean``.
        """
        writer = Writer()
        asked = {
            "variants": [_edits(variant, writer, f"variant{i}") for i, variant in enumerate(variants)],
            "metric": writer.metric(metric),
            "labels": None if labels is None else list(labels),
        }
        return self._labelled(*self._of(tokens, "sweep", writer, progress=progress, **asked))

    @checked
    def generate(
        self,
        tokens: PromptsLike,
        *,
        edits: Edit | Sequence[Edit] = (),
        max_new_tokens: int = 20,
        seed: int | None = None,
        do_sample: bool = False,
        temperature: float = 1.0,
    ) -> Tokens:
        """Continue prompts, as ``Model.generate``.

        Parameters
        ----------
        tokens
            Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
        edits
            Interventions; not ``Apply``.
        max_new_tokens
            The most tokens that are added.
        seed
            Same seed, same result: it draws the samples of ``do_sample=True``.
        do_sample, temperature
            Whether tokens are drawn, and how flat the distribution is made.

        Returns
        -------
        ``Tokens`` of prompts with continuations.
        """
        writer = Writer()
        options = {"max_new_tokens": max_new_tokens, "seed": seed, "do_sample": do_sample}
        options |= {"temperature": temperature} if do_sample else {}
        return _tokens(*self._of(tokens, "generate", writer, edits=_edits(edits, writer, "edits"), options=options))

    def _of(
        self, prompts: Any, name: str, writer: Writer, *, progress: bool = False, **asked: Any
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Ask about prompts."""
        asked["standing"] = _edits(self._standing, writer, "standing")
        asked["tokens"] = _prompts(prompts, writer)
        return self._ask(name, writer, progress=progress, **asked)

    def _ask(
        self, name: str, writer: Writer, *, progress: bool = False, **asked: Any
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        asked["runs"] = writer.written_runs()
        return self._line.call(name, asked, writer.tensors, progress=progress)

    @staticmethod
    def _labelled(data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> xr.DataArray:
        return labelled_of(data["result"], tensors)


class OnlyLocal(CasebackError, AttributeError):
    """What a remote model does not have."""


def _edits(edits: Edit | Sequence[Edit], writer: Writer, name: str) -> list[dict[str, Any]]:
    return [writer.edit(edit, f"{name}.{i}") for i, edit in enumerate(listed(edits))]


def _site(given: Any) -> Any:
    """A site as it is sent: its name, or the name and the layer."""
    if isinstance(given, str):
        return given
    site = as_site(given)
    return [site.name, site.layer]


def _prompts(prompts: Any, writer: Writer) -> dict[str, Any]:
    if isinstance(prompts, Tokens):
        return {"ids": writer.value(prompts.ids, "ids"), "mask": writer.value(prompts.mask, "mask")}
    return {"prompts": _plainly(prompts)}


def _plainly(prompts: Any) -> Any:
    """Prompts as JSON: texts, ids, conversations, or what a tokenizer gave."""
    if isinstance(prompts, Tokens):
        return [ids[mask].tolist() for ids, mask in zip(prompts.ids, prompts.mask, strict=True)]
    if isinstance(prompts, Mapping):
        return {str(key): _plainly(value) for key, value in prompts.items()}
    if hasattr(prompts, "tolist"):
        return prompts.tolist()
    if isinstance(prompts, list | tuple | range):
        return [_plainly(one) for one in prompts]
    if isinstance(prompts, str | int):
        return prompts
    raise CasebackError(f"prompts are a {type(prompts).__name__}: expected text, a list of texts, or token ids")


def _tokens(data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Tokens:
    return Tokens(tensors["ids"], tensors["mask"], data["text"])
