"""Activations that vLLM extracted, as a source: for models that are too large to run here at every token.

vLLM's ``extract_hidden_states`` writes a file for each request, through ``ExampleHiddenStatesConnector``:

    REQUEST.safetensors      hidden_states (token, layer, d_model), token_ids (token)

The file does not say which layers; they are the ``eagle_aux_hidden_state_layer_ids`` of the engine's configuration.
Id k is the stream that enters layer k, so ``resid_post.{k - 1}``; id 0 is ``resid_pre.0``, and the number of layers is
the stream before the final norm (docs.vllm.ai, "Hidden State Extraction"). vLLM rounds in its own way and has no
gradients, patterns or heads: what it wrote is compared with the model itself on some rows before any of it is taken.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from caseback.errors import LoadError, OutOfRange
from caseback.jobs.budget import limit
from caseback.jobs.fingerprint import fingerprint
from caseback.jobs.job import Job
from caseback.jobs.launch import launch
from caseback.jobs.safe_files import read_tensors
from caseback.jobs.working import advance, threads_of
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.model.running.run import execute
from caseback.stream.collect import begin
from caseback.stream.collection import Collection
from caseback.stream.job_model import digest_of
from caseback.stream.packing import Row, blocks_of
from caseback.stream.rows_on_disk import read_block
from caseback.stream.store import StoredSite

KIND = "vllm"


@checked
def from_vllm(files: str | Path, layers: Sequence[int], layer: int) -> Iterator[Tensor]:
    """One layer's stream out of vLLM's files, request by request, for ``mixed``.

    Parameters
    ----------
    files
        The folder that vLLM wrote into (``shared_storage_path``).
    layers
        The layer ids that vLLM was to extract, as its configuration has them.
    layer
        Which of them.

    Yields
    ------
    torch.Tensor
        (token, d_model), in vLLM's dtype.

    Raises
    ------
    LoadError
        For a folder without such files, a damaged one, or one of another number of layers.
    OutOfRange
        For a layer that was not extracted.
    """
    column = _column(layers, layer)
    for path in _paths(files):
        yield _read(path, layers)[0][:, column]


@checked
def collect_vllm(
    files: str | Path,
    model: Model,
    layers: Sequence[int],
    *,
    folder: str | Path,
    compare: int = 4,
    shard_tokens: int | None = None,
    progress: bool = False,
) -> Collection:
    """Take what vLLM extracted as stored activations: a job in a folder that goes on after an interruption.

    Parameters
    ----------
    files
        The folder that vLLM wrote into (``shared_storage_path``), finished.
    model
        The model that vLLM ran: the activations are held to be its own.
    layers
        The layer ids that vLLM was to extract, as its configuration has them.
    folder
        Where the store is to be.
    compare
        So many requests, evenly over the files, are run by the model itself: each layer of vLLM's must be nearer to
        the site that its id names than to any other layer's. 0 takes the files as they are.
    shard_tokens
        Tokens per shard; by default the limit ``shard_tokens``.
    progress
        Show a progress bar.

    Returns
    -------
    Collection
        ``collection.store(site)`` has a layer by its site: ``"resid_post.{id - 1}"``, and ``"resid_pre.0"`` for id 0.

    Raises
    ------
    LoadError
        For a folder without such files, damaged ones, ones of another number of layers, or of another model or layers
        than is said.
    OutOfRange
        For a layer that the model does not have.
    """
    if compare < 0:
        raise OutOfRange(f"compare {compare}: expected a number of requests, or 0 for none")
    paths = _paths(files)
    sites = [_site(model, layer) for layer in layers]
    if len(set(sites)) < len(sites):
        raise OutOfRange(f"layers {list(layers)}: expected each layer that vLLM extracted, once")
    if compare:
        _expect_of_model(model, paths, layers, sites, compare)
    rows = (Row(_read(path, layers)[1].tolist(), number, 0, 0) for number, path in enumerate(paths))
    blocks = blocks_of(rows, limit("shard_tokens", given=shard_tokens))
    listed = fingerprint([[path.name, os.path.getsize(path)] for path in paths])
    options = {"tables": [], "activations": [str(site) for site in sites], "layers": list(layers)}
    depends_on = {"model": digest_of(model), "files": listed}
    job = begin(folder, blocks, options, depends_on, threads_of(folder), kind=KIND, progress=progress)
    launch(job, _Taking(paths, list(layers), sites), progress=progress)
    return Collection(model, {}, {}, job.whole_size, job.folder)


class _Taking:
    """The work of a shard: the requests of a block out of vLLM's files."""

    def __init__(self, paths: list[Path], layers: list[int], sites: list[Site]):
        self.paths, self.layers, self.sites = paths, layers, sites

    def to(self, device: torch.device) -> _Taking:
        """The same: nothing is computed."""
        return self

    def __call__(self, job: Job, shard: int) -> dict[str, Tensor]:
        block = read_block(job.folder, shard, job.plan.shards[shard])
        stores = [StoredSite(block.n_tokens) for _ in self.sites]
        for document, first in zip(block.document.tolist(), block.row_starts.tolist(), strict=True):
            states, ids = _read(self.paths[document], self.layers)
            places = torch.arange(first, first + len(ids))
            if not torch.equal(ids, block.ids[places].long()):
                raise LoadError(f"{str(self.paths[document])!r} changed after the job began: choose a new folder")
            for column, store in enumerate(stores):
                store.put(places, states[:, column])
            advance(len(ids))
        for site, store in zip(self.sites, stores, strict=True):
            store.write(job, shard, site, block)
        return {}


def _paths(files: str | Path) -> list[Path]:
    if not os.path.isdir(files):
        raise LoadError(f"{str(files)!r} is no folder: expected the shared_storage_path that vLLM wrote into")
    entries = sorted(Path(files).iterdir())
    packed = [path for path in entries if path.name.endswith(".safetensors.zst")]
    if packed:
        raise LoadError(f"{str(packed[0])!r} is compressed: unpack the files first (unzstd --rm *.zst)")
    paths = [path for path in entries if path.suffix == ".safetensors"]
    if not paths:
        raise LoadError(f"{str(files)!r} holds no file of vLLM's: expected a .safetensors file for each request")
    return paths


def _read(path: Path, layers: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Of one request the states (token, layer, d_model) and the token ids."""
    tensors, _ = read_tensors(path, ["hidden_states", "token_ids"])
    states, ids = tensors["hidden_states"], tensors["token_ids"]
    if states.ndim != 3 or ids.ndim != 1 or len(states) != len(ids) or not len(ids):
        raise LoadError(
            f"{str(path)!r} holds hidden_states {tuple(states.shape)} and token_ids {tuple(ids.shape)}: expected "
            "(token, layer, d_model) and (token), as many tokens in both"
        )
    if not states.isfinite().all():
        raise LoadError(f"{str(path)!r} holds numbers that are not finite: let vLLM extract it again")
    if states.shape[1] != len(layers):
        raise LoadError(f"{str(path)!r} holds {states.shape[1]} layers: {len(layers)} are named ({list(layers)})")
    return states, ids.long()


def _column(layers: Sequence[int], layer: int) -> int:
    if layer not in layers:
        raise OutOfRange(f"layer {layer} was not extracted: there are {list(layers)}")
    return list(layers).index(layer)


def _site(model: Model, layer: int) -> Site:
    if not 0 <= layer <= model.n_layers:
        raise OutOfRange(f"layer {layer}: vLLM counts from 0 to {model.n_layers} in a model of {model.n_layers} layers")
    return Site("resid_post", layer - 1) if layer else Site("resid_pre", 0)


def _expect_of_model(model: Model, paths: list[Path], layers: Sequence[int], sites: list[Site], compare: int) -> None:
    """Run some requests by the model: each layer of vLLM's must be nearest to its own site."""
    every = [Site("resid_pre", 0), *(Site("resid_post", layer) for layer in range(model.n_layers))]
    distances = torch.zeros(len(layers), len(every), dtype=torch.float64)
    for number in torch.linspace(0, len(paths) - 1, min(compare, len(paths))).long().tolist():
        states, ids = _read(paths[number], layers)
        if int(ids.max()) >= model.d_vocab or states.shape[2] != model.d_model:
            raise LoadError(
                f"{str(paths[number])!r} is of another model: token ids to {int(ids.max())} and a width of "
                f"{states.shape[2]}, where {model.name} has {model.d_vocab} entries and {model.d_model}"
            )
        some = slice(limit("stream_tokens", model.device))  # no later token changes the first ones
        run = execute(model.anatomy, model.tokens([ids[some].tolist()], bos=False), read=every, logits=False)
        own = torch.stack([at_least_float32(run[site][0]).cpu() for site in every])
        for column, distance in enumerate(distances):
            theirs = at_least_float32(states[some, column])
            distance += ((theirs - own).norm(dim=-1) / own.norm(dim=-1)).double().mean(-1)
    for distance, layer, site in zip(distances, layers, sites, strict=True):
        closest = every[int(distance.argmin())]
        if closest != site:
            raise LoadError(
                f"vLLM's layer {layer} is nearer to {closest} than to {site} of {model.name}: name the layers in the "
                "order of vLLM's eagle_aux_hidden_state_layer_ids, and the model that it ran"
            )
