"""Which function says what an object is, by the object's class: the rows of the table of ``model/display``.

Classes and functions are names here, and the files behind them are imported when an object of the class is shown.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from caseback.reports.displayed import displays
from caseback.views.cells.cell import Cell

__all__ = ["SUMMARIES"]

# class: file of ``reports/summaries`` and its function
SUMMARIES = {
    "caseback.model.running.model.Model": "running.of_model",
    "caseback.model.running.tokens.Tokens": "running.of_tokens",
    "caseback.model.running.run.Run": "running.of_run",
    "caseback.model.running.metrics.Metric": "running.of_metric",
    "caseback.model.circuit.Circuit": "found.of_circuit",
    "caseback.model.findings.Finding": "found.of_finding",
    "caseback.model.findings.Findings": "found.of_findings",
    "caseback.behaviors.atlas.Atlas": "found.of_atlas",
    "caseback.localize.circuits.judging.Judgement": "found.of_judgement",
    "caseback.tasks.prompts.Prompts": "running.of_prompts",
    "caseback.decode.vocabulary.lenses.lens.Lens": "fitted.of_lens",
    "caseback.decode.dictionaries.dictionary.Dictionary": "fitted.of_dictionary",
    "caseback.decode.probes.linear_probe.Probe": "fitted.of_probe",
    "caseback.decode.directions.directions.Directions": "fitted.of_directions",
    "caseback.decode.erasure.eraser.Eraser": "fitted.of_eraser",
    "caseback.edit.knowledge_edit.KnowledgeEdit": "fitted.of_knowledge_edit",
}


def _drawer(path: str) -> Any:
    file, _, function = path.partition(".")

    def draw(value: Any) -> Cell:
        return Cell(getattr(import_module(f"caseback.reports.summaries.{file}"), function)(value), value)

    return draw


for _name, _path in SUMMARIES.items():
    displays(_name, _drawer(_path))
