"""`caseback collect`, `similar`, `work` and `jobs`: what they print and write, and how they refuse."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import caseback as cb
from caseback.cli import app
from caseback.errors import CasebackError, LoadError
from caseback.jobs.job import Job
from caseback.stream import open_collection, open_store

TEXTS = [f"{name} went to the {place} ." for name in ("Mary", "John", "Tom") for place in ("store", "park", "school")]


def ran(*args):
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(TEXTS))
    options = ("--tables", "stream_moments", "--activations", "resid_post:1", "--shard-tokens", 30)
    return folder / "store", json.loads(ran("collect", corpus, "--store", folder / "store", *options, "--json")), corpus


def test_collect_writes_a_collection_and_tells_what_is_in_it(collected):
    folder, facts, corpus = collected
    model = cb.load("meadow")
    again = open_collection(folder, model)
    assert facts["tokens"] == again.n_tokens and facts["activations"] == ["resid_post.1"]
    rows = [model.run(text, read=["resid_post"])["resid_post"][:, 0] for text in TEXTS]
    mean = np.concatenate([row.numpy() for row in rows], 1).mean(1)
    np.testing.assert_allclose(again["stream_moments"]["mean"], mean, rtol=1e-4, atol=1e-4)
    text = ran(
        "collect",
        corpus,
        "--store",
        folder,
        "--tables",
        "stream_moments",
        "--activations",
        "resid_post:1",
        "--shard-tokens",
        30,
    )
    assert "stream_moments" in text and f"{facts['tokens']:,} tokens of meadow" in text


def test_lines_that_are_longer_than_a_row_are_split_and_counted(tmp_path):
    model, corpus = cb.load("meadow"), tmp_path / "corpus.txt"
    texts = ["the cat", *TEXTS[:3], " ".join(TEXTS * 20), "the dog"]
    corpus.write_text("\n".join(texts))
    lengths = [len(model.tokenizer(text)["input_ids"]) for text in texts]
    assert max(lengths) > model.context
    command = ("collect", corpus, "--tables", "stream_moments", "--shard-tokens", 40, "--store", tmp_path / "store")
    for length in (5, min(128, model.context)):
        cut = sum(n > length for n in lengths)
        assert 0 < cut < len(texts)
        options = (*command[:-1], tmp_path / f"{length}", "--max-length", length)
        said = f"{cut} of {len(texts)} documents are longer than a row of {length} tokens: they were split"
        assert ran(*options).count(said) == 1
        facts = json.loads(ran(*options, "--json"))
        assert (facts["documents"], facts["split"], facts["row_tokens"]) == (len(texts), cut, length)
    corpus.write_text("the cat\nthe dog")
    assert "split" not in ran(*command)


def test_jobs_and_work(collected):
    folder, _, _ = collected
    job = Job.open(folder)
    before = job.path(1).read_bytes()
    job.path(1).unlink()
    (status,) = json.loads(ran("jobs", folder, "--json"))
    assert (status["done"], status["shards"]) == (len(job) - 1, len(job))
    assert f"{len(job) - 1} of {len(job)} shards" in ran("jobs", folder)
    assert f"all {len(job)} shards" in ran("work", folder)
    assert job.path(1).read_bytes() == before


def test_documents_without_text_are_passed_over_and_counted(tmp_path):
    (tmp_path / "corpus.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in ("", TEXTS[0], " ", TEXTS[1]))
    )
    printed = ran("collect", tmp_path / "corpus.jsonl", "--store", tmp_path / "store", "--tables", "stream_moments")
    assert "2 documents have no text: passed over" in printed
    assert open_collection(tmp_path / "store", cb.load("meadow")).n_tokens == 16


def test_similar_finds_the_prompts_own_kind(collected):
    folder, _, _ = collected
    result = json.loads(ran("similar", folder, "Tom went to the park", "--site", "resid_post:1", "--top", 3, "--json"))
    model = cb.load("meadow")
    vector = model.run("Tom went to the park", read=["resid_post"])["resid_post", 1][0, -1]
    store = open_store(folder, "resid_post.1")
    x = store.at(range(store.n_tokens))
    best = float((x @ vector / (x.norm(dim=1) * vector.norm())).max())
    assert result["contexts"][0]["score"] == pytest.approx(best, abs=1e-4)
    assert result["contexts"][0]["token"] == " park"
    assert "park" in ran("similar", folder, "Tom went to the park")  # the one site that is stored


def test_the_only_stored_site_is_opened_and_of_several_one_is_to_be_named(collected, tmp_path):
    folder, _, corpus = collected
    assert open_store(folder).site == open_store(folder, "resid_post.1").site
    both = ("--activations", "resid_post:1,mlp_out:0")
    ran("collect", corpus, "--store", tmp_path / "two", *both)
    with pytest.raises(LoadError, match="activations of resid_post.1, mlp_out.0: say which"):
        open_store(tmp_path / "two")
    ran("collect", corpus, "--store", tmp_path / "none", "--tables", "stream_moments")
    with pytest.raises(LoadError, match="holds no activations"):
        open_store(tmp_path / "none")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("collect", "{corpus}", "--tables", "stream_moments"), "--store FOLDER"),
        (("collect", "{corpus}", "--store", "{new}", "--tables", "stream_moment"), "stream_moments"),
        (("collect", "{corpus}", "--store", "{new}"), "nothing to collect"),
        (("collect", "/no/such/file", "--store", "{new}", "--tables", "stream_moments"), "absent"),
        (("collect", "{corpus}", "--store", "{folder}", "--tables", "stream_moments"), "what differs"),
        (("work", "{new}"), "holds no job"),
        (("jobs", "{new}"), "holds no job"),
        (("similar", "{folder}", "Tom", "--site", "resid_post:0"), "no activations of resid_post.0"),
        (("similar", "{folder}", "Tom", "--site", "resid_post:1", "--measure", "manhattan"), "cosine"),
    ],
)
def test_refusals_say_what_to_do(args, says, collected, tmp_path):
    folder, _, corpus = collected
    filled = [arg.format(corpus=corpus, folder=folder, new=tmp_path / "new") for arg in args]
    result = CliRunner().invoke(app, filled)
    assert result.exit_code != 0 and isinstance(result.exception, CasebackError | SystemExit)
    assert says in str(result.exception) + result.output
