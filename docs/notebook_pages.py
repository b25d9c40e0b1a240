"""The notebooks as pages of the documentation site: prose and code, and what cells show where they are run.

A notebook is stored without outputs, and running all of them takes minutes. So `make docs` shows prose and code;
`make docs NOTEBOOKS=run` runs them and puts what each cell shows below it. What a cell shows is HTML with its own style
and script, which Markdown must not touch: the page has a mark in its place until it is HTML itself.
"""

import json
import os
import re
from pathlib import Path

FOLDER = Path(__file__).parent / "notebooks"
RUN = os.environ.get("NOTEBOOKS") == "run"
_shown: dict[str, str] = {}
"""What each mark stands for."""


def pages() -> dict[str, str]:
    """Each notebook's page, as Markdown."""
    return {f"notebooks/{path.stem}.md": _page(path) for path in sorted(FOLDER.glob("*.ipynb"))}


def with_outputs(html: str) -> str:
    """A page with what its cells show in place of the marks."""
    return re.sub(r"<p>(output-[\w-]+)</p>", lambda mark: _shown.get(mark[1], mark[0]), html)


def _page(path: Path) -> str:
    parts = []
    for number, cell in enumerate(_cells(path)):
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        for output in cell.get("outputs", []):
            if output["output_type"] == "execute_result":
                mark = f"output-{path.stem}-{number}"
                _shown[mark] = _html(output["data"])
                parts.append(mark)
    note = f"[This page as a notebook]({path.name}), which runs without a network."
    return "\n\n".join([parts[0], note, *parts[1:], ""])


def _cells(path: Path) -> list[dict]:
    if not RUN:
        return json.loads(path.read_text("utf-8"))["cells"]
    import nbformat
    from nbconvert.preprocessors import ExecutePreprocessor

    notebook = nbformat.read(path, as_version=4)
    ExecutePreprocessor(timeout=600, kernel_name="python3").preprocess(notebook, {"metadata": {"path": str(FOLDER)}})
    return notebook.cells


def _html(data: dict) -> str:
    shown = data.get("text/html")
    return f'<div class="cb-output">{shown}</div>' if shown else f"<pre>{data['text/plain']}</pre>"
