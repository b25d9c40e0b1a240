"""Whatever is wrong with a file is said with its line, or counted; large files are not read to their end in vain."""

import json
import random

import pytest

from caseback.errors import LoadError
from caseback.tasks import formats
from caseback.tasks.formats.reading import Examples, csv_rows, examples, json_items, json_records, json_under, lines

PREFIXES = {"clean_prefix": "The dogs", "patch_prefix": "The dog", "clean_answer": " are", "patch_answer": " is"}
GOOD = {"sentence_good": "Dogs run.", "sentence_bad": "Dogs runs.", "UID": "a"}


def test_json_lines_and_arrays_are_told_apart_and_give_the_same(write):
    records = [{"n": i, "text": "é\n]" * i} for i in range(300)]
    for content in (records, json.dumps(records), json.dumps(records, indent=3), "\n\n [" + json.dumps(records)[1:]):
        assert [record for _, record in json_records(write("a.json", content))] == records


def test_records_of_an_array_know_their_lines(write):
    file = write("a.json", '\n[\n  {"a":\n 1},\n\n  2, 3,\n  "x"]\n')
    assert list(json_records(file)) == [(3, {"a": 1}), (6, 2), (6, 3), (7, "x")]


def test_an_array_is_decoded_before_its_end_is_read(write):
    broken = '[\n  {"a": 1},\n' + '  {"a": 2},\n' * 1000 + "  oops"
    first = next(iter(json_records(write("a.json", broken))))
    assert first == (2, {"a": 1})


@pytest.mark.parametrize(
    "text, line, what",
    [
        ('[\n {"a": 1},\n {"a": }\n]', 3, "Expecting value"),
        ('[\n {"a": 1}\n {"a": 2}\n]', 3, "expected , or ]"),
        ('[\n {"a": 1},\n]', 3, "expected a list of JSON records"),
        ('[\n {"a": 1}\n', 3, "ends where , or ] is due"),
        ('[\n {"a": 1}\n]\n{}', 3, "nothing after the list"),
        ('[\n {"a": "never closed', 2, "Unterminated string"),
        ("[1, 2", 1, "ends where , or ] is due"),
    ],
)
def test_a_broken_array_is_refused_with_its_line(write, text, line, what):
    file = write("a.json", text)
    with pytest.raises(LoadError, match=rf"a\.json, line {line}: ") as caught:
        list(json_records(file))
    assert what in str(caught.value)


def test_any_split_of_an_array_into_lines_reads_alike(write):
    rng, records = random.Random(0), [{"a": [1, {"b": "c d"}]}, 12, "text", None, [[]], 3.5]
    parts = json.dumps(records).replace(" ", "\x00")
    for _ in range(50):
        spread = "".join(rng.choice([" ", "\n", "\n\n  "]) if c == "\x00" else c for c in parts)
        # a blank inside a text may not become a newline
        if '"c d"' in spread:
            assert [record for _, record in json_records(write("a.json", spread))] == records


def test_records_under_a_key_and_items_of_an_object_know_their_lines(write):
    file = write("a.json", '{\n"name": "x",\n"samples": [\n 1,\n 2],\n"more": {"é": 1}}\n')
    assert list(json_under(file, "samples")) == [(4, 1), (5, 2)]
    assert [line for line, _ in json_items(file)] == [2, 3, 6]
    with pytest.raises(LoadError, match="a list under 'other'"):
        list(json_under(file, "other"))


def test_a_malformed_line_is_named_or_counted(write):
    lines_of = [json.dumps({**PREFIXES, "case": str(i)}) for i in range(6)]
    lines_of[2], lines_of[4] = lines_of[2][:30], json.dumps({**PREFIXES, "clean_answer": None})
    file = write("sva.json", "\n".join(lines_of))
    with pytest.raises(LoadError, match=r"sva\.json, line 3: expected a JSON object .*skip_malformed=True"):
        formats.agreement_pairs(file)
    pairs = formats.agreement_pairs(file, skip_malformed=True)
    assert [pair.group for pair in pairs] == ["0", "1", "3", "5"]
    assert pairs.dropped == {"malformed records": 2}


@pytest.mark.parametrize(
    "record, expected",
    [
        ({"sentence_bad": "b"}, "a text under 'sentence_good', found nothing"),
        ({"sentence_good": 3, "sentence_bad": "b"}, "a text under 'sentence_good', found 3"),
        ({"sentence_good": "  ", "sentence_bad": "b"}, "a text under 'sentence_good', found '  '"),
        (["a", "b"], "an object with 'sentence_good', found ['a', 'b']"),
    ],
)
def test_a_record_without_its_fields_says_which(write, record, expected):
    with pytest.raises(LoadError) as caught:
        formats.blimp(write("b.jsonl", [GOOD, record]))
    assert "b.jsonl, line 2: expected " + expected in str(caught.value)


def test_what_is_no_utf_8_is_named_with_line_and_column_even_when_malformed_records_are_skipped(write):
    file = write("a.csv", b"statement,label\nRome is in Italy.,1\nCaf\xe9 is a word.,1\n")
    with pytest.raises(LoadError, match=r"a\.csv, line 3: byte 0xe9 at column 4 is not UTF-8"):
        formats.statements(file, skip_malformed=True)


def test_a_byte_order_mark_and_windows_line_ends_are_read(write):
    file = write("a.csv", b"\xef\xbb\xbfstatement,label\r\nRome is in Italy.,1\r\n")
    assert formats.statements(file)[0].text == "Rome is in Italy."
    assert next(iter(lines(file)))[1].startswith("statement")


def test_missing_files_and_folders_are_said(tmp_path):
    with pytest.raises(LoadError, match=r"gone\.json' cannot be read \(absent\)"):
        formats.blimp(tmp_path / "gone.json")
    with pytest.raises(LoadError, match="a folder"):
        formats.conllu(tmp_path)


def test_a_file_without_examples_is_refused(write):
    with pytest.raises(LoadError, match="gives no example .it holds no record"):
        formats.blimp(write("empty.jsonl", "\n\n"))
    with pytest.raises(LoadError, match="1: malformed records"):
        formats.blimp(write("b.jsonl", [{"a": 1}]), skip_malformed=True)


def test_limit_stops_reading(write):
    file = write("b.jsonl", json.dumps(GOOD) + "\n" + json.dumps(GOOD) + "\nno JSON\n")
    assert len(formats.blimp(file, limit=2)) == 2
    with pytest.raises(LoadError, match="limit 0"):
        formats.blimp(file, limit=0)


def test_csv_rows_say_what_is_wrong_with_them(write):
    with pytest.raises(LoadError, match=r"line 1: expected the columns statement, label .*label not among text"):
        list(csv_rows(write("a.csv", "text,statement\n1,2\n"), "statement", "label"))
    file = write("a.csv", 'statement,label\n"Two\nlines",1\nRome,is in Italy.,1\nA,yes\n\nB,0\n')
    with pytest.raises(LoadError, match=r"line 4: expected 2 fields, found 3"):
        formats.statements(file)
    read = formats.statements(file, skip_malformed=True)
    assert [s.text for s in read] == ["Two\nlines", "B"] and read.dropped == {"malformed records": 2}
    with pytest.raises(LoadError, match=r"line 2: expected a row of CSV"):
        list(csv_rows(write("a.csv", 'a,b\n"x"y,1\n')))


def test_examples_are_a_list_that_counts(write):
    made = examples("f", iter([(1, 1), (2, 2)]), lambda n: n * 2)
    assert made == [2, 4] and isinstance(made, Examples) and not made.dropped
