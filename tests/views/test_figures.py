"""Figures say the numbers that they are of, load nothing, stay small, and are the same in every kind of file."""

import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.decomposition import PCA

import caseback as cb
import zoo
from caseback.errors import CasebackError, OutOfRange
from caseback.localize.inputs import gradient_x_input
from caseback.reports.figures.attention_maps import attention_of_layer, score_by_dimension
from caseback.reports.figures.circuit_parts import circuit_parts
from caseback.reports.figures.projection import principal_plane, umap_plane
from caseback.views.figure.figure import Figure
from figures_read import numbers_of
from hostile import HOSTILE

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def model():
    return cb.load("meadow")


def drawn_of_all_kinds(model, prompt):
    run = model.run(prompt, read=["pattern", "q", "k"])
    n = run.tokens.shape[1]
    maps = xr.DataArray(np.random.default_rng(0).normal(size=(30, n)), dims=["layer", "pos"])
    lens = cb.decode.vocabulary.logit_lens(model, prompt, targets=[" Mary"])
    yield cb.views.attention(run, layer=1, query=-1, key=0)
    yield cb.views.heatmap(maps)
    yield cb.views.lens(lens)
    yield cb.views.tokens(np.linspace(-1, 1, n), run.tokens.text[0])
    yield cb.views.projection(torch.randn(n, 8))
    yield cb.views.graph(cb.Circuit.of("embed -> L0H1.v", "L0H1 -> logits"))


def test_every_figure_is_small_loads_nothing_and_is_well_formed(model):
    prompt = "Mary and John went to the store. " * 8
    assert model.tokens([prompt]).shape[1] >= 64
    for figure in drawn_of_all_kinds(model, prompt):
        assert len(figure.html) < 200_000
        assert not re.search(
            r"(?:src|href)=['\"](?!data:)|https?://(?!www\.w3\.org/2000/svg)|@import|url\(", figure.html
        )
        assert ElementTree.fromstring(figure.svg).tag == SVG + "svg"
        assert "cb-title" not in re.sub(r"(?s)<style>.*?</style>", "", figure.html), "no figure needs a title"
        assert figure.data is not None and figure._repr_html_() == figure.html
        assert figure.question.endswith("?"), "its page has a heading"


@pytest.mark.parametrize("end", [".html", ".svg"])
def test_a_figure_is_saved_by_its_files_end(tmp_path, end):
    figure = Figure("<rect width='9' height='9'/>", 9, 9, title="a <b>")
    text = figure.save(tmp_path / f"figure{end}").read_text("utf-8")
    assert "<rect width='9' height='9'/>" in text and "<b>" not in text
    with pytest.raises(CasebackError, match="saved as .html, .svg or .png"):
        figure.save(tmp_path / "figure.jpg")
    with pytest.raises(CasebackError, match="no folder"):
        figure.save(tmp_path / "none" / f"figure{end}")


def test_a_png_is_light_and_has_no_variable_of_css_left(tmp_path):
    resvg_py = pytest.importorskip("resvg_py", reason="PNG files are drawn by the extra 'png'")
    figure = cb.views.heatmap(xr.DataArray([[1.0, -1.0]], dims=["layer", "head"]))
    assert figure.save(tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and resvg_py
    assert int.from_bytes(figure.png(3.0)[16:20], "big") == pytest.approx(3 * figure.width, abs=2)
    with pytest.raises(CasebackError, match="scale=0"):
        figure.png(0)


def test_without_its_package_a_png_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(CasebackError, match=r"caseback\[png\]"):
        Figure("", 9, 9).png()


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "gpt_neox", "gemma2"])
def test_a_scores_split_sums_to_what_attention_is_made_of(family):
    model = cb.load(zoo.tiny(family))
    run = model.run([[1, 2, 3, 4, 5, 6], [7, 8, 9]], read=["q", "k", "pattern"])
    q, k = run["q", 1], run["k", 1]
    for head in range(q.shape[2]):
        shared = head * k.shape[2] // q.shape[2]
        products = []
        for key in range(3):
            split = score_by_dimension(run, 1, head, query=2, key=key, batch=1)
            at = run.tokens.mask[1].nonzero()[:, 0]
            expected = float(q[1, at[2], head].double() @ k[1, at[key], shared].double())
            assert float(split.sum()) == pytest.approx(expected, abs=1e-9)
            products.append(expected)
        if family in ("gpt2", "llama", "qwen3", "gpt_neox"):
            # log attention is q · k times the family's scale, up to a constant: differences have one ratio
            pattern = attention_of_layer(run, 1, batch=1).values[head, 2].astype(float)
            ratio = np.diff(np.log(pattern)) / np.diff(products)
            assert ratio == pytest.approx([q.shape[-1] ** -0.5] * 2, rel=1e-3)


def test_attention_holds_the_runs_own_numbers_without_padding(model):
    run = model.run(["the cat and the dog", "Mary went"], read=["pattern"])
    figure = cb.views.attention(run, layer=2, head=3, batch=1)
    (grid,) = figure.maps
    n = len(run.tokens.text[1])
    assert grid["cols"] == [f"{i} {t.replace(' ', '␣')}" for i, t in enumerate(run.tokens.text[1])]
    assert [one["name"] for one in grid["shown"]][0] == "L2H3" and len(grid["shown"]) == model.n_heads
    real = run.tokens.mask[1]
    for one in grid["shown"]:
        expected = run["pattern", 2][1, int(one["name"][-1])][real][:, real].numpy()
        np.testing.assert_allclose(numbers_of(one).reshape(n, n), expected, atol=2e-5)
    assert figure.drawn.count("data-choose=") == model.n_heads


def test_attention_that_was_not_read_is_asked_for(model):
    run = model.run("the cat", read=["resid_post", ("pattern", 0)])
    with pytest.raises(CasebackError, match=r"read=\['pattern'\]"):
        cb.views.attention(run, layer=1)
    with pytest.raises(CasebackError, match=r"read=\['q', 'k'\]"):
        cb.views.attention(run, layer=0, query=0, key=0)
    for wrong in ({"layer": 9}, {"layer": 0, "head": 9}, {"layer": 0, "batch": 1}, {"layer": 0, "query": 1}):
        with pytest.raises(OutOfRange):
            cb.views.attention(run, **wrong)


def test_tokens_are_escaped_and_their_colors_follow_the_sign():
    texts = [*HOSTILE, "a", "b"]
    scores = [0.0] * len(HOSTILE) + [2.0, -1.0]
    figure = cb.views.tokens(scores, texts)
    tree = ElementTree.fromstring(figure.svg)
    boxes = [e for e in tree if e.tag == SVG + "rect" and e.get("rx") == "3"]
    assert [e.get("class") for e in boxes[-2:]] == ["target", "foil"]
    assert [float(e.get("fill-opacity")) for e in boxes[-2:]] == pytest.approx([0.6, 0.3])
    assert len(boxes) == len(texts) and "\u202e" not in figure.html and "<script>" not in figure.svg
    np.testing.assert_allclose(numbers_of(figure.maps[0]["shown"][0]), scores, atol=1e-4)


@pytest.mark.parametrize(
    ("scores", "texts", "words"),
    [
        ([1.0], None, "say no tokens"),
        ([1.0], ["a", "b"], "one for each"),
        (["x"], ["a"], "no numbers"),
        ([float("nan")], ["a"], "no score"),
    ],
)
def test_scores_that_are_not_of_tokens_are_refused(scores, texts, words):
    with pytest.raises(CasebackError, match=words):
        cb.views.tokens(scores, texts)


def test_the_plane_is_that_of_scikit_learn():
    x = np.random.default_rng(1).normal(size=(40, 7)) * np.arange(1, 8)
    plane, fitted = principal_plane(x), PCA(2).fit(x)
    assert plane.attrs["variance_kept"] == pytest.approx(fitted.explained_variance_ratio_.tolist())
    np.testing.assert_allclose(np.abs(plane.coordinate.values), np.abs(fitted.transform(x)), atol=1e-9)


def test_a_planted_plane_keeps_more_than_its_shuffled_states_and_noise_does_not():
    draw = np.random.default_rng(0)
    plane = draw.normal(size=(200, 2)) @ draw.normal(size=(2, 20)) + 0.05 * draw.normal(size=(200, 20))
    attrs = principal_plane(plane).attrs
    # columns shuffled apart have a diagonal covariance: the two largest variances, and what 200 draws add to them
    # (at most a factor of (1 + sqrt(columns / rows))^2, by Marchenko and Pastur)
    shares = np.sort(plane.var(0))[-2:].sum() / plane.var(0).sum()
    assert sum(attrs["variance_kept"]) > 0.98
    assert shares < sum(attrs["variance_kept_by_control"]) < shares * (1 + (20 / 200) ** 0.5) ** 2
    attrs = principal_plane(draw.normal(size=(200, 20))).attrs
    assert sum(attrs["variance_kept"]) == pytest.approx(sum(attrs["variance_kept_by_control"]), abs=0.04)


class InPlace:
    """Stands in for ``umap.UMAP``: the first two numbers of each state."""

    def __init__(self, **options):
        assert options == {"n_neighbors": 5, "random_state": 0, "n_jobs": 1}

    def fit_transform(self, x):
        return x[:, :2].astype(np.float32)


def test_umap_is_drawn_beside_shuffled_states_with_the_neighbors_that_each_keeps(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=InPlace))
    draw = np.random.default_rng(0)
    flat = np.hstack([draw.normal(size=(60, 2)), 1e-6 * draw.normal(size=(60, 6))])
    figure = cb.views.projection(flat, method="umap", neighbors=5)
    assert figure.data.attrs["neighbors_kept"] == figure.data.attrs["neighbors_kept_by_control"] == 1
    assert "100% of each one's 5 nearest are so here" in figure.svg.replace("&#x27;", "'")
    noise = draw.normal(size=(60, 8))
    plane = umap_plane(noise, neighbors=5)
    distances = [((rows[:, None] - rows[None]) ** 2).sum(-1) for rows in (noise, noise[:, :2])]
    for one in distances:
        np.fill_diagonal(one, np.inf)
    nearest = [one.argsort(1)[:, :5] for one in distances]
    shares = [len(set(a) & set(b)) / 5 for a, b in zip(*nearest, strict=True)]
    assert plane.attrs["neighbors_kept"] == pytest.approx(np.mean(shares))
    np.testing.assert_allclose(plane.coordinate, noise[:, :2], rtol=1e-6)


def test_without_umap_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(CasebackError, match=r"pip install 'caseback\[umap\]'"):
        cb.views.projection(np.random.default_rng(0).normal(size=(20, 4)), method="umap")
    with pytest.raises(OutOfRange, match="fewer than there are states"):
        cb.views.projection(np.eye(4), method="umap")


def test_umap_itself_keeps_more_of_a_planted_plane_than_of_its_shuffled_states():
    pytest.importorskip("umap", reason="needs umap-learn")
    draw = np.random.default_rng(0)
    states = draw.normal(size=(150, 2)) @ draw.normal(size=(2, 20)) + 0.05 * draw.normal(size=(150, 20))
    plane = umap_plane(states, neighbors=10)
    assert plane.identical(umap_plane(states, neighbors=10))
    assert plane.attrs["neighbors_kept"] > 1.5 * plane.attrs["neighbors_kept_by_control"] > 1.5 * 10 / 149


@pytest.mark.parametrize("bad", [np.zeros((5, 4)), np.full((5, 4), np.nan), np.zeros((2, 4)), "abc", [[1, 2], [3]]])
def test_states_without_a_plane_are_refused(bad):
    with pytest.raises(CasebackError):
        cb.views.projection(bad)


@pytest.mark.parametrize(("direction", "sign"), [("denoising", 1), ("noising", -1)])
def test_a_graph_has_every_member_with_its_sign(direction, sign):
    circuit = cb.Circuit.of("embed -> L0H1.v", "L0H1 -> logits", "MLP 2@end -> logits", direction=direction)
    first, second, third = sorted(circuit.edges, key=str)
    circuit = replace(circuit, scores={first: 1.0, second: -2.0})
    parts = circuit_parts(circuit)
    assert parts.rows == [["embed"], ["L0H1"], ["MLP 2@end"], ["logits"]]
    assert {edge[3] for edge in parts.edges} == {sign * 1.0, sign * -2.0, None}
    tree = ElementTree.fromstring(cb.views.graph(circuit).svg)
    links = {e[0].text: e.get("class") for e in tree if e.tag == SVG + "path"}
    orange, blue = ("target", "foil") if sign > 0 else ("foil", "target")
    assert links == {
        f"{first}: {'+' if sign > 0 else '−'}1.00": f"link {orange}",
        f"{second}: {'−' if sign > 0 else '+'}2.00": f"link {blue}",
        str(third): "link plain",
    }
    heights = {e.text: float(e.get("y")) for e in tree if e.tag == SVG + "text"}
    assert heights["embed"] > heights["L0H1"] > heights["MLP 2@end"] > heights["logits"]
    with pytest.raises(CasebackError, match="0 nodes"):
        cb.views.graph(cb.Circuit())


def test_importing_caseback_imports_no_view():
    code = "import sys, caseback; import caseback.model.running.model; print([m for m in sys.modules if '.views' in m])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_png_has_the_colors_of_target_and_foil():
    """What draws it knows no ``:not()``: a rule that has one would leave what it colors black."""
    figure = cb.views.tokens([1.0, -2.0], texts=["a", "b"])
    sheet = figure.svg.partition("<style>")[2].partition("</style>")[0]
    rules = [rule for rule in sheet.split("}") if re.search(r"\.cb-svg (?:path)?\.(?:target|foil)", rule)]
    assert len(rules) >= 2 and not [rule for rule in rules if ":not" in rule]


def test_a_figure_of_one_prompt_among_several_says_which():
    model = cb.load("meadow")
    both = ["Mary went to the store", "John went"]
    scores = gradient_x_input(model, both, cb.logit(" and"))
    assert cb.views.tokens(scores, batch=1).caption == "Prompt 1 of 2."
    assert cb.show(scores).title == "Prompt 0 of 2."
    run = model.run(both, read=["pattern", "q", "k"])
    figure = cb.views.attention(run, layer=0, query=0, key=1)
    assert figure.caption == "Prompt 0 of 2." and "the mask hides this key" in figure.drawn
    assert cb.views.attention(model.run(both[0], read=["pattern"]), layer=0).caption == ""


def test_infinite_numbers_have_no_map_and_large_arrays_are_said_in_words():
    with pytest.raises(CasebackError, match="infinite"):
        cb.show(np.array([[1.0, np.inf]]))
    assert type(cb.show(np.zeros((2000, 2000)))).__name__ == "Cell"
