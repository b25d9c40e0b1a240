"""The notebooks of the documentation run from top to bottom, and each of their cells shows something small."""

import ast
import json
import resource
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
FIRST_LOOK = FOLDER / "first-look.ipynb"

pytestmark = pytest.mark.slow

SECONDS = 600 / 11
"""Of processor time, of each: so that all of them take no more than ten minutes."""


def spent():
    """Seconds of processor time of the kernels that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def executed(path):
    """A notebook with its outputs."""
    from nbconvert.preprocessors import ExecutePreprocessor

    notebook = nbformat.read(path, as_version=4)
    ExecutePreprocessor(timeout=300, kernel_name="python3").preprocess(notebook, {"metadata": {"path": str(FOLDER)}})
    return notebook


def ends_in_an_expression(source):
    last = ast.parse(source).body[-1]
    return isinstance(last, ast.Expr) and not source.rstrip().endswith(";")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path):
    notebook = json.loads(path.read_text("utf-8"))
    assert path.stat().st_size < 20_000
    assert [c for c in notebook["cells"] if c.get("outputs") or c.get("execution_count")] == []


def test_there_are_a_first_look_and_ten_tutorials():
    assert len(NOTEBOOKS) == 11 and FIRST_LOOK in NOTEBOOKS
    for path in NOTEBOOKS:
        first = json.loads(path.read_text("utf-8"))["cells"][0]
        assert first["cell_type"] == "markdown" and first["source"][0].startswith("# ")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_every_cell_that_shows_something_shows_it_small(path):
    before = spent()
    code = [cell for cell in executed(path).cells if cell.cell_type == "code"]
    assert spent() - before < SECONDS
    showing = [cell for cell in code if ends_in_an_expression(cell.source)]
    assert len(code) >= (10 if path == FIRST_LOOK else 6) and len(showing) >= (len(code) if path == FIRST_LOOK else 6)
    for cell in showing:
        (shown,) = [out for out in cell.outputs if out.output_type == "execute_result"]
        assert "text/plain" in shown.data and 0 < len(shown.data["text/html"]) < 200_000, cell.source
    assert not [out for cell in code for out in cell.outputs if out.get("name") == "stdout"], (
        "a cell shows, it prints not"
    )


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="needs chromium or chrome on the path")
@pytest.mark.parametrize(("name", "figures_at_least"), [("first-look", 10), ("ioi-from-scratch", 5)])
def test_a_notebook_becomes_a_page_in_its_theme(name, figures_at_least, tmp_path):
    notebook = executed(FOLDER / f"{name}.ipynb")
    for theme in ("light", "dark"):
        body, _ = nbconvert.HTMLExporter(theme=theme).from_notebook_node(notebook)
        path = tmp_path / f"{theme}.html"
        path.write_text(body, encoding="utf-8")
        with browser() as tab:
            tab.look(width=1000, dark=theme == "light")  # the page's theme counts
            tab.open(path.as_uri())
            figures = "[...document.querySelectorAll('.cb-fig')]"
            expected = "rgb(251, 250, 248)" if theme == "light" else "rgb(20, 23, 26)"
            papers = tab.evaluate(f"{figures}.map(one => getComputedStyle(one).backgroundColor)")
            assert len(papers) >= figures_at_least and set(papers) == {expected}
            outside = f"{figures}.filter(one => one.getBoundingClientRect().right > innerWidth).length"
            assert tab.evaluate(outside) == 0
            assert tab.evaluate(f"{figures}.every(one => 'live' in one.dataset)")
