"""Units as one HTML page that opens offline: numbers, strongest examples, and examples of each unit's whole range.

Like the report the page may load nothing; it has no script at all. A token's background is one of eight shades a
sign, its activation is its tooltip. Text of the corpus never becomes markup.
"""

from __future__ import annotations

import base64
import hashlib
import html
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from caseback.errors import CasebackError
from caseback.jobs.whole_file import whole_file
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import number, percent, signed

__all__ = ["unit_html", "write_units"]

_SHADES = 8
_STYLE = "\n".join(
    [
        "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}",
        "body{color:#222;background:#fff}h3{font-size:.95rem;margin:.8rem 0 .2rem;color:#444}",
        "h2{margin:2rem 0 .2rem}dl{display:flex;flex-wrap:wrap;gap:.2rem 1.5rem;margin:0 0 .8rem}dt{color:#666}",
        "dl div{display:flex;gap:.4rem}dd{margin:0;font-variant-numeric:tabular-nums}",
        "p.x{margin:.15rem 0;font-family:ui-monospace,monospace;font-size:13px;overflow-wrap:anywhere}",
        "p.x b{display:inline-block;width:5.5rem;text-align:right;margin-right:.8rem;font-weight:normal;color:#444}",
        "p.x i{font-style:normal;border-radius:2px}p.x i.at{outline:1px solid #222}",
        *(f".p{i}{{background:rgba(200,116,31,{i / _SHADES:.3f})}}" for i in range(1, _SHADES + 1)),
        *(f".n{i}{{background:rgba(79,143,214,{i / _SHADES:.3f})}}" for i in range(1, _SHADES + 1)),
    ]
)


def unit_html(document: Mapping[str, Any]) -> str:
    """The units of a document as one self-contained page.

    Parameters
    ----------
    document
        What ``caseback.reports.unit.unit_document`` gave.

    Returns
    -------
    str
        HTML.
    """
    policy = f"default-src 'none'; style-src 'sha256-{_hash(_STYLE)}'; base-uri 'none'; form-action 'none'"
    title = html.escape(f"{document['site']} · {visible(document['model']['name'])} · caseback")
    head = html.escape(
        f"{document['tokens']} tokens in {document['rows']} rows. A token's colour is the unit's activation there over "
        "its largest of those shown (orange above 0, blue below); the outlined token is the example."
    )
    units = "\n".join(_unit(unit, document["threshold"]) for unit in document["units"])
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<meta name='viewport' content='width=device-width,initial-scale=1'><title>{title}</title>"
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1><p>{head}</p>\n{units}\n</body></html>\n"
    )


def write_units(document: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write the page to a file, whole or not at all.

    Raises
    ------
    CasebackError
        Where the folder is missing or cannot be written to.
    """
    path = Path(path)
    if not path.parent.is_dir() or path.is_dir():
        raise CasebackError(f"cannot write the page to {path}: give a file name in a folder that is there")
    try:
        with whole_file(path) as draft:
            draft.write_text(unit_html(document), encoding="utf-8", newline="\n")
    except OSError as error:
        raise CasebackError(f"cannot write the page to {path}: {error.strerror or error}") from error
    return path


def _unit(unit: Mapping[str, Any], threshold: float) -> str:
    shown = [*unit["examples"], *(e for part in unit["ranges"] for e in part["examples"])]
    most = max((abs(v) for e in shown for v in e["values"]), default=0.0)
    quantiles = {f"quantile {q}": "over" if x is None else signed(x) for q, x in unit["quantiles"].items()}
    facts = {
        f"above {number(threshold)}": f"{percent(unit['frequency'])} of tokens",
        "mean": signed(unit["mean"]),
        "sd": number(unit["std"]),
        **quantiles,
    }
    told = "".join(f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>" for k, v in facts.items())
    parts = [f"<h2>Unit {unit['unit']}</h2><dl>{told}</dl><h3>Strongest</h3>"]
    parts += [_example(e, most) for e in unit["examples"]]
    for part in reversed(unit["ranges"]):
        if part["examples"]:
            parts.append(f"<h3>{html.escape(signed(part['low']))} to {html.escape(signed(part['high']))}</h3>")
            parts += [_example(e, most) for e in part["examples"]]
    return f"<section>{''.join(parts)}</section>"


def _example(example: Mapping[str, Any], most: float) -> str:
    tokens = []
    for i, (text, value) in enumerate(zip(example["tokens"], example["values"], strict=True)):
        shade = round(_SHADES * abs(value) / most) if most else 0
        classes = [*([f"{'p' if value > 0 else 'n'}{shade}"] if shade else []), *(["at"] if i == example["at"] else [])]
        named = f" class='{' '.join(classes)}'" if classes else ""
        tokens.append(f"<i{named} title='{html.escape(signed(value))}'>{html.escape(visible(text))}</i><wbr>")
    return f"<p class='x' dir='auto'><b>{html.escape(signed(example['value']))}</b>{''.join(tokens)}</p>"


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
