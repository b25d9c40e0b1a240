"""What was fitted: lenses, dictionaries, probes, directions, erasers, edits of facts."""

from __future__ import annotations

from typing import Any

import xarray as xr

from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.directions.directions import Directions
from caseback.decode.erasure.eraser import Eraser
from caseback.decode.probes.linear_probe import Probe
from caseback.decode.vocabulary.lenses.lens import Lens
from caseback.edit.knowledge_edit import KnowledgeEdit
from caseback.reports.summaries.summary import MOST_ROWS, Summary, number_text


def of_lens(lens: Lens) -> Summary:
    """What it reads, and how it was fitted."""
    facts = {"rows": f"{len(lens.rows)} of {lens.n_layers + 1}", "d_model": f"{lens.d_model:,}"}
    if lens.ahead:
        facts["reads"] = f"{lens.ahead} token{'s' * (lens.ahead != 1)} ahead"
    facts |= _plain(lens.provenance)
    return Summary(f"{lens.kind.capitalize()} lens", facts=facts, more="read_lens(model, prompt, lens)")


def of_dictionary(dictionary: Dictionary) -> Summary:
    """Its architecture, its sizes, where it reads and writes."""
    about = dictionary.facts
    facts = {
        "architecture": type(dictionary).__name__,
        "features": f"{dictionary.n_features:,}",
        "reads, writes": f"{dictionary.d_in:,}, {dictionary.d_out:,} numbers",
        "site": f"{about.site} to {about.target}" if about.is_transcoder else str(about.site),
        **{name: str(value) for name, value in dictionary.own_options().items()},
    }
    return Summary("Dictionary", facts=facts, more="dictionary.encode(states)")


def of_probe(probe: Probe) -> Summary:
    """Its accuracy by site, the best first, beside the majority's."""
    accuracy = probe.table.accuracy.values
    order = sorted(range(len(accuracy)), key=lambda i: -float(accuracy[i]))
    names = [str(name) for name in probe.table.site.values.tolist()]
    rows = [(names[i], number_text(float(accuracy[i]))) for i in order[:MOST_ROWS]]
    facts = {
        "classes": ", ".join(map(str, probe.classes[:8])) + (" …" if len(probe.classes) > 8 else ""),
        "majority": number_text(float(probe.table.majority)),
    }
    return Summary("Probe", "", facts, ("site", "#accuracy"), rows, max(0, len(order) - MOST_ROWS))


def of_directions(directions: Directions) -> Summary:
    """How well each place tells the two classes apart, the best first."""
    negative, positive = directions.classes
    score = directions.table.auroc.values.tolist()
    order = sorted(range(len(score)), key=lambda i: -float(score[i]))
    rows = [(directions.names[i], number_text(float(score[i]))) for i in order[:MOST_ROWS]]
    facts = {"classes": f"{negative} (below 0) and {positive} (above)", "best": directions.best}
    return Summary("Directions", "", facts, ("place", "#AUROC"), rows, max(0, len(order) - MOST_ROWS))


def of_eraser(eraser: Eraser) -> Summary:
    """By place, how many dimensions it takes and how much of the variance."""
    checks = eraser.checks
    rows = [
        (str(name), str(int(checks["rank"][i])), f"{100 * float(checks['removed'][i]):.1f}%")
        for i, name in enumerate(eraser.names[:MOST_ROWS])
    ]
    left = max(0, len(eraser.names) - MOST_ROWS)
    heads = ("place", "#rank", "#of the variance")
    return Summary("Eraser", "", {"method": eraser.method}, heads, rows, left, "model.edited(eraser.edits())")


def of_knowledge_edit(edit: KnowledgeEdit) -> Summary:
    """The facts that it writes, and what was measured while it was made."""
    rows = [(str(fact),) for fact in edit.facts[:MOST_ROWS]]
    facts = {"method": edit.method, "edits": str(len(edit.edits)), **_plain(edit.checks)}
    left = max(0, len(edit.facts) - MOST_ROWS)
    return Summary("KnowledgeEdit", "", facts, ("fact",), rows, left, "edit.on(model)")


def _plain(given: Any) -> dict[str, str]:
    """What of a mapping is a number or a short text."""
    shown = {}
    for key, value in dict(given).items():
        if isinstance(value, xr.DataArray) and value.ndim == 0:
            value = value.item()
        if isinstance(value, bool | int | str) and len(str(value)) <= 80:
            shown[str(key)] = str(value)
        elif isinstance(value, float):
            shown[str(key)] = number_text(value)
    return shown
