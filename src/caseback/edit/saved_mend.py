"""MEND's networks in files: an artifact with the parameters, and the model's digest."""

from __future__ import annotations

import json
from pathlib import Path

from caseback.artifacts.artifact import Artifact, load, save
from caseback.artifacts.kinds import MEND_NETWORK
from caseback.edit.mend import MEND, STEPS
from caseback.errors import LoadError
from caseback.jobs.json_text import parse_json
from caseback.model.anatomy.identity import model_digest
from caseback.model.arguments import checked
from caseback.model.running.model import Model


@checked
def save_mend(editor: MEND, path: str | Path) -> None:
    """Write a trained network to one safetensors file, whole or not at all.

    Parameters
    ----------
    editor
        What ``fit_mend`` gave.
    path
        Where.

    Examples
    --------
    >>> import tempfile
    >>> import caseback as cb
    >>> from caseback.edit import fit_mend, relation_facts
    >>> model = cb.load("meadow")
    >>> editor = fit_mend(model, relation_facts("capital", count=2), [1], epochs=1, rank=4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_mend(editor, f"{folder}/a")
    ...     load_mend(f"{folder}/a", model)
    MEND(1 matrices of layers 1)
    """
    places = [list(editor.sites), list(editor.networks), list(editor.layers)]
    facts = {"places": json.dumps(places), "model": editor.model}
    tensors = {name: x.detach().cpu().contiguous() for name, x in editor.parameters.items()}
    checks = {"losses": list(editor.losses), "held_out": list(editor.held_out)}
    save(Artifact(tensors, facts, {}, checks), MEND_NETWORK, path)


@checked
def load_mend(path: str | Path, model: Model) -> MEND:
    """Read what ``save_mend`` wrote.

    Parameters
    ----------
    path
        The file.
    model
        The model that is to be edited; a network of another one is refused.

    Raises
    ------
    LoadError
        For a file that holds none, a damaged one, or one of another model.
    """

    def build(artifact: Artifact) -> MEND:
        sites, networks, layers = parse_json(artifact.facts["places"])
        layout = {"rates": "site"}
        sizes = {"site": len(sites)}
        for n in sorted(set(networks)):
            layout |= {f"{n}.mean": f"width{n}", f"{n}.deviation": f"width{n}"}
            for j in range(STEPS):
                layout |= {f"{n}.{j}.write": f"width{n} rank{n}", f"{n}.{j}.read": f"rank{n} width{n}"}
                layout |= {f"{n}.{j}.bias": f"width{n}"}
                layout |= {f"{n}.{j}.{name}": f"member{n} width{n}" for name in ("scale", "shift")}
            sizes[f"member{n}"] = networks.count(n)
        artifact.expect(layout, **sizes)
        tensors = {name: x.to(model.device) for name, x in artifact.tensors.items()}
        losses, held_out = artifact.checks["losses"], artifact.checks["held_out"]
        return MEND(sites, networks, tensors, layers, artifact.facts["model"], losses, held_out)

    def expect(editor: MEND) -> None:
        if editor.model != model_digest(model.hf):
            raise LoadError(f"{path} holds a network for edits of another model: train one with fit_mend")

    return load(path, MEND_NETWORK, build, expect)
