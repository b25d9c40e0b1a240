import io
import re

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from caseback.errors import CasebackError
from caseback.reports.tokens_text import visible
from caseback.views.text.bars import ASCII, UNICODE, share_bar, signed_bar
from caseback.views.text.explanation import print_explanation


def printed(explanation, width=80, **options):
    file = io.StringIO()
    print_explanation(explanation, Console(file=file, width=width, **options))
    return file.getvalue()


def rows_after(text, heading):
    """The lines from a heading to the next empty line."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(heading))
    stop = next((i for i in range(start, len(lines)) if not lines[i].strip()), len(lines))
    return lines[start + 1 : stop]


@pytest.mark.parametrize("width", [80, 100, 160])
@pytest.mark.parametrize("which", ["explanation", "hostile"])
def test_every_line_fits(request, which, width):
    text = printed(request.getfixturevalue(which), width)
    widest = max(cell_len(line.rstrip()) for line in text.splitlines())
    assert widest <= width
    assert "FAILED" in text and "rank correlation of direct and ablated" in re.sub(r"\s+", " ", text)


def test_at_80_columns_no_number_is_cut(explanation):
    explanation["lens"]["target_rank"][0][-1] = 151_936
    explanation["target"]["text"] = " Washington"
    text = printed(explanation)
    *_, row, _ = rows_after(text, "What each layer already knew")
    assert "151936" in row and "…" not in row
    assert "␣Wash" in text


def test_the_numbers_are_the_documents(explanation):
    text = printed(explanation)
    lens, at = explanation["lens"], explanation["position"]
    *rows, note = rows_after(text, "What each layer already knew")[2:]
    assert "embed: the token itself, before any layer" in note
    rows.reverse()  # layers run upwards
    assert not set("█▌▐│") & set(rows[0]), "the embedding has no answer to draw"
    assert len(rows) == len(lens["layers"])
    for index, row in enumerate(rows):
        words = row.split()
        assert words[0] == lens["layers"][index]
        assert words[1] == visible(lens["top_text"][index][at][0])
        assert words[4] == str(lens["target_rank"][index][at]) and words[6] == str(lens["foil_rank"][index][at])
    inputs = rows_after(text, "Which inputs")[1:]
    for index, token in enumerate(explanation["tokens"]):
        assert inputs[index].split()[:2] == [str(index), visible(token["text"])]
        score = explanation["inputs"]["methods"][0]["scores"][index]
        assert ("+" if score > 0 else "−") in inputs[index]
    measured = {row["name"]: row["effect"] for row in explanation["ablations"]["rows"]}
    components = rows_after(text, "Which components")[1:]
    signs = r"^ (\S+(?: \d+)?) +[█▌▐│ ]*([+−])"
    largest = max(measured, key=lambda name: abs(measured[name]))
    listed = [match.groups() for row in components if (match := re.match(signs, row)) and match[1] in measured]
    assert listed[0] == (largest, "+" if measured[largest] > 0 else "−")
    assert any("not run" in row for row in components)
    total = next(row for row in components if row.split()[0] == "sum")
    assert float(total.split()[-1].replace("−", "-")) == pytest.approx(explanation["components"]["total"], abs=0.01)


def test_long_prompts_show_the_largest_inputs_in_order(explanation):
    n = 120
    grow = -(-n // len(explanation["tokens"]))
    explanation["tokens"] = (explanation["tokens"] * grow)[:n]
    lens = explanation["lens"]
    for name, grid in lens.items():
        if name not in ("layers", "k", "logit_diff"):
            lens[name] = [(row * grow)[:n] for row in grid]
    scores = [0.001 * i for i in range(n)]
    scores[3] = -5.0
    explanation["inputs"]["methods"] = [{"name": "a", "label": "A", "scores": scores, "entry": "3.1.2"}]
    for head in explanation["heads"]:
        head["pattern"] = None
    explanation["patching"] = None
    text = printed(explanation)
    assert "the 20 largest of 120 tokens" in text
    shown = [int(row.split()[0]) for row in rows_after(text, "Which inputs")[1:21]]
    assert shown == [3, *range(101, 120)]


def test_no_color_and_pipes_carry_no_escapes(hostile, monkeypatch):
    assert "\x1b" not in printed(hostile)
    monkeypatch.setenv("NO_COLOR", "1")
    in_terminal = printed(hostile, force_terminal=True)
    assert not re.search(r"\x1b\[[0-9;]*(3[0-7]|38;|48;)", in_terminal)


def test_a_token_cannot_reach_the_terminal(hostile):
    coloured = printed(hostile, force_terminal=True, color_system="truecolor")
    assert not set("\x07\x00\u202e\u200b\u2028\r\t") & set(coloured)
    assert set(re.findall(r"\x1b\[([0-9;]*)([A-Za-z])", coloured)) and all(
        final == "m" for _, final in re.findall(r"\x1b\[([0-9;]*)([A-Za-z])", coloured)
    )
    assert "[bold␣red]markup[/]" in printed(hostile), "brackets are text, not styles"


def test_an_ascii_stream_gets_ascii(hostile):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    print_explanation(hostile, Console(file=file, width=80))
    file.flush()
    text = raw.getvalue().decode("ascii")
    assert "#" in text and "|" in text and "held" in text
    assert max(map(len, text.splitlines())) <= 80


def test_bars_are_as_long_as_their_share():
    assert share_bar(1, 8, UNICODE).plain == "█" * 8
    assert share_bar(0, 8, UNICODE).plain == ""
    for share in (-1, -0.5, 0, 0.25, 1):
        bar = signed_bar(share, 6, ASCII, ("", "")).plain
        assert len(bar) == 13 and bar[6] == "|"
        assert (bar[:6] + bar[7:]).count("#") == int(6 * abs(share))
        assert ("#" in bar[:6]) == (share < 0)


def test_an_unfit_document_is_refused(explanation):
    del explanation["checks"]
    with pytest.raises(CasebackError, match="without checks"):
        printed(explanation)


def test_the_strongest_places_are_listed_once_each(explanation):
    rows = rows_after(printed(explanation, width=100), "Where the answer comes back")
    assert "for" in rows[0] and "clean +3.10, corrupt −0.20" in rows[0]
    grid = np.array(explanation["patching"]["maps"][0]["recovery"])
    layer, pos = np.unravel_index(np.abs(grid).argmax(), grid.shape)
    strongest = next(row for row in rows if f"Residual stream before layer {layer}" in row and f"{pos} " in row)
    assert f"{grid[layer, pos]:+.2f}" in strongest
    explanation["patching"] = None
    assert "Where the answer comes back" not in printed(explanation)


def test_empty_parts(explanation):
    explanation.update(heads=[], predictions=[], checks=[])
    explanation["inputs"]["methods"] = []
    explanation["ablations"].update(rows=[], spearman=None)
    assert "Which components" in printed(explanation)
