"""Linear probes in files: an artifact with weights and intercepts, and what was measured of them.

weight (site, d, column), bias (site, column)        classes, sites: facts; method and split: provenance
"""

from __future__ import annotations

import json
from pathlib import Path

from caseback.artifacts.artifact import Artifact, load, save
from caseback.artifacts.kinds import PROBE
from caseback.decode.probes.linear_probe import Probe
from caseback.decode.saved_tables import table_of, table_parts
from caseback.errors import CasebackError
from caseback.model.arguments import checked

_LAYOUT = {"weight": "site d column", "bias": "site column"}


@checked
def save_probe(probe: Probe, path: str | Path) -> None:
    """Write a linear probe to one safetensors file, whole or not at all.

    Parameters
    ----------
    probe
        What ``linear_probe`` gave.
    path
        Where.

    Raises
    ------
    CasebackError
        For labels that JSON cannot hold.

    Examples
    --------
    >>> import tempfile, torch
    >>> from caseback.decode.probes import linear_probe, load_probe
    >>> x = torch.randn(1, 40, 3, generator=torch.Generator().manual_seed(0))
    >>> probe = linear_probe(x + (torch.arange(40) % 2)[:, None], ["no", "yes"] * 20, sites=["resid_post.2"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_probe(probe, f"{folder}/yes.safetensors")
    ...     load_probe(f"{folder}/yes.safetensors").predict(x) == probe.predict(x)
    True
    """
    table = probe.table.drop_dims("example", errors="ignore")
    try:
        facts = {
            "classes": json.dumps(list(probe.classes), allow_nan=False),
            "sites": json.dumps(table.site.values.tolist()),
        }
        provenance, checks = table_parts(table)
    except (TypeError, ValueError) as error:
        raise CasebackError(f"labels or notes that JSON cannot hold: {error}") from None
    tensors = {name: getattr(probe, name).detach().cpu().contiguous() for name in _LAYOUT}
    save(Artifact(tensors, facts, provenance, checks), PROBE, path)


@checked
def load_probe(path: str | Path) -> Probe:
    """Read what ``save_probe`` wrote; which of the held-out examples were right is not kept.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    LoadError
        For a file that holds no probe, or a damaged one.
    """

    def build(artifact: Artifact) -> Probe:
        sites = json.loads(artifact.facts["sites"])
        artifact.expect(_LAYOUT, site=len(sites))
        tensors = {name: artifact.tensors[name] for name in _LAYOUT}
        return Probe(**tensors, classes=json.loads(artifact.facts["classes"]), table=table_of(artifact, sites))

    return load(path, PROBE, build)
