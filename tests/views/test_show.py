"""Objects say what they are in a notebook and in the terminal, with the same words, and whatever they hold."""

import html
import importlib
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from browser import BROWSER, browser
from rich.cells import cell_len
from rich.console import Console

import caseback as cb
from caseback.behaviors.atlas import Atlas, KindReport
from caseback.decode.dictionaries import Facts, TopK
from caseback.decode.directions import find_directions
from caseback.decode.erasure import leace
from caseback.decode.probes import linear_probe
from caseback.decode.vocabulary import logit_lens
from caseback.decode.vocabulary.lenses.lens import Lens
from caseback.edit.facts import Fact
from caseback.edit.knowledge_edit import KnowledgeEdit
from caseback.errors import CasebackError
from caseback.localize.circuits import attribution_graph, judge
from caseback.localize.components import logit_attribution, patch
from caseback.model.display import Displayed
from caseback.model.findings import Finding, Findings
from caseback.reports.circuit import circuit_document
from caseback.views import Figure
from caseback.views.cells.table import SUMMARIES
from hostile import HOSTILE

PROMPT = "When Mary and John went to the store, John gave a drink to"
CORRUPT = "When Mary and John went to the store, Mary gave a drink to"


def objects():
    model = cb.load("meadow")
    circuit = cb.Circuit.of("embed -> L0H1.v", "L0H1 -> logits", roles={"L0H1": "induction"})
    found = Finding("L3H2", "name mover", 0.9, 0.1, 0.2, 1.5, "logit difference", "proved")
    kinds = (
        KindReport("name mover", "head", "5.2", "a 2020", "b", "c", 0.5, 0.2, 3, 1, 20),
        KindReport("d", "head", "", "", "", "", 0.5, missing="e"),
    )
    generator = torch.Generator().manual_seed(0)
    states, labels = torch.randn(60, 8, generator=generator), ["a", "b"] * 30
    lens = Lens("tuned", (0, 1), torch.zeros(2, 8, 8), torch.zeros(2, 8), 3, provenance={"steps": 3, "loss": 0.5})
    yield model
    yield model.tokens([PROMPT, "the cat"])
    yield model.run([PROMPT, "the cat"], read=["pattern", ("z", 1)], edits=[cb.Zero("z", layer=0, head=0)])
    yield cb.logit_diff(" Mary", " John")
    yield circuit
    yield found
    yield Findings((found,) * 20, {"technique": "behaviors.find"})
    yield Atlas(kinds, Findings((found,)), about={"model": "meadow"})
    ioi = cb.tasks.ioi().prompts(model, 6)
    yield ioi
    yield judge(model, ioi.clean, ioi.corrupt, ioi.metric, circuit, sets=1)
    yield lens
    yield TopK(8, 32, k=4, facts=Facts(site="resid_post.1"))
    yield linear_probe(states, labels)
    yield find_directions(states, labels)
    yield leace(states, labels)
    yield KnowledgeEdit(
        [cb.Zero("z", layer=0, head=0)],
        [Fact("The mother tongue of {}", "Danielle Darrieux", " English")],
        "rome",
        checks={"steps": 20},
    )


EVERY = list(objects())


def written(value, width=80):
    file = io.StringIO()
    Console(file=file, width=width).print(value)
    return file.getvalue()


def words_of(text):
    """What a reader sees of HTML."""
    plain = re.sub(r"(?s)<style>.*?</style>|<[^>]+>", " ", text)
    return set(html.unescape(plain).split())


def test_every_row_of_the_table_is_a_class_that_asks_it_and_is_tried_here():
    classes = [getattr(importlib.import_module(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in SUMMARIES]
    assert all(issubclass(cls, Displayed) for cls in classes)
    assert [cls.__name__ for cls in classes if not any(isinstance(x, cls) for x in EVERY)] == []


@pytest.mark.parametrize("value", EVERY, ids=lambda value: type(value).__name__)
def test_a_notebook_and_the_terminal_say_the_same_words(value):
    cell, text = value._repr_html_(), written(value, 400)
    assert "script" not in cell and len(cell) < 20_000
    assert set(text.split()) == words_of(cell), "one summary, two forms"
    assert max(map(cell_len, written(value).splitlines())) <= 80
    assert cb.show(value).data is value and cb.show(value).html == cell


@pytest.mark.parametrize("value", EVERY, ids=lambda value: type(value).__name__)
def test_a_prompt_of_python_says_an_object_in_a_few_lines(value):
    tokens = isinstance(value, cb.Tokens)  # these few say their ids
    assert len(repr(value)) < (2000 if tokens else 500)


def test_prompts_say_their_answers_and_a_judgement_its_caveats():
    ioi = next(x for x in EVERY if type(x).__name__ == "Prompts")
    verdict = next(x for x in EVERY if type(x).__name__ == "Judgement")
    shown = written(ioi, 400)
    assert repr(ioi) == "Prompts(ioi, 6 pairs, logit_diff)" and ioi.pairs[0].clean.text.replace(" ", "␣") in shown
    assert ioi.pairs[0].target[0].replace(" ", "␣") in shown and "2 more" in shown
    assert verdict.caveats and all(caveat in written(verdict, 400) for caveat in verdict.caveats)
    findings = next(x for x in EVERY if isinstance(x, Findings))
    assert findings[0] is findings.findings[0] and findings[-1] is findings.findings[-1]


def test_a_result_or_a_mapping_with_a_kind_of_its_own_is_shown():
    graph = attribution_graph(EVERY[0], "Mary gave the ball to", "neurons", targets=" John", max_nodes=30)
    assert "kind" in graph.coords and cb.show(graph).html and cb.show({"kind": ["a", "b"]}).html


def test_a_run_says_what_the_model_answers():
    run = EVERY[2]
    last = run.logits[0, int(run.tokens.column(-1)[0])].softmax(-1)
    token = EVERY[0].token_text(int(last.argmax())).replace(" ", "␣")
    assert f"{token} {100 * float(last.max()):.1f}%" in run._repr_html_() and "z 1" in written(run)
    without = EVERY[0].run("the cat", read=["z"])
    without._logits = None
    assert "answers" not in without._repr_html_()


def test_hostile_tokens_are_words_and_no_markup():
    tokens = cb.Tokens(
        torch.ones(1, len(HOSTILE), dtype=torch.long), torch.ones(1, len(HOSTILE), dtype=torch.bool), [list(HOSTILE)]
    )
    cell, text = tokens._repr_html_(), written(tokens)
    assert "<script" not in cell and "\u202e" not in cell + text and "\x1b" not in cell + text


def test_results_are_drawn_by_what_they_are():
    model, metric = EVERY[0], cb.logit_diff(" Mary", " John")
    lens = cb.show(logit_lens(model, PROMPT))
    assert isinstance(lens, Figure) and lens.modes[0] == "top"
    patched = cb.show(patch(model, PROMPT, CORRUPT, metric), title="a title")
    assert patched.title == "a title" and patched.maps[0]["up"]
    shares = logit_attribution(model, PROMPT, metric)
    assert "all-of-it" in cb.show(shares).drawn or cb.show(shares).maps
    flat = xr.DataArray([0.5, -1.0], dims=["pos"], coords={"token": ("pos", ["a", " b"])}, name="score")
    assert cb.show(flat).maps[0]["cols"] == ["a", "␣b"]
    wide = cb.show(xr.DataArray(np.zeros((2,) * 5), dims=list("abcde")))
    assert "2" in wide.summary.facts.values() and wide.data.shape == (2,) * 5
    assert cb.show(torch.randn(3, 4, dtype=torch.bfloat16)).maps[0]["rows"] == ["0", "1", "2"]
    figure = cb.show(np.eye(2))
    assert cb.show(figure) is figure


def test_a_document_stands_in_a_frame_of_its_own(tmp_path):
    document = circuit_document(EVERY[0], "Mary gave the ball to", EVERY[4])
    shown = cb.show(document)
    assert shown.html.startswith("<iframe srcdoc=") and shown.html.count('"') == 10
    page = html.unescape(re.search(r'srcdoc="([^"]*)"', shown.html)[1])
    assert shown.save(tmp_path / "page.html").read_text("utf-8") == page
    with pytest.raises(CasebackError, match="without"):
        cb.show({"kind": "caseback.circuit", "version": 1}).html  # noqa: B018


@pytest.mark.parametrize(
    "value",
    [None, 3, "text", [1, 2], {"kind": "a poem"}, object(), np.zeros(0), np.array(["a"]), cb.Zero("z", layer=0)],
)
def test_anything_else_is_shown_in_words(value, tmp_path):
    shown = cb.show(value)
    assert type(value).__name__ in shown.html and shown.data is value
    assert shown.save(tmp_path / "a.html").read_text("utf-8").startswith("<!doctype html>")
    with pytest.raises(CasebackError, match="saved as .html"):
        shown.save(tmp_path / "a.png")


def test_what_cannot_say_what_it_is_is_refused():
    class Silent:
        def __repr__(self):
            raise RuntimeError("no words")

    with pytest.raises(CasebackError, match="no words"):
        cb.show(Silent())


def test_many_threads_may_look_first():
    code = """
import threading, caseback as cb
metric, barrier, seen = cb.logit(" a"), threading.Barrier(16), []
def look():
    barrier.wait()
    seen.append(metric._repr_html_())
threads = [threading.Thread(target=look) for _ in range(16)]
[t.start() for t in threads]; [t.join() for t in threads]
print(len(seen), len(set(seen)), "cb-head" in seen[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["16", "1", "True"], done.stderr


# what notebooks say of tables, paragraphs and buttons, at its worst
NOTEBOOK = """<!doctype html><html><body data-jp-theme-light="{light}"><style>
body {{ background: red; }} .out table {{ font-size: 40px; margin: 90px; }} .out td, .out th {{ text-align: center; background: lime; padding: 50px; }}
.out tbody tr:nth-child(odd) {{ background: lime; }} .out p {{ color: lime; margin: 70px; }} .out button {{ background: lime; font-size: 40px; }}
</style><div class="out">{cell}</div></body></html>"""


# numbers are unzipped after the page is there
READY = """new Promise(done => {
  const look = () => document.querySelector(".cb-fig[data-live=ready]") ? done(true) : setTimeout(look, 10);
  look();
})"""


@pytest.fixture(scope="module")
def tab():
    if BROWSER is None:
        pytest.skip("needs chromium or chrome on the path")
    with browser() as page:
        yield page


@pytest.mark.browser
@pytest.mark.parametrize("light", [True, False])
def test_a_notebooks_style_does_not_reach_in_and_its_theme_does(tab, tmp_path, light):
    lens = cb.show(logit_lens(EVERY[0], PROMPT))
    path = tmp_path / "notebook.html"
    path.write_text(
        NOTEBOOK.format(light=str(light).lower(), cell=EVERY[0]._repr_html_() + lens.html), encoding="utf-8"
    )
    tab.look(width=400, dark=light)  # the notebook's theme counts, not the reader's
    tab.open(path.as_uri())
    assert tab.evaluate(READY)
    style = "(one => (s => [s.backgroundColor, s.color, s.fontSize, s.marginTop, s.paddingLeft])(getComputedStyle(document.querySelector(one))))"
    paper, ink, *_ = tab.evaluate(f"{style}('.cb-fig')")
    assert paper == ("rgb(251, 250, 248)" if light else "rgb(20, 23, 26)")
    assert ink == ("rgb(26, 30, 34)" if light else "rgb(236, 234, 229)")
    assert tab.evaluate(f"{style}('.cb-fig td')")[0] == "rgba(0, 0, 0, 0)"
    assert tab.evaluate(f"{style}('.cb-fig tbody tr')")[0] == "rgba(0, 0, 0, 0)"
    assert tab.evaluate(f"{style}('.cb-fig table')")[2:4] == ["12.5px", "0px"]
    assert tab.evaluate(f"{style}('.cb-fig button')")[2] == "12px"
    assert tab.evaluate("document.documentElement.scrollWidth") <= 400
    tab.picture(Path(tmp_path / "cell.png"))


@pytest.mark.browser
def test_a_pointer_and_the_keys_say_a_cells_numbers(tab, tmp_path):
    lens = logit_lens(EVERY[0], PROMPT, targets=" Mary")
    path = cb.show(lens).save(tmp_path / "lens.html")
    tab.look(width=1400)
    tab.open(path.as_uri())
    assert tab.evaluate(READY)
    assert tab.evaluate("document.querySelectorAll('.cb-tools button').length") == 7
    grid = cb.show(lens).maps[0]
    x, y = grid["x"] + 4.5 * grid["cw"], grid["y"] + 0.5 * grid["ch"]
    move = f"""(() => {{
      const svg = document.querySelector("svg.cb-svg"), box = svg.getBoundingClientRect();
      svg.dispatchEvent(new PointerEvent("pointermove", {{ clientX: box.left + {x}, clientY: box.top + {y} }}));
      return document.querySelector(".cb-tip").textContent;
    }})()"""
    said = tab.evaluate(move)
    one = lens.isel(batch=0, layer=-1, pos=4)  # the upper row is the last layer's
    assert said.splitlines()[0] == f"after layer 3 position 4 {str(one.token.values).replace(' ', '␣')}"
    assert said.splitlines()[1].startswith(str(one.top_text.values[0]).replace(" ", "␣"))
    assert f"rank of ␣Mary {int(one['rank'].values[0])}" in said.splitlines()
    key = "document.querySelector('svg.cb-svg').dispatchEvent(new KeyboardEvent('keydown', { key: '%s' })), document.querySelector('.cb-tip').textContent"
    assert tab.evaluate(key % "ArrowDown").startswith("after layer 2 position 4")
    assert tab.evaluate(key % "ArrowRight").startswith("after layer 2 position 5")
    tab.evaluate("document.querySelectorAll('.cb-tools button')[1].click()")
    shown = "[...document.querySelectorAll('[data-mode]')].filter(g => g.getAttribute('display') !== 'none').map(g => g.dataset.mode)"
    assert tab.evaluate(shown) == ["1"]
