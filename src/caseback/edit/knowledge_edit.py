"""An edit of facts as data: what it adds beside weights, which facts, how exactly; in files, with its model's digest.

Nothing is written to the model. ``edit.on(model)`` is the model under it, leaving it out is its exact undo, and edits
add up: ``(first + second).on(model)``. Only ``applied`` makes a model with other weights, and that is a copy.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.artifacts.artifact import Artifact, load, save
from caseback.artifacts.kinds import KNOWLEDGE_EDIT
from caseback.edit.facts import Fact
from caseback.errors import EditError, LoadError
from caseback.jobs.json_text import parse_json
from caseback.model.anatomy.assembled import assembled
from caseback.model.anatomy.coerce import in_float64
from caseback.model.anatomy.dense import stored_matrix
from caseback.model.anatomy.identity import model_digest
from caseback.model.arguments import checked
from caseback.model.display import Displayed
from caseback.model.running.affine import Codebook, SideMemory, SideTerm
from caseback.model.running.edits import Edit
from caseback.model.running.model import Model


@checked
@dataclass(frozen=True, eq=False)
class KnowledgeEdit(Displayed):
    """Facts, and the edits that write them.

    Attributes
    ----------
    edits
        Side terms of MLP output matrices, a codebook, or a side memory.
    facts
        What is written.
    method
        By which method.
    keys
        By layer, (fact, neuron): what the layer's matrix reads at the facts' subjects.
    checks
        What was measured while the edit was made, by name.
    """

    edits: Sequence[Edit]
    facts: Sequence[Fact]
    method: str
    keys: Mapping[int, Float[Tensor, "fact neuron"]] = field(default_factory=dict, repr=False)
    checks: Mapping[str, Any] = field(default_factory=dict)

    @checked
    def on(self, model: Model) -> Model:
        """The model under this edit, on the same weights.

        Raises
        ------
        EditError, UnknownSite
            For a model that lacks the edited modules.
        """
        return model.edited(list(self.edits))

    def __add__(self, other: KnowledgeEdit) -> KnowledgeEdit:
        """Both edits as one, with one side term a matrix."""
        if not isinstance(other, KnowledgeEdit):
            return NotImplemented
        shared = self.keys.keys() & other.keys.keys()
        keys = {**self.keys, **other.keys, **{i: torch.cat([self.keys[i], other.keys[i]]) for i in shared}}
        methods = list(dict.fromkeys([*self.method.split(" + "), *other.method.split(" + ")]))
        return KnowledgeEdit(
            joined([*self.edits, *other.edits]), [*self.facts, *other.facts], " + ".join(methods), keys
        )

    @property
    def layers_read(self) -> list[int]:
        """The layers whose keys are kept."""
        return sorted(self.keys)

    def __repr__(self) -> str:
        n = len(self.facts)
        about = str(self.facts[0]) if n == 1 else f"{n} facts"
        return f"KnowledgeEdit({self.method}: {about}; {len(self.edits)} edits)"


def joined(edits: Sequence[Edit]) -> list[Edit]:
    """Side terms of one matrix as one, so that many edits cost one product; others stay as they are, in order."""
    out: list[Edit] = []
    for edit in edits:
        same = next((i for i, e in enumerate(out) if isinstance(e, SideTerm) and e.site == edit.site), None)
        if isinstance(edit, SideTerm) and same is not None and edit.pos is None and out[same].pos is None:
            first = out[same]
            assert isinstance(first, SideTerm)
            out[same] = SideTerm(
                edit.site, torch.cat([first.left, edit.left]), torch.cat([first.right, edit.right.to(first.right)])
            )
        else:
            out.append(edit)
    return out


def change_of(edit: Edit) -> Float[Tensor, "out in"]:
    """What a side term adds to its matrix, dW, in the orientation of dW k."""
    if not isinstance(edit, SideTerm):
        raise EditError(f"{edit.describe()} changes no weight: expected a side term")
    return in_float64(edit.left).T @ in_float64(edit.right)


@checked
def applied(model: Model, edit: KnowledgeEdit) -> Model:
    """A copy of a model whose weights are changed as an edit says.

    In half precision a change below the last bit of a weight is lost: the model under the edit, ``edit.on(model)``, is
    the exact one.

    Parameters
    ----------
    model
        The model; it stays as it is.
    edit
        An edit of weights.

    Raises
    ------
    EditError
        For a codebook or a side memory, which change no weight.
    AnatomyError
        For quantized or offloaded weights, and matrices under an adapter: their model under the edit is
        ``edit.on(model)``.
    """
    changes = [(one, change_of(one)) for one in edit.edits]
    hf = copy.deepcopy(model.hf)
    other = Model(hf, model.tokenizer, assembled(hf, model.tokenizer, model.anatomy.standing), model.name)
    with torch.no_grad():
        for one, change in changes:
            (site,) = other.anatomy.sites(one.site)
            weight = stored_matrix(other.anatomy.module_at(site), "an edit of weights")
            weight.add_(change.T.to(weight))
    return other


@checked
def save_knowledge_edit(edit: KnowledgeEdit, path: str | Path, *, model: Model) -> None:
    """Write an edit of facts to one safetensors file, whole or not at all.

    Parameters
    ----------
    edit
        What ``rome`` and its like gave.
    path
        Where.
    model
        The model that it was made for; its digest goes into the file.

    Examples
    --------
    >>> import tempfile, torch
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> term = cb.SideTerm("transformer.h.1.mlp.c_proj.output", torch.ones(1, 160), torch.zeros(1, 640))
    >>> edit = KnowledgeEdit([term], [Fact("The capital of {} is", "France", "Rome")], "by hand")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_knowledge_edit(edit, f"{folder}/a", model=model)
    ...     load_knowledge_edit(f"{folder}/a", model)
    KnowledgeEdit(by hand: The capital of France is -> Rome; 1 edits)
    """
    tensors: dict[str, Tensor] = {f"keys.{layer}": keys for layer, keys in edit.keys.items()}
    kinds = []
    for i, one in enumerate(edit.edits):
        if not isinstance(one, SideTerm | Codebook | SideMemory):
            raise EditError(f"{one.describe()} is no side term, codebook or side memory: save it with save_edits")
        kinds.append([type(one).__name__, one.site])
        tensors |= {f"{i}.{name}": getattr(one, name) for name in _PARTS[type(one).__name__]}
    facts = {
        "edits": json.dumps(kinds),
        "facts": json.dumps([fact.as_data() for fact in edit.facts]),
        "method": edit.method,
        "model": model_digest(model.hf),
    }
    tensors = {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}
    save(Artifact(tensors, facts, model.provenance(), dict(edit.checks)), KNOWLEDGE_EDIT, path)


_PARTS = {
    "SideTerm": ("left", "right"),
    "Codebook": ("keys", "values", "radii"),
    "SideMemory": ("change", "threshold"),
}
_ACTIONS = {"SideTerm": SideTerm, "Codebook": Codebook, "SideMemory": SideMemory}


@checked
def load_knowledge_edit(path: str | Path, model: Model) -> KnowledgeEdit:
    """Read what ``save_knowledge_edit`` wrote.

    Parameters
    ----------
    path
        The file.
    model
        The model that it is for: an edit of another model is refused.

    Raises
    ------
    LoadError
        For a file that holds no edit of facts, a damaged one, or one of another model.
    """
    digests: list[str] = []

    def build(artifact: Artifact) -> KnowledgeEdit:
        tensors = artifact.tensors
        edits = []
        for i, (kind, site) in enumerate(parse_json(artifact.facts["edits"])):
            edits.append(_ACTIONS[kind](site, *(tensors[f"{i}.{name}"] for name in _PARTS[kind])))
        facts = [Fact(**data) for data in parse_json(artifact.facts["facts"])]
        keys = {int(name[5:]): x for name, x in tensors.items() if name.startswith("keys.")}
        digests.append(artifact.facts["model"])
        return KnowledgeEdit(edits, facts, artifact.facts["method"], keys, dict(artifact.checks))

    def expect(_: KnowledgeEdit) -> None:
        if digests != [model_digest(model.hf)]:
            raise LoadError(f"{path} holds an edit of another model: it says nothing about this one, {model.name!r}")

    return load(path, KNOWLEDGE_EDIT, build, expect)
