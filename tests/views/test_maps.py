"""A result as a map, in the terminal and on a page: the same numbers, labels that can be seen, nothing loaded."""

import io
import json
import re

import numpy as np
import pytest
import xarray as xr
from rich.cells import cell_len
from rich.console import Console

from caseback.errors import CasebackError
from caseback.reports.maps import as_map
from caseback.reports.result_json import result_json
from caseback.views.figure.heatmap import heatmap
from caseback.views.figure.page import write_figure
from caseback.views.figure.shades import FOIL, TARGET, image_of, packed_numbers
from caseback.views.text.heatmap import print_map
from figures_read import numbers_of, pixels_of


def result(texts=(" a", " b", " c"), layers=4, batch=1, seed=0):
    values = np.random.default_rng(seed).normal(size=(layers, len(texts), batch))
    token = (("batch", "pos"), np.array([list(texts)] * batch))
    coords = {"layer": range(layers), "pos": range(len(texts)), "token": token}
    return xr.DataArray(values, dims=["layer", "pos", "batch"], coords=coords, name="effect")


def printed(drawn, width=80, **options):
    file = io.StringIO()
    print_map(drawn, "Title", Console(file=file, width=width, **options), top=3)
    return file.getvalue()


def test_prompts_are_averaged_with_their_spread_and_missing_parts_left_out():
    many = result(batch=3)
    many[1, 2, 0] = np.nan
    many[2, 2, :] = np.nan
    drawn = as_map(many)
    np.testing.assert_allclose(drawn.values[0], many[0].mean("batch"))
    np.testing.assert_allclose(drawn.spread[0], many[0].std("batch"))
    np.testing.assert_allclose(drawn.values[1, 2], many.values[1, 2, 1:].mean())
    assert np.isnan(drawn.values[2, 2]) and drawn.n == 3
    assert as_map(result()).spread is None


def test_labels_show_whitespace_and_both_tokens_where_the_pair_differs():
    one = result().rename(token="clean_token")
    one = one.assign_coords(corrupt_token=(("batch", "pos"), [[" a", "\n", " c"]]))
    assert as_map(one).columns.labels == ["0 ␣a", "1 ␣b | ↵", "2 ␣c"]
    two = result(batch=2)
    two = two.assign_coords(token=(("batch", "pos"), [[" a", " b", " c"], [" x", " b", " c"]]))
    assert as_map(two).columns.labels == ["0", "1", "2"]  # no label that is only one prompt's


def test_three_dimensions_join_the_first_two():
    values = xr.DataArray(np.zeros((2, 3, 4, 1)), dims=["layer", "head", "pos", "batch"])
    drawn = as_map(values.assign_coords(layer=[0, 1], head=range(3), pos=range(4)))
    assert drawn.rows.labels == ["L0H0", "L0H1", "L0H2", "L1H0", "L1H1", "L1H2"] and len(drawn.columns.labels) == 4
    with pytest.raises(CasebackError, match="1 to 3 dimensions"):
        as_map(xr.DataArray(np.zeros((1,) * 5), dims=["layer", "head", "query", "key", "batch"]))


def test_the_terminal_says_numbers_with_layer_0_at_the_bottom():
    one = result(layers=3)
    one.values[:, :, 0] = [[2.0, -1.0, 0.0], [0.05, -0.62, np.nan], [0.2, 1.31, -2e-3]]
    text = printed(as_map(one))
    rows = [line.split() for line in text.splitlines()[2:5]]
    assert rows == [["2", "+0.20", "+1.31", "·"], ["1", "+0.05", "−0.62"], ["0", "+2.00", "−1.00", "0"]]
    assert "· rounds to 0.00" in text
    largest = text[text.index(" largest") :]
    assert re.findall(r"[+−][\d.]+", largest) == ["+2.00", "+1.31", "−1.00"]


@pytest.mark.parametrize(
    ("most", "shown"), [(312.4, "+312"), (31.24, "+31.2"), (3.124, "+3.12"), (0.003124, "+0.0031")]
)
def test_cells_have_as_many_digits_as_the_largest_needs(most, shown):
    one = result((" a", " b"), layers=1)
    one.values[:, :, 0] = [[most, -most / 2]]
    cells = printed(as_map(one)).splitlines()[2].split()
    assert cells[1] == shown and len(cells[2]) >= len(shown) - 1


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("many", [False, True])
def test_every_line_fits_whatever_the_tokens(width, many, hostile):
    texts = [" word"] * 40 if many else [token["text"] for token in hostile["tokens"]]
    for layers in (4, 48):
        text = printed(as_map(result(texts, layers)), width)
        assert max(cell_len(line.rstrip()) for line in text.splitlines()) <= width
        assert "\x1b" not in text and "\u202e" not in text
    assert printed(as_map(result([" a"], 2)), no_color=True)


def test_without_unicode_the_map_is_ascii():
    class Ascii(io.StringIO):
        encoding = "ascii"

    file = Ascii()
    print_map(as_map(result()), "Title ·", Console(file=file, width=80), top=2)
    assert file.getvalue().isascii() and re.search(r"-\d\.\d\d", file.getvalue())


def test_an_image_has_the_sign_and_the_size_of_each_number():
    values = np.array([[2.0, -2.0, 0.0, 1.0], [np.nan, 5.0, -0.5, -9.0]])
    index, palette, alpha = pixels_of(image_of(values, 2.0, signed=True))
    assert index.tolist() == [[255, 1, 128, 192], [0, 255, 96, 1]]
    assert tuple(palette[255]) == TARGET and tuple(palette[1]) == FOIL
    assert (alpha[255], alpha[1], alpha[128]) == (255, 255, 0) and 0 < alpha[0] < 80
    index, _, alpha = pixels_of(image_of(values, 2.0, opaque=0.5))
    assert index.tolist() == [[255, 1, 1, 128], [0, 255, 1, 1]] and alpha[255] == 128
    with pytest.raises(CasebackError, match="rows and columns"):
        image_of(np.zeros(3), 1.0)


def test_packed_numbers_come_back():
    values = np.random.default_rng(0).normal(size=(3, 5)) * 1e-7
    values[1, 1] = np.nan
    np.testing.assert_allclose(numbers_of(packed_numbers(values)), values.ravel(), atol=np.nanmax(np.abs(values)) / 6e4)
    assert numbers_of(packed_numbers(np.zeros(2))).tolist() == [0.0, 0.0]


def test_the_page_holds_the_numbers_and_loads_nothing(tmp_path, hostile):
    one = result([token["text"] for token in hostile["tokens"]])
    one.values[1, 3, 0] = np.nan
    drawn = as_map(one)
    figure = heatmap({"first": drawn, "second": drawn}, title="<b>&", value="effect")
    assert len(figure.maps) == 2 and figure.maps[0]["rows"] == drawn.rows.labels and figure.maps[0]["up"]
    read = numbers_of(figure.maps[0]["shown"][0]).reshape(drawn.values.shape)
    np.testing.assert_allclose(read, drawn.values, atol=drawn.largest / 6e4)
    page = write_figure(figure, tmp_path / "map.html", prompt="a\ud800<i>").read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=", page) and "<b>&" not in page and "<i>" not in page
    assert page.count("</script>") == page.count("<script") and "\u202e" not in page
    assert [p.name for p in tmp_path.iterdir()] == ["map.html"]
    with pytest.raises(CasebackError, match="there is no folder"):
        write_figure(figure, tmp_path / "none" / "map.html")
    with pytest.raises(CasebackError, match="no map given"):
        heatmap({}, title="", value="")


def test_the_image_is_the_map_with_layer_0_at_the_bottom():
    one = result(layers=3)
    figure = heatmap(one)
    address = re.findall(r"href='(data:[^']+)'", figure.drawn)[1]
    index, _, _ = pixels_of(address)
    values = one.values[..., 0]
    assert index[::-1].tolist() == (128 + np.rint(127 * values / np.abs(values).max())).astype(int).tolist()


def test_a_map_without_a_sign_has_one_color_and_no_number_below_zero():
    one = abs(result(layers=3))
    figure = heatmap(one, value="entropy", signed=False)
    index, palette, _ = pixels_of(re.findall(r"href='(data:[^']+)'", figure.drawn)[1])
    values = one.values[..., 0]
    assert index[::-1].tolist() == (1 + np.rint(254 * values / values.max())).astype(int).tolist()
    assert {tuple(color) for color in palette} & {TARGET, FOIL} == set() and figure.maps[0]["shown"][0]["kind"] == ""
    with pytest.raises(CasebackError, match="begins at 0"):
        heatmap(-one, signed=False)


def test_json_holds_everything_and_no_nan():
    one = result()
    one.values[0, 0, 0] = np.nan
    told = json.loads(json.dumps(result_json(one), allow_nan=False))
    assert told["data_vars"]["effect"]["data"][0][0] == [None]
    assert told["coords"]["token"]["data"] == [[" a", " b", " c"]]
