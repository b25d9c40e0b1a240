"""The pages of directions and erasures have every number of their document, and nothing of it as markup."""

import copy
import json

import pytest

import caseback as cb
from caseback import cli
from caseback.errors import CasebackError
from caseback.reports.concepts.directions import directions_report
from caseback.reports.concepts.erasure import erasure_report
from caseback.tasks.labeled_texts import LabeledTexts
from caseback.views.numbers_text import number, percent, signed
from caseback.views.page.directions import directions_html
from caseback.views.page.erasure import erasure_html

NAMES = {"Mary": "<i>she", "Anna": "<i>she", "Emma": "<i>she", "John": "he&", "Tom": "he&", "Paul": "he&"}
TEXTS = [f"{name} went to the {place} and" for name in NAMES for place in ("store", "park", "school", "house")]
LABELED = LabeledTexts(TEXTS, [NAMES[text.split()[0]] for text in TEXTS])


@pytest.fixture(scope="module")
def model():
    return cb.load("meadow")


def test_the_page_of_directions(model):
    document, found = directions_report(model, LABELED, label="<b>who", ways=["lda", "mean_difference"])
    page = directions_html(document)
    assert "<b>who" not in page and "<i>she" not in page and "he&amp;" in page
    for way in ("lda", "mean_difference"):
        for i, auroc in enumerate(found[way].table.auroc.values):
            small = "" if way == "lda" else f" <small>{signed(document['agreement']['write'][i][0][1])}</small>"
            assert f"<td>{auroc:.3f}{small}</td>" in page
    # each cosine of each matrix, with the sign that its color has
    for of in ("write", "detect"):
        for i, row in enumerate(document["over_places"][of]):
            for k, x in enumerate(row):
                color = "foil" if x < 0 else "target"
                assert f"<td class='toned {color} v{round(10 * abs(x))}' title='{i}, {k}: {signed(x)}'>" in page


def test_layers_of_a_matrix_run_upwards(model):
    document, _ = directions_report(model, LABELED, ways=["mean_difference"])
    page = directions_html(document)
    rows = page[page.index("Over places") :].split("</table>")[0].split("<tbody>")[1].split("<tr>")[1:]
    assert [row[len("<th scope='row'>")] for row in rows] == ["3", "2", "1", "0"]


def test_the_page_of_an_erasure(model):
    document, _ = erasure_report(model, LABELED, sites=["resid_post", "z.1"][:1], draws=3)
    page = erasure_html(document)
    assert "<i>she" not in page and "&lt;i&gt;she" in page
    for row in document["places"]:
        assert f"<td>{row['after']:.3f} <small>{row['low']:.3f}–{row['high']:.3f}</small></td>" in page
        assert f"<td>{percent(row['removed'])}</td>" in page and f"<td>{signed(row['effects']['erased'])}</td>" in page
        for kind in ("rank", "variance"):
            low, high = row["effects"][f"random of equal {kind}"]
            assert f"<td>{number(low)} to {number(high)}</td>" in page
    assert page.count("class='erased'") == len(document["places"]) + 1


@pytest.mark.parametrize("of", ["write", "detect"])
def test_a_matrix_of_another_size_is_refused(model, of):
    document, _ = directions_report(model, LABELED)
    broken = copy.deepcopy(document)
    broken["over_places"][of].pop()
    with pytest.raises(CasebackError, match="cosines of shapes"):
        directions_html(broken)


def test_the_command_gives_what_the_library_gives(model, capsys, tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text(
        "\n".join(json.dumps({"text": text, "label": label}) for text, label in zip(TEXTS, LABELED.labels, strict=True))
    )
    with pytest.raises(SystemExit) as ended:
        cli.main(["directions", str(file), "--method", "lda", "--toward", "he&", "--json"])
    document, found = directions_report(model, LABELED, ways=["lda"], positive="he&")
    assert ended.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["classes"] == ["<i>she", "he&"] == document["classes"] and list(found) == ["lda"]
    assert printed["table"]["lda"]["auroc"] == document["table"]["lda"]["auroc"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["--toward", "nobody"], "--toward 'nobody' is no label"),
        (["--method", "lda,lda"], "each once"),
        (["--method", "svm"], "method 'svm' is unknown"),
        (["--method", ","], "expected one at least"),
    ],
)
def test_mistakes_are_one_line(line, said, capsys, tmp_path):
    file = tmp_path / "texts.csv"
    file.write_text("text,label\n" + "\n".join(f"{t},{NAMES[t.split()[0]]}" for t in TEXTS))
    with pytest.raises(SystemExit) as ended:
        cli.main(["directions", str(file), *line])
    printed = capsys.readouterr()
    assert ended.value.code == 2 and said in printed.err and printed.err.strip().count("\n") == 0
