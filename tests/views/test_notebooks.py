"""The notebooks of the documentation run from top to bottom, and each of their cells shows something small."""

import json
from pathlib import Path

import pytest
from browser import BROWSER, browser

nbformat = pytest.importorskip(
    "nbformat", reason="notebooks run in nbconvert and ipykernel, which the extra 'dev' brings"
)
nbconvert = pytest.importorskip("nbconvert")
pytest.importorskip("ipykernel")

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def executed(request):
    """A notebook with its outputs."""
    from nbconvert.preprocessors import ExecutePreprocessor

    notebook = nbformat.read(request.param, as_version=4)
    ExecutePreprocessor(timeout=300, kernel_name="python3").preprocess(notebook, {"metadata": {"path": str(FOLDER)}})
    return notebook


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path):
    notebook = json.loads(path.read_text("utf-8"))
    assert path.stat().st_size < 20_000
    assert [c for c in notebook["cells"] if c.get("outputs") or c.get("execution_count")] == []


def test_every_cell_shows_something_small(executed):
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert len(code) >= 10
    for cell in code:
        (shown,) = [out for out in cell.outputs if out.output_type == "execute_result"]
        assert "text/plain" in shown.data and 0 < len(shown.data["text/html"]) < 200_000, cell.source


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="needs chromium or chrome on the path")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_notebook_becomes_a_page_in_its_theme(executed, theme, tmp_path):
    body, _ = nbconvert.HTMLExporter(theme=theme).from_notebook_node(executed)
    path = tmp_path / "notebook.html"
    path.write_text(body, encoding="utf-8")
    with browser() as tab:
        tab.look(width=1000, dark=theme == "light")  # the page's theme counts
        tab.open(path.as_uri())
        figures = "[...document.querySelectorAll('.cb-fig')]"
        expected = "rgb(251, 250, 248)" if theme == "light" else "rgb(20, 23, 26)"
        papers = tab.evaluate(f"{figures}.map(one => getComputedStyle(one).backgroundColor)")
        assert len(papers) >= 10 and set(papers) == {expected}
        outside = f"{figures}.filter(one => one.getBoundingClientRect().right > innerWidth).length"
        assert tab.evaluate(outside) == 0
        assert tab.evaluate(f"{figures}.every(one => 'live' in one.dataset)")
