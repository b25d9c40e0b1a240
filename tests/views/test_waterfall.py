"""Waterfalls: bars follow one another, sum to the whole, and say the same in the terminal and on the page."""

import io
from xml.etree import ElementTree

import numpy as np
import pytest
import xarray as xr
from rich.cells import cell_len
from rich.console import Console

from caseback.errors import CasebackError
from caseback.reports.tokens_text import visible
from caseback.reports.waterfall import waterfall
from caseback.views.figure.page import write_figure
from caseback.views.figure.waterfall import waterfall_figure
from caseback.views.text.bars import ASCII, UNICODE
from caseback.views.text.waterfall import print_waterfall, span_bar
from hostile import HOSTILE

VALUES = np.array([[1.0, 3.0], [-4.0, -2.0], [0.1, 0.1], [0.5, -0.5], [0.0, 0.0]])


def shares(values=VALUES, names=None):
    names = [f"L{i}H0" for i in range(len(values))] if names is None else names
    return xr.DataArray(values, dims=["component", "batch"], coords={"component": names})


def printed(drawn, width=90, **how):
    out = io.StringIO()
    print_waterfall(drawn, "Direct shares", Console(file=out, width=width, **how))
    return out.getvalue()


def test_bars_follow_one_another_to_the_whole():
    drawn = waterfall(shares())
    assert [bar.name for bar in drawn.bars] == [f"L{i}H0" for i in range(5)]
    assert [bar.value for bar in drawn.bars] == pytest.approx([2.0, -3.0, 0.1, 0.0, 0.0])
    assert [bar.start for bar in drawn.bars] == pytest.approx([0.0, 2.0, -1.0, -0.9, -0.9])
    assert drawn.bars[-1].end == pytest.approx(drawn.total) and drawn.total == pytest.approx(-0.9)
    assert [bar.spread for bar in drawn.bars] == pytest.approx([1.0, 1.0, 0.0, 0.5, 0.0]) and drawn.n == 2
    assert drawn.spread == pytest.approx(VALUES.sum(0).std()) and drawn.extent == pytest.approx((-1.0, 2.0))


def test_of_many_the_largest_come_first_and_the_rest_are_one():
    drawn = waterfall(shares(), top=2)
    assert [bar.name for bar in drawn.bars] == ["L1H0", "L0H0", "3 others"]
    # what cancels over prompts still varies
    assert drawn.bars[2].value == pytest.approx(0.1) and drawn.bars[2].spread == pytest.approx(0.5)
    assert drawn.bars[2].end == pytest.approx(drawn.total)


def test_a_single_prompt_has_no_spread_and_nothing_no_extent():
    drawn = waterfall(shares(VALUES[:, :1]).isel(batch=0))
    assert drawn.spread is None and all(bar.spread is None for bar in drawn.bars) and drawn.n == 1
    assert waterfall(shares(np.zeros((2, 1)))).extent == (0.0, 1.0)


def test_paths_through_heads_are_named_by_head_and_token():
    values = np.arange(8.0).reshape(1, 2, 2, 2)
    values[:, :, 1, 1] = np.nan
    one = xr.DataArray(values, dims=["layer", "head", "key", "batch"], coords={"layer": [3]})
    drawn = waterfall(one.assign_coords(token=(("batch", "key"), [["a", " b"], ["a", " b"]])))
    assert [bar.name for bar in drawn.bars] == ["L3H0 ← 0 a", "L3H0 ← 1 ␣b", "L3H1 ← 0 a", "L3H1 ← 1 ␣b"]
    assert [bar.value for bar in drawn.bars] == [0.5, 1.0, 4.5, 3.0]
    other = waterfall(one.assign_coords(token=(("batch", "key"), [["a", " b"], ["c", ""]])))
    assert other.bars[0].name == "L3H0 ← 0"


def test_the_terminal_says_every_number():
    out = printed(waterfall(shares(), top=2, whole="heads"))
    lines = out.splitlines()
    assert lines[0] == "Direct shares" and "± sd" in lines[1]
    for line, wanted in zip(
        lines[2:], (("L1H0", "−3.00", "1.00"), ("L0H0", "+2.00", "−1.00"), ("3 others", "+0.10")), strict=False
    ):
        assert all(text in line for text in wanted)
    assert "heads" in lines[-1] and "−0.90" in lines[-1]
    assert all(len(line) <= 90 for line in lines)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_hostile_names_and_narrow_plain_terminals(width):
    names = [f"L0H0 ← {i} {visible(text)}" for i, text in enumerate(HOSTILE)]
    drawn = waterfall(shares(np.ones((len(names), 1)), names), top=99)
    out = printed(drawn, width=width)
    assert len(out.splitlines()) == len(names) + 3 and "\x1b" not in out and "\u202e" not in out

    assert max(cell_len(line) for line in out.splitlines()) <= width


def test_a_bar_covers_its_part_of_the_axis():
    for start, end in ((0.0, 1.0), (1.0, -1.0), (-1.0, -0.99), (2.0, 2.0)):
        bar = span_bar(start, end, (-1.0, 2.0), 30, UNICODE, "").plain
        assert len(bar) == 30
        full = [i for i, c in enumerate(bar) if c == "█"]
        low, high = ((x + 1.0) * 10 for x in sorted((start, end)))
        assert full == list(range(full[0], full[-1] + 1))
        assert abs(full[0] - low) <= 1 and abs(full[-1] + 1 - max(high, full[0] + 1)) <= 1
    assert span_bar(0.0, 1.0, (-1.0, 1.0), 4, ASCII, "").plain == "  ##"


def test_the_page_has_the_same_bars_and_loads_nothing(tmp_path):
    drawn = waterfall(shares(names=["a", "</script><b>", "c", "d", "e"]), top=3)
    figure = waterfall_figure(drawn, title="why <s>?", value="logit of ␣Mary")
    tree = ElementTree.fromstring(figure.svg)
    of = {"{http://www.w3.org/2000/svg}" + name: name for name in ("rect", "line", "text")}
    bars = [e.attrib for e in tree if of.get(e.tag) == "rect"]
    assert [bar["class"] for bar in bars] == ["foil" if b.value < 0 else "target" for b in drawn.bars] + ["all-of-it"]
    # widths are as the shares, and each bar begins where the one above it ended
    wide = np.array([float(bar["width"]) for bar in bars])
    sizes = np.abs([*(bar.value for bar in drawn.bars), drawn.total])
    pixels = wide[sizes.argmax()] / sizes.max()
    assert np.allclose(wide, np.maximum(sizes * pixels, 1.0), atol=0.11)
    left = np.array([float(bar["x"]) for bar in bars])
    lower = np.array([*(min(bar.start, bar.end) for bar in drawn.bars), min(0.0, drawn.total)])
    assert np.allclose(left - left[0], (lower - lower[0]) * pixels, atol=0.11)
    said = [e.text or "" for e in tree if of.get(e.tag) == "text"]
    assert any(text.startswith("−3.00 ± 1.00") for text in said)
    page = write_figure(figure, tmp_path / "page.html").read_text()
    assert "<script src=" not in page and "</script><b>" not in page and "why &lt;s&gt;?" in page


def test_other_shapes_are_refused():
    with pytest.raises(CasebackError, match="a waterfall is of shares by"):
        waterfall(xr.DataArray(np.ones((2, 2)), dims=["layer", "head"]))
    with pytest.raises(CasebackError, match="top=0"):
        waterfall(shares(), top=0)
