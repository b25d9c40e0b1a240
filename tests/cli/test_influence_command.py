"""``caseback influence``: a table of training lines, JSON for machines, a store that is asked again."""

import json

import pytest

import caseback as cb
from caseback import cli
from caseback.localize.inputs import bm25, influence_functions, top_examples

pytestmark = pytest.mark.usefixtures("plain")

LINES = [
    "The capital of France is Paris.",
    "",
    "Mary went to the store.",
    "The cat sat on the mat.",
    "The capital of Spain is Madrid.",
]
QUERY = "The capital of France is"


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return str(path)


def answer(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["influence", *arguments])
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def test_the_text_itself_comes_first(capsys, corpus):
    status, out, err = answer(capsys, LINES[0], "--corpus", corpus, "--parts", "mlp")
    assert status == 0
    rows = out.splitlines()
    assert rows[0] == "influence, EK-FAC, 4 examples, highest scores: The capital of France is Paris."
    assert rows[2].split()[-6:] == LINES[0].split() and " 1 " in rows[2]
    assert "gradients of mlp:" in out and "1 lines of fewer than 2 tokens were left out" in out


def test_json_is_what_the_function_gives(capsys, corpus):
    model = cb.load("meadow")
    for options, theirs in (
        (["--method", "bm25"], bm25(model, QUERY, LINES)),
        (["--rank", "3", "--parts", "mlp"], influence_functions(model, QUERY, LINES, rank=3, parts="mlp")),
    ):
        status, out, _ = answer(capsys, QUERY, "--corpus", corpus, "--top", "2", "--json", *options)
        made, best = json.loads(out), top_examples(theirs, 2)
        assert status == 0
        assert made["data_vars"]["score"]["data"][0] == pytest.approx(best.score.values[0].tolist(), rel=1e-5)
        assert made["data_vars"]["text"]["data"][0] == best.text.values[0].tolist()
        assert made["attrs"]["technique"] == best.attrs["technique"]


def test_a_store_is_asked_again_without_the_corpus(capsys, corpus, tmp_path):
    given = QUERY, "--completion", " Paris", "--store", str(tmp_path / "store"), "--parts", "mlp", "--rank", "8"
    first = answer(capsys, *given, "--corpus", corpus)
    again = answer(capsys, *given)
    assert first[0] == again[0] == 0 and again[1] == first[1]
    assert "8 directions kept on each side of a matrix" in again[1]


@pytest.mark.parametrize("method", ["trak", "tracin", "datainf", "cosine", "representation", "fisher"])
def test_every_method_answers(capsys, corpus, method):
    status, out, _ = answer(
        capsys, LINES[0], "--corpus", corpus, "--method", method, "--top", "1", *["--parts", "*.3.mlp.c_proj"]
    )
    assert status == 0 and "The capital of France is Paris." in out.splitlines()[2]


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("Did you mean trak or tracin?", ["--method", "track"]),
        ("it keeps no gradients", ["--method", "bm25", "--store", "x"]),
        ("only trak and tracin take several", ["--checkpoints", "a,b"]),
        ("cannot be read (absent)", ["--corpus", "no/such/file"]),
        ("expected numbers such as", ["--method", "tracin", "--rates", "high"]),
        ("--top 0: expected at least 1", ["--top", "0", "--method", "bm25"]),
    ],
)
def test_what_cannot_be_done_is_one_line(capsys, corpus, message, arguments):
    given = arguments if "--corpus" in arguments else ["--corpus", corpus, *arguments]
    status, out, err = answer(capsys, QUERY, *given)
    assert (status, out) == (2, "") and message in err and err.count("\n") == 1


def test_a_corpus_is_needed(capsys):
    assert "no corpus" in answer(capsys, QUERY)[2]
