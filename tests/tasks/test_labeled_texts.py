"""Texts with labels are read the same from every kind of file, and what lacks one is refused by its line."""

import json

import pytest

from caseback.errors import ArgumentError, LoadError
from caseback.tasks import LabeledTexts, labeled_texts

ROWS = [
    {"text": "I loved it.", "label": "good", "by": "Ann"},
    {"text": 'He said "no",\nand left.', "label": "bad", "by": "Bob"},
    {"text": " A fine, long film", "label": "good", "by": "Ann"},
]


def written(folder, suffix, rows=ROWS):
    path = folder / f"reviews{suffix}"
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow", reason="Parquet files are read by pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet files are read by pyarrow")
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        quoted = [
            ['"' + str(value).replace('"', '""') + '"' for value in row.values()]
            for row in [dict.fromkeys(rows[0]), *rows]
        ]
        quoted[0] = list(rows[0])
        separator = "," if suffix == ".csv" else "\t"
        path.write_text("\ufeff" + "".join(separator.join(row) + "\n" for row in quoted), encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".csv", ".tsv"])
def test_every_kind_of_file_gives_the_same(tmp_path, suffix):
    read = labeled_texts(written(tmp_path, suffix), group="by")
    assert read == LabeledTexts(*([row[name] for row in ROWS] for name in ("text", "label", "by")))
    assert labeled_texts(str(written(tmp_path, suffix))).groups is None
    assert len(read) == 3 and repr(read) == "LabeledTexts(3 texts; 'good' 2, 'bad' 1)"


def test_labels_keep_their_kind(tmp_path):
    rows = [{"said": "a", "true": True, "year": 1999}, {"said": "b", "true": False, "year": 2.5}]
    path = written(tmp_path, ".jsonl", rows)
    assert labeled_texts(path, "said", "true").labels == [True, False]
    assert labeled_texts(path, text="said", label="year").labels == [1999, 2.5]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "has no rows"),
        ([{"text": "a", "label": 1}, {"text": "b", "lable": 1}], r"record 2, has no column 'label'.*lable"),
        ([{"text": "", "label": 1}], r"record 1: the text under 'text' is empty"),
        ([{"text": " ", "label": 1}], "the text under 'text' is ' '"),
        ([{"text": [1, 2], "label": 1}], r"the text under 'text' is \[1, 2\]"),
        ([{"text": "a", "label": None}], r"the value under 'label' is missing"),
        ([{"text": "a", "label": {"x": 1}}], r"the value under 'label' is \{'x': 1\}"),
        (["a", "b"], r"record 1, is 'a': expected a record with the columns text and label"),
    ],
)
def test_what_is_not_a_text_with_a_label_is_refused(tmp_path, rows, says):
    with pytest.raises(LoadError, match=says):
        labeled_texts(written(tmp_path, ".jsonl", rows))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"", "has no rows"),
        ("a.csv", b"text,label\n", "has no rows"),
        ("a.csv", b"text,label\na,\n", r"line 2: the value under 'label' is missing"),
        ("a.csv", b"text,label\n\na\n", r"line 3, has no column 'label'"),
        ("a.csv", b"text,label\na,b,c\n", r"line 2, has 3 values for 2 columns"),
        ("a.csv", b"text,text\na,b\n", r"two columns 'text'"),
        ("a.csv", b"text,label\n\xff,b\n", "UTF-8"),
        ("a.txt", b"a\n", r"expected a file named \.jsonl"),
        ("a.jsonl", b"{'text'\n", "line 1, is not JSON"),
        ("absent/a.tsv", None, "absent"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(LoadError, match=says):
        labeled_texts(tmp_path / name)


def test_other_arguments_are_refused():
    with pytest.raises(ArgumentError):
        labeled_texts(3)  # pyright: ignore[reportArgumentType]
