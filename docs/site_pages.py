"""The pages of the documentation site that come from the code; `mkdocs.yml` names this file as its hook.

Each package that publishes names has a page of the reference, `reference/PACKAGE.md`. `primer.md` is the Primer's
table of contents with the functions that carry it out. `documents.md` has the schema of every document that commands
print. `contributing.md` is the repository's own CONTRIBUTING.md. The notebooks are pages too, by `notebook_pages.py`.
"""

import importlib
import json
import pkgutil
import sys
import types
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import caseback as cb
from caseback.reports.document import DocumentKind
from caseback.reports.forms.schema import list_schemas, result_schema

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))  # mkdocs reads this file by its path, and knows none beside it
import notebook_pages  # noqa: E402

# The Primer's sections (arXiv 2405.00208 v3) in its own words, and the page of these docs that treats each.
SECTIONS = {
    "2": ("The components of a Transformer language model", "design.md"),
    "3.1": ("Input attribution", "inputs_gradients.md"),
    "3.2": ("Model component importance", "components.md"),
    "4.1": ("Probing", "probes.md"),
    "4.2": ("Linear representations and sparse autoencoders", "directions.md"),
    "4.3": ("Decoding in vocabulary space", "decode_lenses.md"),
    "5.1": ("Attention block", "atlas.md"),
    "5.2": ("Feed-forward network block", "atlas.md"),
    "5.3": ("Residual stream", "atlas.md"),
    "5.4": ("Emergent multi-component behavior", "behaviors.md"),
    "B": ("Beyond the Primer", "beyond.md"),
}


def published_names() -> dict[str, list[str]]:
    """Each package that publishes names, with these names, and each module that has techniques of its own."""
    names = {"caseback": [name for name in cb.__all__ if not name.startswith("_")]}
    for info in pkgutil.walk_packages(cb.__path__, "caseback."):
        if info.ispkg and not info.name.startswith("caseback.cli"):
            module = importlib.import_module(info.name)
            here = [name for name, value in vars(module).items() if _published(module, name, value)]
            names |= {info.name: here} if here else {}
    for technique in cb.techniques():
        home, _, name = f"caseback.{technique.name}".rpartition(".")
        if name not in names.setdefault(home, []):
            names[home].append(name)
    return names


def _published(module: types.ModuleType, name: str, value: Any) -> bool:
    home = getattr(value, "__module__", None) or ""
    here = f"{home}.".startswith(f"{module.__name__}.")
    return here and callable(value) and not name.startswith("_")


def _summary(value: Any) -> str:
    return " ".join((value.__doc__ or "").strip().split("\n\n")[0].split())


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def reference_page(home: str, names: list[str], anchors: dict[str, str]) -> str:
    """One package: its purpose, its names in a table, then each with its docstring, unless another page has that."""
    module = importlib.import_module(home)
    table = [_row("name", "what"), _row("---", "---")]
    entries = []
    for name in names:
        value = getattr(module, name)
        # By where it is defined: a module may have the name of its function. The anchor is the name that people write.
        path = f"{value.__module__}.{value.__qualname__}"
        anchor = anchors.setdefault(path, f"{home}.{name}")
        table.append(_row(f"[`{name}`][{anchor}]", _summary(value)))
        if anchor == f"{home}.{name}":
            mark = f"[](){{#{anchor}}}\n\n" if path != anchor else ""
            entries.append(f"{mark}::: {path}\n    options:\n      heading: {anchor}\n      toc_label: {name}")
    return "\n\n".join([f"# {home}", _summary(module), "\n".join(table), *entries, ""])


def primer_page() -> str:
    """The Primer's sections, each entry with the techniques that carry it out."""
    rows: dict[str, list[tuple[tuple[int, ...], str]]] = {section: [] for section in SECTIONS}
    for technique in cb.techniques():
        name = f"[`{technique.function.__name__}`][caseback.{technique.name}]"
        for entry in technique.entry:
            row = _row(entry, name, technique.summary, technique.citation, technique.cost)
            rows[_section(entry)].append((_order(entry), row))
    lines = [
        "# The Primer, executable",
        "Each entry of [the Primer](https://arxiv.org/abs/2405.00208) and the functions that carry it out; each name "
        "leads to its reference with an example to run. `caseback techniques` prints the same list.",
    ]
    head = [_row("entry", "function", "what it does", "published", "costs"), _row(*["---"] * 5)]
    for section, (title, page) in SECTIONS.items():
        table = "\n".join([*head, *(row for _, row in sorted(rows[section]))])
        lines += [f"## {title if section == 'B' else f'{section} {title}'}", f"More on [its page]({page}).", table]
    return "\n\n".join([*lines, ""])


def documents_page() -> str:
    """Every kind of document that commands print with `--json` and pages are drawn from, with its schema."""
    lines = [
        "# Documents",
        "What `--json` prints and a page is drawn from is a document: JSON that names its `kind` and `version`, says "
        "of which model it is, and has the sections of its kind. A section that changes its form makes a new version; "
        "new keys may come within one. Each schema is JSON Schema, draft 2020-12. Maps of a model, a sweep or a lens "
        "(`patch`, `dla`, `lens` and others) are printed as [labeled results](#labeled-results), and what only lists "
        "things as [lists](#lists). `kind.schema()` gives a document's schema in Python, "
        "`caseback.reports.forms.schema.result_schema()` and `list_schemas()` the others.",
    ]
    kinds: dict[str, DocumentKind] = {}
    for info in pkgutil.walk_packages(cb.reports.__path__, "caseback.reports."):
        for value in vars(importlib.import_module(info.name)).values():
            if isinstance(value, DocumentKind):
                kinds[value.kind] = value
    for _, kind in sorted(kinds.items()):
        lines += [f"## {kind.kind}", f"`{kind.function}`, version {kind.version}.", _folded(kind.schema())]
    lines += ["## Labeled results", "In xarray's own form, with null for what is missing.", _folded(result_schema())]
    lines += ["## Lists"]
    for name, schema in list_schemas().items():
        lines += [f"### caseback {name}", _folded(schema)]
    return "\n\n".join([*lines, ""])


def _folded(schema: dict[str, Any]) -> str:
    text = json.dumps(schema, indent=1, ensure_ascii=False)
    return '??? note "The schema"\n\n' + "\n".join(f"    {line}" for line in ["```json", *text.splitlines(), "```"])


def _section(entry: str) -> str:
    return max((section for section in SECTIONS if f"{entry}.".startswith(f"{section}.")), key=len)


def _order(entry: str) -> tuple[int, ...]:
    return tuple(int(part) for part in entry.split(".") if part.isdigit())


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that come from the code, and the reference to the contents."""
    anchors: dict[str, str] = {}
    deepest_first = sorted(published_names().items(), key=lambda item: (-item[0].count("."), item[0]))
    pages = {f"reference/{home}.md": reference_page(home, names, anchors) for home, names in deepest_first}
    for section in config.nav or []:
        if "Reference" in section:
            section["Reference"] = sorted(pages)
    pages["primer.md"] = primer_page()
    pages["documents.md"] = documents_page()
    pages["contributing.md"] = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    pages |= notebook_pages.pages()
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turn links that hold in the repository into links that hold on the site."""
    return markdown.replace("](../CONTRIBUTING.md", "](contributing.md").replace("](docs/", "](")


def on_page_content(html: str, **_: Any) -> str:
    """Put what the notebooks' cells show where their pages have a mark."""
    return notebook_pages.with_outputs(html)
