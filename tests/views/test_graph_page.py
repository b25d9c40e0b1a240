"""The page of a graph: all of it inside, no text as markup, and what sliders, keys, pins and links do in a browser."""

import base64
import hashlib
import io
import json
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from browser import BROWSER, browser
from page_data import page_data, with_columns
from rich.console import Console
from test_report import Page

import caseback as cb
from caseback.reports.graph import GRAPH
from caseback.reports.graphs.flow import flow_graph_document
from caseback.reports.graphs.paths import strongest_paths
from caseback.views.page.data import column
from caseback.views.page.kinds import page_html, write_page
from caseback.views.text.graphs.graph import print_graph
from hostile import HOSTILE
from planted_graph import planted_graph

FRONTEND = Path(__file__).parents[2] / "frontend"
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs chromium or chrome on the path")


def test_the_page_carries_the_document_and_loads_nothing():
    document = planted_graph(tokens=HOSTILE, target="</script><b>", n_nodes=len(HOSTILE) + 20)
    text = page_html(document)
    page = Page(text)
    data = page_data(text)
    assert data["nodes"]["name"] == document["nodes"]["name"] and data["edges"]["source"] == document["edges"]["source"]
    assert data["edges"]["weight"] == pytest.approx(document["edges"]["weight"], rel=1e-5)
    assert len(data["effects"]) == len(document["nodes"]["name"])
    policy = next(attrs["content"] for tag, attrs in page.tags if tag == "meta" and "http-equiv" in attrs)
    for part in (page.scripts[1], page.styles[0]):
        assert base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() in policy
    assert not [tag for tag, _ in page.tags if tag in ("link", "img", "iframe", "b")]
    assert "</script><b>" not in text and not [tag for tag, attrs in page.tags if {"src", "href"} & set(attrs)]


@pytest.mark.parametrize("digits", [3, 6])
def test_columns_come_back_digit_for_digit(digits):
    rng = np.random.default_rng(0)
    values = (10.0 ** rng.uniform(-30, 30, 20_000) * rng.choice([-1, 1], 20_000)).tolist() + [0.0, 9.99999, 1.0]
    written = column(values, digits=digits)
    assert with_columns(written) == [float(f"{x:.{digits}g}") for x in values]
    assert len(written["data"]) < 0.55 * len(json.dumps([float(f"{x:.{digits}g}") for x in values]))
    for whole in ([0, -1, 127, -128], [5, 300, -300], [70_000, -70_000], list(range(1000)), []):
        assert with_columns(column(whole)) == whole
    assert column([2**40, 0]) == [2**40, 0] and column([1e-40, 1.0], digits=6) == [1e-40, 1.0]
    assert with_columns(column([0.1234, 1.0], per=1000)) == [0.123, 1.0]


@pytest.mark.browser
@needs_browser
@pytest.mark.parametrize("loss", ["the element", "its end", "its zip"])
def test_a_page_that_lost_its_data_says_so(tmp_path, loss):
    whole = page_html(planted_graph())
    start = whole.index('<script type="application/')
    begin, end = whole.index(">", start) + 1, whole.index("</script>", start)
    text = {
        "the element": whole[:start] + whole[end + len("</script>") :],
        "its end": whole[: (begin + end) // 2] + whole[end:],
        "its zip": whole[:begin] + "H4sI" + whole[end:],
    }[loss]
    page = tmp_path / "page.html"
    page.write_text(text, encoding="utf-8")
    with browser() as tab:
        tab.look(width=360)
        tab.open(page.as_uri())
        assert "has lost its data" in tab.evaluate("document.querySelector('main [role=alert]').innerText")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360


def test_readers_without_javascript_have_tables():
    document = planted_graph()
    text = page_html(document)
    before = text.split("<script")[0]
    best = max(range(40), key=lambda i: document["nodes"]["influence"][i])
    assert document["nodes"]["name"][best] in before and "Error nodes carry 38 % of the answer" in before
    assert before.count("<tr><td>") == 2 + 2 + 40 + 60 + len(strongest_paths(document)) + 1 + 2
    assert "L3H2 60%, L2H0 40%" in before and "replacement" in before
    assert "Why heads look where they look" in before and "bias × rest −0.25" in before


def in_terminal(document, **how):
    console = Console(file=io.StringIO(), width=120)
    print_graph(document, console, **how)
    return console.file.getvalue()


def test_the_terminal_has_scores_warnings_nodes_and_paths():
    document = planted_graph()
    told = in_terminal(document, top=3)
    for text in (
        "(90%): score +3.50 above the mean over keys",
        "+2.50",
        "␣Austin (41%)",
        "replacement 0.62",
        "! Error nodes carry 38 %",
        "40 nodes, 120 edges",
        "−2.40",
    ):
        assert text in told
    paths = told.split("The strongest paths")[1].split("Why heads look")[0].strip().splitlines()
    assert len(paths) == 3 and all("→" in line and line.lstrip()[0] in "+−" for line in paths)
    flow = in_terminal(flow_graph_document(cb.load("meadow"), "Mary gave the ball to"))
    assert ", by flow" in flow and "resid_mid" not in flow.split("The strongest paths")[0]


@pytest.mark.browser
def test_the_scripts_walk_and_sum_and_lay_out():
    node = shutil.which("node")
    if node is None or not FRONTEND.is_dir():
        pytest.skip("node is not installed")
    ran = subprocess.run([node, "--test", "test/graph.test.js"], cwd=FRONTEND, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout


@pytest.fixture(scope="module")
def tab():
    with browser() as page:
        page.look(width=1280)
        yield page


COUNTS = (
    "[...document.querySelectorAll('.graph-slider b')].map(x => Number(x.textContent.split(' ')[0].replace(',', '')))"
)
DRAWN = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
PRESS = """(() => {{ const box = document.querySelector('.graph-scroll');
  box.dispatchEvent(new KeyboardEvent('keydown', {{ key: {key!r}, bubbles: true }})); }})()"""
MOVE = """(() => {{ const input = document.querySelectorAll('.graph-slider input')[{which}];
  input.value = {value}; input.dispatchEvent(new Event('input', {{ bubbles: true }})); }})()"""
CARD = "document.querySelector('.node-panel .node-name')?.textContent ?? null"


def opened(tab, document, path, address=""):
    write_page(document, path)
    tab.open("about:blank")
    tab.open(path.as_uri() + address)


def press(tab, *keys):
    for key in keys:
        tab.evaluate(PRESS.format(key=key))


def slide(tab, which, value):
    tab.evaluate(MOVE.format(which=which, value=value))
    tab.evaluate(DRAWN)


def within(document, node, edge):
    """The counts of nodes and edges that the sliders show, walked here."""
    nodes, edges = document["nodes"], document["edges"]
    fixed = {i for i, kind in enumerate(nodes["kind"]) if kind in ("embed", "logits")}
    wanted = fixed | {i for i, share in enumerate(nodes["share"]) if share <= node}
    ends = [
        (source, target)
        for source, target, share in zip(edges["source"], edges["target"], edges["share"], strict=True)
        if share <= edge and source in wanted and target in wanted
    ]
    reached = {i for i in fixed if nodes["kind"][i] == "logits"}
    while grown := {source for source, target in ends if target in reached} - reached:
        reached |= grown
    return [len(reached | fixed), sum(target in reached for _, target in ends)]


@needs_browser
@pytest.mark.browser
def test_sliders_show_what_their_shares_say(tab, tmp_path):
    document = planted_graph(120, 500) | {"supernodes": []}
    opened(tab, document, tmp_path / "graph.html")
    assert tab.evaluate(COUNTS) == within(document, 0.8, 0.9)
    for node, edge in ((1, 1), (0.5, 1), (0.5, 0.7), (0, 0)):
        slide(tab, 0, 200 * node)
        slide(tab, 1, 200 * edge)
        assert tab.evaluate(COUNTS) == within(document, node, edge), (node, edge)


@needs_browser
@pytest.mark.browser
def test_keys_walk_pin_and_let_go_and_a_link_leads_back(tab, tmp_path):
    document = planted_graph(60, 220) | {"supernodes": []}
    nodes, edges = document["nodes"], document["edges"]
    path = tmp_path / "graph.html"
    opened(tab, document, path, "#n=1&e=1")
    press(tab, "ArrowDown")
    first = tab.evaluate(CARD)
    assert first == next(n for n, k in zip(nodes["name"], nodes["kind"], strict=True) if k == "logits")
    press(tab, "ArrowDown")
    at = nodes["name"].index(first)
    into = [e for e, target in enumerate(edges["target"]) if target == at]
    heaviest = edges["source"][max(into, key=lambda e: abs(edges["weight"][e]))]
    assert tab.evaluate(CARD) == nodes["name"][heaviest]
    press(tab, "p")
    address = tab.evaluate("location.hash")
    assert f"pin={heaviest}" in address and f"sel={heaviest}" in address
    slide(tab, 1, 0)
    address = tab.evaluate("location.hash")
    opened(tab, document, path, address)
    assert tab.evaluate(CARD) == nodes["name"][heaviest] and "e=0&" in tab.evaluate("location.hash + '&'")
    assert tab.evaluate("document.querySelectorAll('.pinned-list li').length") == 1
    press(tab, "p", "Escape")
    assert tab.evaluate(CARD) is None and "pin=" not in tab.evaluate("location.hash")


CLICK = """(() => {{ const box = document.querySelector('.graph-over').getBoundingClientRect();
  const at = {{ clientX: box.left + {x}, clientY: box.top + {y}, bubbles: true }};
  document.querySelector('.graph-over').dispatchEvent(new MouseEvent('click', at)); }})()"""
HEADS = "[...document.querySelectorAll('.node-panel details.graph-look')].map(x => [x.dataset.head, x.open])"


@needs_browser
@pytest.mark.browser
def test_an_edge_and_its_target_say_which_heads_carry_it_and_why_they_look_there(tab, tmp_path):
    document = planted_graph(60, 220) | {"supernodes": []}
    nodes, edges, (row,) = document["nodes"], document["edges"], document["attention"]
    source, target = (nodes["name"].index(row["pairs"][0][i]) for i in (1, 0))
    line = next(
        e for e, ends in enumerate(zip(edges["source"], edges["target"], strict=True)) if ends == (source, target)
    )
    path = tmp_path / "graph.html"
    opened(tab, document, path, f"#n=1&e=1&line={line}")
    card = tab.evaluate("document.querySelector('.node-panel').textContent")
    assert "L3H260%" in card and "L2H040%" in card and "+2.50" in card and "−0.25" in card
    assert tab.evaluate(HEADS) == [["L3H2", True]]
    tab.evaluate("document.querySelector('.node-panel .feature-link').click()")
    assert tab.evaluate(CARD) == nodes["name"][source] and "line=" not in tab.evaluate("location.hash")
    opened(tab, document, path, f"#n=1&e=1&sel={target}")
    heaviest = sorted((e for e, i in enumerate(edges["target"]) if i == target), key=lambda e: -abs(edges["weight"][e]))
    assert len(heaviest) <= 8 and tab.evaluate(HEADS) == [["L3H2", False]]
    opened(tab, document, path)
    assert tab.evaluate(HEADS) == [["L3H2", False]]
    # a click beside all nodes finds the edge that the tip is of
    tab.evaluate("document.querySelector('.graph-over').scrollIntoView()")
    wide, high = tab.evaluate(
        "[document.querySelector('.graph-over').clientWidth, document.querySelector('.graph-over').clientHeight]"
    )
    for at in range(40):
        tab.evaluate(CLICK.format(x=wide * (0.2 + at / 64), y=high / 2))
        if "line=" in tab.evaluate("location.hash"):
            break
    assert "→" in tab.evaluate(CARD) and "line=" in tab.evaluate("location.hash")
    press(tab, "Escape")
    assert tab.evaluate(CARD) is None and "line=" not in tab.evaluate("location.hash")


@needs_browser
@pytest.mark.browser
def test_pinned_nodes_become_a_group_with_summed_edges_and_a_document_of_their_own(tab, tmp_path):
    document = planted_graph(60, 400) | {"supernodes": []}
    nodes, edges = document["nodes"], document["edges"]
    top = nodes["kind"].index("logits")
    of_features = [i for i, kind in enumerate(nodes["kind"]) if kind == "feature"]
    two = [e for e, i in enumerate(edges["source"]) if edges["target"][e] == top and i in of_features][:2]
    pinned = [edges["source"][e] for e in two]
    opened(tab, document, tmp_path / "graph.html", f"#n=1&e=1&pin={pinned[0]}.{pinned[1]}.{top}")
    tab.evaluate(
        "(() => { document.querySelector('.pinned-tools .group-name').value = 'a & b';"
        "[...document.querySelectorAll('.pinned-tools button')].find(x => x.textContent === 'group').click(); })()"
    )
    drawn = tab.evaluate(
        "[...document.querySelectorAll('.pinned-graph path.edge')].map(x => [Number(x.dataset.weight), x.classList[1]])"
    )
    total = sum(edges["weight"][e] for e in two)
    assert drawn == [[pytest.approx(total, rel=1e-4), "target" if total > 0 else "foil"]]
    assert tab.evaluate("document.querySelectorAll('.pinned-graph .grouped').length") == 1
    exported = tab.evaluate(
        "(async () => { let blob; const make = URL.createObjectURL; URL.createObjectURL = (x) => { blob = x; return make(x); };"
        "[...document.querySelectorAll('.pinned-tools button')].find(x => x.textContent === 'export as JSON').click();"
        "URL.createObjectURL = make; return blob.text(); })()"
    )
    part = json.loads(exported)
    GRAPH.check(part)
    assert part["nodes"]["name"] == [nodes["name"][i] for i in sorted([*pinned, top])]
    assert part["supernodes"][0]["name"] == "a & b" and len(part["supernodes"][0]["nodes"]) == 2
    assert "visible" not in part and page_html(part).startswith("<!doctype html>")


@needs_browser
@pytest.mark.browser
def test_a_slider_of_flow_is_the_threshold_of_the_routes(tab, tmp_path):
    document = flow_graph_document(cb.load("meadow"), "When Mary and John went to the store, John gave a drink to")
    opened(tab, document, tmp_path / "graph.html")
    counts = tab.evaluate(COUNTS)
    assert counts == within(document, 1, 1 - 0.04) and counts[1] < len(document["edges"]["weight"])
    assert "of weight 0.04 and more" in tab.evaluate("document.querySelectorAll('.graph-slider')[1].textContent")
    slide(tab, 1, 200)
    assert tab.evaluate(COUNTS) == [len(document["nodes"]["name"]), len(document["edges"]["weight"])]
    # shares have no sign, so nothing is said for or against the target
    assert tab.evaluate("document.querySelectorAll('.node-panel .bar.target, .node-panel .bar.foil').length") == 0


@needs_browser
@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
def test_hostile_texts_stand_in_cards_and_the_page_fits_a_phone(tab, tmp_path, dark):
    document = planted_graph(tokens=HOSTILE, n_nodes=len(HOSTILE) + 30, n_edges=150, target="</script><b>")
    tab.look(width=400, dark=dark)
    at = document["nodes"]["kind"].index("feature")
    opened(tab, document, tmp_path / "graph.html", f"#n=1&e=1&sel={at}&pin={at}")
    assert tab.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert tab.evaluate(CARD) == document["nodes"]["name"][at]
    assert tab.evaluate("document.querySelectorAll('main b b, main script').length") == 0
    tab.look(width=1280)


@needs_browser
@pytest.mark.browser
@pytest.mark.slow
def test_2000_nodes_and_20000_edges_stay_fluid(tab, tmp_path):
    opened(tab, planted_graph(2000, 20000, 26), tmp_path / "graph.html", "#n=1&e=1")
    time.sleep(0.5)
    assert tab.evaluate(COUNTS) == [2000, 20000]
    busy = tab.evaluate(
        "(async () => { const input = document.querySelectorAll('.graph-slider input')[0]; const all = [];"
        "for (const value of [199, 195, 190, 180, 199, 190]) { input.value = value; input.dispatchEvent(new Event('input'));"
        "const from = performance.now(); await new Promise(done => requestAnimationFrame(() => { all.push(performance.now() - from);"
        "requestAnimationFrame(done); })); } return all.sort((a, b) => a - b)[2]; })()"
    )
    assert busy < 1000, "a step of a slider answers; how fast is measured in the docs"
