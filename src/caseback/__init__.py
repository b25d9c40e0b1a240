"""caseback: the window in the back of a language model, through which you see it work.

Names are imported when first used, so that ``import caseback`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from caseback.errors import CasebackError
from caseback.version import __version__

if TYPE_CHECKING:
    from caseback.model.anatomy.sites import Site
    from caseback.model.circuit import Circuit
    from caseback.model.loading.load import load
    from caseback.model.notes import Note, Notes
    from caseback.model.published import push
    from caseback.model.registry import techniques
    from caseback.model.remote.remote_model import RemoteModel, connect
    from caseback.model.running.affine import Affine, Codebook, Fade, Rotate, SideMemory, SideTerm, Tilt
    from caseback.model.running.answer_metrics import answer_log_prob
    from caseback.model.running.edits import (
        Add,
        Apply,
        Edit,
        Freeze,
        Knockout,
        Mean,
        Noise,
        Project,
        Replace,
        Resample,
        Scale,
        Swap,
        Zero,
    )
    from caseback.model.running.metrics import Metric, function, kl, log_prob, logit, logit_diff, loss, prob, prob_diff
    from caseback.model.running.model import Model
    from caseback.model.running.run import Run
    from caseback.model.running.saved_edits import load_edits, save_edits
    from caseback.model.running.site_metrics import activation
    from caseback.model.running.tokens import Tokens
    from caseback.views.cells.show import show

_HOMES = {
    "circuit": "Circuit",
    "anatomy.sites": "Site",
    "published": "push",
    "registry": "techniques",
    "running.affine": "Affine Codebook Fade Rotate SideMemory SideTerm Tilt",
    "running.edits": "Add Apply Edit Freeze Knockout Mean Noise Project Replace Resample Scale Swap Zero",
    "loading.load": "load",
    "notes": "Note Notes",
    "remote.remote_model": "RemoteModel connect",
    "running.answer_metrics": "answer_log_prob",
    "running.metrics": "Metric function kl log_prob logit logit_diff loss prob prob_diff",
    "running.model": "Model",
    "running.run": "Run",
    "running.site_metrics": "activation",
    "running.saved_edits": "load_edits save_edits",
    "running.tokens": "Tokens",
}
_NAMES = {name: f"caseback.model.{home}" for home, names in _HOMES.items() for name in names.split()}
_NAMES["show"] = "caseback.views.cells.show"
_PACKAGES = ("model", "localize", "decode", "edit", "tasks", "stream", "behaviors", "organisms", "reports", "views")

__all__ = [
    "Add",
    "Affine",
    "Apply",
    "CasebackError",
    "Circuit",
    "Codebook",
    "Edit",
    "Fade",
    "Freeze",
    "Knockout",
    "Mean",
    "Metric",
    "Model",
    "Noise",
    "Note",
    "Notes",
    "Project",
    "RemoteModel",
    "Replace",
    "Resample",
    "Rotate",
    "Run",
    "Scale",
    "SideMemory",
    "SideTerm",
    "Site",
    "Swap",
    "Tilt",
    "Tokens",
    "Zero",
    "__version__",
    "activation",
    "answer_log_prob",
    "connect",
    "function",
    "kl",
    "load",
    "load_edits",
    "log_prob",
    "logit",
    "logit_diff",
    "loss",
    "prob",
    "prob_diff",
    "push",
    "save_edits",
    "show",
    "techniques",
]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    if name in _PACKAGES:
        return import_module(f"caseback.{name}")
    raise AttributeError(f"module 'caseback' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES})
