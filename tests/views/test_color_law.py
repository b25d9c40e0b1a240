"""One law in all views: orange supports the target, blue the foil; layers run upwards, the first one at the bottom.

Colors are told apart by their hue, from what each view really draws, never from the constants it draws with.
"""

import base64
import colorsys
import io
import re
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from page_data import page_data
from rich.console import Console

import caseback as cb
from caseback.decode.vocabulary import logit_lens
from caseback.reports.circuit import circuit_document
from caseback.reports.maps import as_map
from caseback.reports.waterfall import waterfall
from caseback.views import text as text_views
from caseback.views.figure.curves import N_LINES
from caseback.views.figure.heatmap import heatmap
from caseback.views.figure.lens_grid import lens_grid
from caseback.views.figure.shades import FOIL, TARGET, image_of
from caseback.views.figure.waterfall import waterfall_figure
from caseback.views.page.circuit import circuit_html
from caseback.views.text.attributions import shade
from caseback.views.text.examples import examples_text
from caseback.views.text.explanation import explanation_tables
from caseback.views.text.heatmap import map_text, ranked_text
from caseback.views.text.lens import print_lens
from caseback.views.text.waterfall import waterfall_text
from figures_read import pixels_of

FRONTEND = Path(__file__).parents[2] / "frontend" / "src"


def side(color):
    """1 for an orange, -1 for a blue, by hue."""
    red, green, blue = (int(color.lstrip("#")[i : i + 2], 16) / 255 for i in (0, 2, 4))
    hue = 360 * colorsys.rgb_to_hsv(red, green, blue)[0]
    assert 15 <= hue <= 45 or 195 <= hue <= 225, f"{color} is neither orange nor blue"
    return 1 if hue <= 45 else -1


def colored(renderable):
    """(text, color) of every colored piece of a terminal view, as it is sent to a terminal."""
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system="truecolor")
    segments = [segment for segment in console.render(renderable) if segment.style is not None]
    looks = [(s.text, s.style.bgcolor or s.style.color) for s in segments if s.text.strip()]
    return [(text, color.get_truecolor().hex) for text, color in looks if color is not None]


def both(*numbers):
    """A result of two layers and two heads."""
    return xr.DataArray([list(numbers[:2]), list(numbers[2:])], dims=["layer", "head"], coords={"layer": [0, 1]})


def examples():
    coords = {"line": ("rank", [3, 4]), "piece": ("rank", [0, 0]), "text": ("rank", ["a", "b"])}
    return examples_text(xr.Dataset({"score": ("rank", [2.0, -1.0])}, coords=coords))


BARS = {
    "ranked": lambda: ranked_text(as_map(both(2.0, -1.5, 0.0, 0.0)), 2),
    "examples": examples,
    "waterfall": lambda: waterfall_text(waterfall(xr.DataArray([2.0, -1.0], dims=["component"])), width=80),
}


@pytest.mark.parametrize("view", BARS)
def test_bars_of_terminal_views(view):
    table = BARS[view]()
    sides = [side(color) for text, color in colored(table) if set(text) & set("█▌▐") and color]
    # a waterfall draws its bars cell by cell
    assert [of_bar for of_bar, _ in groupby(sides)] == [1, -1]


def test_cells_of_terminal_maps():
    table = map_text(as_map(both(2.0, -1.5, -2.0, 1.2)))[0]
    cells = colored(table)
    assert len(cells) == 4
    for text, color in cells:
        assert side(color) == (1 if text.strip().startswith("+") else -1)


def test_shades_of_tokens():
    for share in (0.1, 0.5, 1.0):
        assert [side(shade(x).rpartition(" ")[2]) for x in (share, -share)] == [1, -1]


def bars_with_numbers(table):
    """(color of the bar, number beside it) of each row of a terminal view."""
    rows = []
    for line in Console(file=io.StringIO(), width=100, color_system="truecolor").render_lines(table):
        for i, piece in enumerate(line):
            color = piece.style.color if piece.style else None
            if set(piece.text) & set("█▌▐") and color is not None:
                number = re.search(r"([+−])[\d.]+", "".join(after.text for after in line[i + 1 :]))
                rows += [(color.get_truecolor().hex, number[1])] if number else []
    return rows


def test_bars_of_the_explanation(explanation):
    parts = explanation_tables(explanation, width=100)
    inputs = next(i for i, part in enumerate(parts) if "Which inputs" in getattr(part, "plain", ""))
    shown = bars_with_numbers(parts[inputs + 1])
    assert {sign for _, sign in shown} == {"+", "−"}
    assert all(side(color) == (1 if sign == "+" else -1) for color, sign in shown)
    title = [side(color) for text, color in colored(parts[0]) if text.strip("␣ ") in ("Mary", "John")]
    assert title == [1, -1], "the target is orange, the foil blue"


def test_no_terminal_view_has_colors_of_its_own():
    """Signed numbers take their colors from the one place that has them; green and red mean held and failed alone."""
    folder = Path(text_views.__file__).parent
    literal = re.compile(r'"(#[0-9a-f]{6}|red|blue|orange)"')
    named = {file.name: literal.findall(file.read_text("utf-8")) for file in folder.glob("*.py")}
    assert {name: colors for name, colors in named.items() if colors and name != "colors.py"} == {}
    assert [side(color) for color in named["colors.py"]] == [1, -1]


def test_figures():
    assert [side("#{:02x}{:02x}{:02x}".format(*color)) for color in (TARGET, FOIL)] == [1, -1]
    index = base64.b64decode(image_of(np.array([[1.0, -1.0]]), 1.0, signed=True).partition(",")[2])
    palette = index[index.index(b"PLTE") + 4 :]
    assert [tuple(palette[3 * i : 3 * i + 3]) for i in (255, 1)] == [TARGET, FOIL]
    drawn = waterfall_figure(waterfall(xr.DataArray([2.0, -1.0], dims=["component"]))).drawn
    assert re.findall(r"class='(target|foil)'", drawn) == ["target", "foil"]


def test_pages():
    """The kit has one pair of colors a theme, and what is positive takes the target's in every script."""
    sheet = (FRONTEND / "kit" / "colors.css").read_text("utf-8")
    for name, expected in (("target", 1), ("foil", -1)):
        colors = re.findall(rf"--{name}: (#[0-9a-f]{{6}})", sheet)
        assert len(colors) == 2 and {side(color) for color in colors} == {expected}
    scripts = [file.read_text("utf-8") for file in FRONTEND.rglob("*.js")]
    choice = re.compile(r'([<>]) 0 \? "(?:var\(--)?(target|foil)\)?" : "(?:var\(--)?(target|foil)\)?"')
    chosen = [kinds for text in scripts for kinds in choice.findall(text)]
    assert len(chosen) >= 6
    for sign, then, otherwise in chosen:
        assert (then, otherwise) == (("foil", "target") if sign == "<" else ("target", "foil"))


def test_layers_run_upwards_in_terminal_maps():
    drawn = as_map(both(1.0, 0.5, -1.0, -0.5))
    for each in (drawn, as_map(both(1.0, 0.5, -1.0, -0.5).expand_dims(pos=[0, 1], axis=2))):
        labels = [cell.plain for cell in map_text(each)[0].columns[0]._cells]
        order = [int(re.search(r"\d+", label)[0]) for label in labels]
        assert len(order) >= 2 and order == sorted(order, reverse=True), labels


def test_layers_stay_rows_where_columns_are_tokens():
    values = xr.DataArray(np.eye(2), dims=["layer", "pos"], coords={"layer": [0, 1], "pos": [0, 1]})
    labels = [cell.plain for cell in map_text(as_map(values))[0].columns[0]._cells]
    assert labels == ["1", "0"]


def test_layers_run_upwards_in_lenses_and_the_embedding_has_no_shade():
    lens = logit_lens(cb.load("meadow"), "the cat and", targets=" the", k=2)
    file = io.StringIO()
    print_lens(lens, "lens", Console(file=file, width=100))
    first = [line.split()[0] for line in file.getvalue().splitlines() if re.match(r"(\d+|embed) ", line)]
    assert first[:5] == ["3", "2", "1", "0", "embed"]
    figure = lens_grid(lens)
    assert figure.maps[0]["up"] and figure.maps[0]["rows"][0] == "embed"
    shades = re.findall(r"data-mode='\d+'.*?href='(data:[^']+)'", figure.drawn)
    assert len(shades) == len(figure.modes) == 6
    for address in shades:
        index, _, _ = pixels_of(address)
        # the lowest row is the embedding's: 1 is no shade, 0 no number
        assert set(index[-1].tolist()) <= {0, 1} and (index[:-1] > 1).any()
    assert "␣the" in figure.drawn, "the cells still say what stands there"


def test_layers_run_upwards_in_figures():
    assert heatmap(both(1.0, 0.5, -1.0, -0.5)).maps[0]["up"]
    joined = both(1.0, 0.5, -1.0, -0.5).expand_dims(pos=[0, 1], axis=2)
    assert heatmap(joined).maps[0]["up"]
    single = xr.DataArray([1.0, 2.0], dims=["component"], coords={"component": ["a", "b"]})
    assert not heatmap(single).maps[0]["up"]


@pytest.mark.parametrize(("direction", "supports"), [("noising", -1), ("denoising", 1), (None, 1)])
def test_edges_that_support_the_answer_are_orange_on_the_page(direction, supports):
    """Under noising an edge counts for the answer where cutting it lowers the metric: its score is negative."""
    about = {} if direction is None else {"direction": direction}
    circuit = replace(cb.Circuit.of("embed -> L0H1.v", "L0H1 -> logits"), about=about)
    page = circuit_html(circuit_document(cb.load("meadow"), "Mary gave the ball to", circuit))
    assert page_data(page)["supports"] == supports
    for script in ("graph", "node_panel"):
        text = (FRONTEND / "circuit" / f"{script}.js").read_text("utf-8")
        assert 'edge.score * doc.supports < 0 ? "foil" : "target"' in text


SIGNED_CLASSES = {"target": 1, "foil": -1}


def rules(sheet):
    """(selector, body) of each rule of a style sheet, those within a media query included."""
    plain = re.sub(r"/\*.*?\*/", "", sheet, flags=re.DOTALL)
    return [(selector.strip(), body) for selector, body in re.findall(r"([^{};]+)\{([^{}]*)\}", plain)]


def looks_signed(color):
    """1 or -1 for a color that a reader would take for the target's or the foil's; 0 for another."""
    red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    hue, saturation, _ = colorsys.rgb_to_hsv(red, green, blue)
    # grays of any hue are no color
    return 0 if saturation < 0.3 else 1 if 15 <= 360 * hue <= 45 else -1 if 195 <= 360 * hue <= 225 else 0


@pytest.mark.parametrize("sheet", sorted(FRONTEND.rglob("*.css")), ids=lambda path: path.name)
def test_page_styles_give_the_signed_colors_to_target_and_foil_alone(sheet):
    declared = 0
    for selector, body in rules(sheet.read_text("utf-8")):
        named = re.findall(r"[.-](target|foil)\b", selector)
        for used in re.findall(r"var\(--(target|foil)", body):
            assert named == [used], f"{selector} takes the color of the {used}"
        for property_name, color in re.findall(r"([\w-]+):[^;]*?(#[0-9a-f]{6})\b", body):
            expected = next((s for name, s in SIGNED_CLASSES.items() if property_name.startswith(f"--{name}")), 0)
            assert looks_signed(color) in (expected, 0), f"{property_name}: {color} of {selector}"
            declared += expected != 0
    assert declared >= 4 * (sheet.name == "colors.css")


def test_scripts_color_by_sign_or_name_the_target_and_the_foil():
    """A class ``target`` or ``foil`` stands where a sign was asked for, or on the token that is the target or the foil."""
    sign = r'[<>] 0 \? "(?:var\(--)?(?:target|foil)\)?" : "(?:var\(--)?(?:target|foil)\)?"'
    chip = r"tokenChip\((?:target|foil|doc\.)[^()]*\)"  # the target or the foil itself
    swatch = r'swatch\("(?:target|foil)", score\(-?1\)\)'  # the legend of what a sign chose
    token = r'(?:token\.id === doc\.(?:target|foil)\??\.id|row\.text === state\.(?:target|foil)) \? "(?:target|foil)"'
    answer = r'class: "chip target" \}, tokenText\(doc\.predictions\[0\]'  # what the circuit is of
    end = r'edgeList\(\w+, "target"\)'  # the far end of an edge, no class
    allowed = re.compile("|".join((sign, chip, swatch, token, answer, end)))
    as_class = re.compile(
        r'(?:class: [`"]|var\(--|\? "| : "|, ")(?:(?:bar|edge|chip|token) )?(?:target|foil)(?: \w+)?[`")]'
    )
    for script in FRONTEND.rglob("*.js"):
        for line in script.read_text("utf-8").splitlines():
            assert not as_class.search(allowed.sub("", line)), f"{script.name}: {line.strip()}"


def test_lines_without_a_sign_have_other_hues():
    sheet = (FRONTEND / "pages" / "figure.css").read_text("utf-8")
    used = re.findall(r"\.trend\.l\d \{ stroke: var\((--[\w-]+)\)", sheet)
    assert len(used) == len(set(used)) == N_LINES
    for name in used:
        for pair in re.findall(rf"{name}: ([^;]+);", sheet):
            assert [looks_signed(color) for color in re.findall("#[0-9a-f]{6}", pair)] in ([0], [0, 0]), name
