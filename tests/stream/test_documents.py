"""Whatever a corpus may be becomes rows: every form, cut as a loop cuts it, and refused in words."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import caseback as cb
import shelf
from caseback.errors import CasebackError, LoadError, OutOfRange, TokensError
from caseback.stream.documents import Document, documents
from caseback.stream.marks import KINDS, kinds_of_text, marks_of, token_kinds
from caseback.stream.packing import Block, Row, blocks_of, front_of, rows_of

TEXTS = ["the cat", "Mary went to the store"]


def written(folder, kind):
    records = [{"text": text, "n": i} for i, text in enumerate(TEXTS)]
    path = folder / f"corpus.{kind}"
    if kind == "txt":
        path.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, records)) + "\n\n", encoding="utf-8")
    elif kind == "json":
        path.write_text(json.dumps(records), encoding="utf-8")
    elif kind == "parquet":
        arrow = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'caseback[data]'")
        from pyarrow import parquet

        parquet.write_table(arrow.Table.from_pylist(records), path)
    return path


@pytest.mark.parametrize("kind", ["txt", "jsonl", "json", "parquet"])
def test_files_and_folders_are_read(kind, tmp_path):
    path = written(tmp_path, kind)
    assert [document.content for document in documents(path)] == TEXTS
    (tmp_path / "notes.pdf").write_bytes(b"%PDF")
    assert [document.content for document in documents(tmp_path)] == TEXTS
    if kind != "txt":
        with pytest.raises(LoadError, match="no column 'txet'"):
            list(documents(path, column="txet"))


def test_iterables_of_every_form(tmp_path):
    model = cb.load("meadow")
    forms = ["the cat", [5, 1], torch.tensor([5, 1]), np.array([5, 1]), {"text": "the cat"}, model.tokens("the cat")]
    assert [one.content for one in documents(iter(forms))][:5] == ["the cat", [5, 1], [5, 1], [5, 1], "the cat"]
    (labeled,) = documents([([5, 1], {"pos": [7, 8], "source": 3})])
    assert labeled.labels == {"pos": [7, 8], "source": 3}
    datasets = pytest.importorskip("datasets", reason="needs datasets: pip install 'caseback[data]'")
    held = datasets.Dataset.from_list([{"text": text} for text in TEXTS])
    for dataset in (held, held.to_iterable_dataset()):
        assert [one.content for one in documents(dataset)] == TEXTS


@pytest.mark.parametrize(
    ("corpus", "error", "says"),
    [
        ("one text", CasebackError, "put it in a list"),
        (7, CasebackError, "a corpus is a int"),
        ([7], TokensError, "document 0 is a int"),
        ([[0.5]], TokensError, "expected text, or a list of token ids"),
        ([[[1], [2]]], TokensError, "expected text, or a list of token ids"),
        ([{"body": "x"}], LoadError, "no column 'text'"),
        ([("a text", {"pos": [1, 2]})], TokensError, "has 2 values for a text"),
        ([([5, 1], {"pos": [1]})], TokensError, "1 values for 2 tokens"),
        ([([5, 1], {"pos": [0.5, 1.0]})], TokensError, "expected whole numbers"),
        (Path("/no/such/file.txt"), LoadError, "absent"),
    ],
)
def test_what_is_no_corpus_is_refused(corpus, error, says):
    with pytest.raises(error, match=says):
        list(documents(corpus))


def test_damaged_files_are_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"fine\n\xff\xfe\n")
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    (tmp_path / "a.json").write_text('[{"text": "fine"')
    (tmp_path / "empty").mkdir()
    for name, says in (
        ("a.txt", "line 2, is not UTF-8"),
        ("a.jsonl", "line 2, is not JSON"),
        ("a.json", "no list"),
        ("empty", "no text"),
    ):
        with pytest.raises(LoadError, match=says):
            list(documents(tmp_path / name))
    arrow = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'caseback[data]'")
    assert arrow
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(LoadError, match="as Parquet"):
        list(documents(tmp_path / "a.parquet"))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 50), max_size=25), max_size=12),
    st.integers(2, 9),
    st.integers(1, 60),
    st.integers(1, 4),
)
def test_rows_and_blocks_hold_every_token_once(corpus, length, tokens, interleave):
    model = shelf.model("llama")
    rows = list(rows_of(model, documents(corpus), length=length, least=1))
    expected = [
        (number, at, ids[at : at + length]) for number, ids in enumerate(corpus) for at in range(0, len(ids), length)
    ]
    assert [(row.document, row.start, row.ids) for row in rows] == expected
    blocks = list(blocks_of(rows, tokens, interleave=interleave))
    assert sorted((d, s) for b in blocks for d, s in zip(b.document.tolist(), b.start.tolist(), strict=True)) == sorted(
        (number, at) for number, at, _ in expected
    )
    places = 0
    for block in blocks:
        assert block.first_token == places
        places += block.n_tokens
        seen = {}
        for side in ("left", "right"):
            for batch, which in block.batches(12, side=side):
                assert batch.ids.numel() <= 12 or len(batch) == 1
                for ids, mask, row in zip(batch.ids, batch.mask, which.tolist(), strict=True):
                    seen[side, row] = ids[mask].tolist()
        assert all(seen[side, row] == block.row(row) for side in ("left", "right") for row in range(len(block)))


def test_a_long_text_is_cut_and_each_row_begins_as_the_tokenizer_begins_it():
    model = cb.load("meadow")
    text = "Mary went to the store and John went to the park"
    rows = list(rows_of(model, [Document(text, {"source": 4})], length=5))
    front = front_of(model)
    own = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert front and all(row.ids[: len(front)] == front for row in rows)
    assert [token for row in rows for token in row.ids[len(front) :]] == own
    assert all(row.labels["source"] == [-1] * len(front) + [4] * (len(row.ids) - len(front)) for row in rows)
    bare = list(rows_of(model, [Document(text)], length=5, bos=False, least=1))
    assert [token for row in bare for token in row.ids] == own
    assert list(rows_of(model, [Document("  \n")])) == []
    for options in ({"length": 10**6}, {"length": 1}, {"least": 0}):
        with pytest.raises(OutOfRange):
            list(rows_of(model, [Document(text)], **options))


def test_a_first_token_that_a_model_has_not_is_told(monkeypatch):
    model = shelf.model("llama")
    monkeypatch.setattr(model.hf.config, "bos_token_id", 1)
    assert front_of(model, True) == [1] and front_of(model, False) == []
    monkeypatch.setattr(model.hf.config, "bos_token_id", None)
    with pytest.raises(CasebackError, match="no first token"):
        front_of(model, True)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=12), min_size=1, max_size=6))
def test_marks_are_what_a_loop_finds(rows):
    kinds = torch.tensor(
        [0, 1 << KINDS.index("starts_word"), 4, 8, 1 << KINDS.index("starts_word"), 0], dtype=torch.int32
    )
    block = Block.of([Row(ids, number, 0, 0) for number, ids in enumerate(rows)])
    marks = marks_of(block, kinds)
    at = 0
    for number, ids in enumerate(rows):
        word = -1
        for position, token in enumerate(ids):
            before = [i for i in range(position) if ids[i] == token]
            word += position == 0 or bool(int(kinds[token]) >> KINDS.index("starts_word") & 1)
            assert int(marks.position[at]) == position and int(marks.row[at]) == number
            assert int(marks.current[at]) == token and int(marks.previous[at]) == (
                ids[position - 1] if position else -1
            )
            assert int(marks.repeat[at]) == (position - before[-1] if before else 0)
            assert int(marks.word[at]) == word and int(marks.kinds[at]) == int(kinds[token])
            at += 1


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        (" Mary", {"starts_word", "letters", "title"}),
        ("NASA", {"letters", "upper"}),
        (" 42", {"starts_word", "digits"}),
        ("!?", {"punctuation"}),
        ("\n", {"newline", "starts_word"}),
        ("né", {"letters", "non_ascii"}),
    ],
)
def test_kinds_of_tokens(text, kinds):
    bits = kinds_of_text(text)
    assert {name for i, name in enumerate(KINDS) if bits >> i & 1} >= kinds


def test_the_kinds_of_a_vocabulary_are_those_of_its_entries():
    model = cb.load("meadow")
    bits = token_kinds(model)
    special = model.tokenizer.all_special_ids
    assert all(int(bits[token]) & 1 for token in special)
    assert int(bits[model.tokenizer(" Mary", add_special_tokens=False)["input_ids"][0]]) == kinds_of_text(" Mary")
    assert not token_kinds(shelf.model("llama")).any()


def test_a_folder_gives_its_files_by_name_as_they_are_met(tmp_path):
    for name in ("b/2.txt", "a/1.txt", "3.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    (tmp_path / "b" / "circle").symlink_to(tmp_path, target_is_directory=True)
    given = documents(tmp_path)
    assert next(given).content == "3.txt"
    (tmp_path / "a" / "1.txt").write_text("written after the first was read", encoding="utf-8")
    assert [document.content for document in given] == ["written after the first was read", "b/2.txt"]
