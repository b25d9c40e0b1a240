"""What an MLP's output matrix usually reads: C = E[k k^T] over a corpus, uncentered, at the layers that are edited.

An edit that is exact at one key and changes the least for all others, minimal E |dW k|^2, follows from C. It is
computed once for a model and a corpus, and kept with the digests of both.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.artifacts.artifact import Artifact, load, save
from caseback.artifacts.kinds import KEY_MOMENTS
from caseback.edit.closed_forms import null_space, spectrum
from caseback.edit.places import write_site
from caseback.errors import CasebackError, EditError, LoadError
from caseback.jobs.fingerprint import fingerprint
from caseback.jobs.json_text import parse_json
from caseback.model.anatomy.coerce import in_float64
from caseback.model.anatomy.identity import model_digest
from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.stream.collect import collect
from caseback.stream.documents import Corpus
from caseback.stream.tables.second_moments import SecondMoments


@checked
@dataclass(frozen=True, eq=False)
class KeyMoments:
    """Second moments of the keys of some layers.

    Attributes
    ----------
    layers
        Of the first dimension.
    moment
        (layer, neuron, neuron) E[k k^T], float64.
    n_tokens
        Of the corpus.
    model
        A digest of the model's weights and settings.
    corpus
        A digest of the moments' corpus, by what the model read of it.
    """

    layers: Sequence[int]
    moment: Float[Tensor, "layer neuron neuron"] = field(repr=False)
    n_tokens: int
    model: str = field(repr=False)
    corpus: str = field(repr=False)
    _factors: dict[tuple[int, float], Tensor] = field(default_factory=dict, init=False, repr=False)
    _spectra: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    @checked
    def at(self, layer: int) -> Float[Tensor, "neuron neuron"]:
        """C of a layer.

        Raises
        ------
        EditError
            For a layer whose keys were not collected.
        """
        if layer not in self.layers:
            raise EditError(
                f"these moments are of the layers {', '.join(map(str, self.layers))}, and layer {layer} is edited: "
                f"collect them with key_moments(model, corpus, layers=[{layer}])"
            )
        return self.moment[list(self.layers).index(layer)]

    def solved(self, layer: int, keys: Float[Tensor, "fact neuron"], ridge: float) -> Float[Tensor, "fact neuron"]:
        """C^-1 k of each key in float64, C of a layer with ``ridge`` times its mean diagonal on its diagonal.

        C is factored once for all edits.

        Raises
        ------
        CasebackError
            As ``factored``.
        """
        keys = in_float64(keys)
        if (layer, ridge) not in self._factors:
            self._factors[layer, ridge] = factored(self.at(layer).to(keys.device), ridge)
        return torch.cholesky_solve(keys.T, self._factors[layer, ridge].to(keys.device)).T

    def free(self, layer: int, share: float) -> Float[Tensor, "neuron free"]:
        """The directions that keys of a layer hardly use, as ``null_space``; C's spectrum is found once for all edits.

        Raises
        ------
        EditError
            Where no direction is free.
        """
        if layer not in self._spectra:
            self._spectra[layer] = spectrum(self.at(layer))
        return null_space(self._spectra[layer], share)


@checked
def key_moments(
    model: Model, corpus: Corpus, layers: Sequence[int], *, length: int | None = None, progress: bool = False
) -> KeyMoments:
    """Collect E[k k^T] over a corpus, in one pass of the model.

    Parameters
    ----------
    model
        The model, not under edits.
    corpus
        As for ``caseback.stream.collect``.
    layers
        Which.
    length
        Tokens per row at most, as for ``caseback.stream.collect``.
    progress
        Show a progress bar.

    Returns
    -------
    KeyMoments

    Raises
    ------
    EditError
        For a layer without one MLP output matrix, or a model under edits.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> moments = key_moments(model, ["Mary went to the store.", "the cat"], [1])
    >>> moments.n_tokens, tuple(moments.moment.shape)
    (10, (1, 640, 640))
    """
    if model.anatomy.standing:
        raise EditError("this model stands under edits: moments are of the model itself, and hold for its edited forms")
    at = sorted({layer % model.n_layers for layer in layers if write_site(model, layer)})
    if not at:
        raise EditError("layers names none: expected one at least")
    table = SecondMoments("mlp_post", tuple(at))
    collection = collect(model, corpus, [table], length=length, progress=progress)
    state = collection.state("second_moments")
    n = int(state["n"])
    digest = fingerprint({"n": n, "sums": state["sums"]}, "corpus")
    return KeyMoments(at, state["products"] / n, n, model_digest(model.hf), digest)


@checked
def save_key_moments(moments: KeyMoments, path: str | Path) -> None:
    """Write second moments to one safetensors file, whole or not at all.

    Parameters
    ----------
    moments
        What ``key_moments`` gave.
    path
        Where.
    """
    facts = {"layers": json.dumps(list(moments.layers)), "n_tokens": str(moments.n_tokens)}
    facts |= {"model": moments.model, "corpus": moments.corpus}
    save(Artifact({"moment": moments.moment.contiguous()}, facts), KEY_MOMENTS, path)


@checked
def load_key_moments(path: str | Path, model: Model) -> KeyMoments:
    """Read what ``save_key_moments`` wrote.

    Parameters
    ----------
    path
        The file.
    model
        The model that is to be edited; moments of another one are refused.

    Raises
    ------
    LoadError
        For a file that holds none, a damaged one, or one of another model.
    """

    def build(artifact: Artifact) -> KeyMoments:
        layers = [int(layer) for layer in parse_json(artifact.facts["layers"])]
        artifact.expect({"moment": "layer neuron other"}, layer=len(layers))
        facts = artifact.facts
        return KeyMoments(layers, artifact.tensors["moment"], int(facts["n_tokens"]), facts["model"], facts["corpus"])

    def expect(moments: KeyMoments) -> None:
        if moments.model != model_digest(model.hf):
            raise LoadError(f"{path} holds moments of another model's keys: collect them with key_moments")

    return load(path, KEY_MOMENTS, build, expect)


def factored(moment: Float[Tensor, "neuron neuron"], ridge: float) -> Float[Tensor, "neuron neuron"]:
    """The Cholesky factor of C with ``ridge`` times its mean diagonal on its diagonal, in float64.

    Raises
    ------
    CasebackError
        For a C without an inverse.
    """
    if not 0 <= ridge < float("inf"):
        raise EditError(f"ridge is {ridge}: expected 0 or more, a share of C's mean diagonal")
    c = in_float64(moment)
    c = c + ridge * c.diagonal().mean() * torch.eye(len(c), dtype=c.dtype, device=c.device)
    factor, failed = torch.linalg.cholesky_ex(c)
    if int(failed) or not bool(factor.isfinite().all()):
        raise CasebackError(
            "the keys' second moment has no inverse: fewer tokens than neurons, or neurons that never fire. Collect it "
            "over more text, or give ridge=1e-4"
        )
    return factor
