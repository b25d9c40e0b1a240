"""A pass over a corpus as a job: the same bytes from any number of workers, after any trouble, and of one model alone."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import CasebackError, LoadError, OutOfRange, SiteAbsent, UnknownSite
from caseback.jobs import budget
from caseback.jobs.job import Job
from caseback.stream import collect, open_collection, open_store
from caseback.stream.collect import work_of
from exact import exact

TABLES = ["stream_moments", "neuron_moments"]
SITE = "resid_post.1"


def corpus(n=24, seed=0):
    draw = np.random.default_rng(seed)
    return [draw.integers(1, 40, draw.integers(2, 30)).tolist() for _ in range(n)]


def model():
    return shelf.model("llama")


def gathered(folder=None, texts=None, of=None, **options):
    options = {"tables": TABLES, "shard_tokens": 60, "batch_tokens": 64, "threads": 1, **options}
    if folder is not None:
        options = {"activations": [SITE], **options}
    return collect(of or model(), texts or corpus(), folder=folder, **options)


def contents(folder):
    """Every file of tables, shards, rows and activations."""
    at = Path(folder)
    return {str(path.relative_to(at)): path.read_bytes() for path in sorted(at.rglob("*.safetensors"))}


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The bytes of a job that nothing disturbed."""
    folder = tmp_path_factory.mktemp("calm")
    gathered(folder)
    return contents(folder)


def test_tables_are_those_of_each_row_read_alone(tmp_path):
    with exact():
        collection = gathered(tmp_path)
        rows = [model().run(ids, read=["resid_post"])["resid_post"][:, 0] for ids in corpus()]
        in_memory = gathered()
    stream = torch.cat(rows, 1).double()
    np.testing.assert_allclose(collection["stream_moments"]["mean"], stream.mean(1), rtol=1e-9, atol=1e-12)
    assert collection.n_tokens == stream.shape[1] == sum(map(len, corpus()))
    np.testing.assert_allclose(collection.store(SITE).at(torch.arange(stream.shape[1])), stream[1], rtol=1e-9)
    for name in TABLES:
        for key, value in collection.state(name).items():
            torch.testing.assert_close(in_memory.state(name)[key], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "options", [{"padding": "left"}, {"batch_tokens": 7}, {"shard_tokens": 10**6}, {"interleave": 3}]
)
def test_batches_padding_and_shards_change_no_more_than_last_bits(options):
    with exact():
        one, other = gathered(), gathered(**options)
    for name in TABLES:
        for key, value in one.state(name).items():
            torch.testing.assert_close(other.state(name)[key], value, rtol=1e-9, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 5])
def test_any_number_of_workers_comes_to_the_same_bytes(workers, calm, tmp_path):
    gathered(tmp_path, workers=workers)
    assert contents(tmp_path) == calm


def test_a_worker_joins_from_elsewhere_and_another_model_does_not(calm, tmp_path):
    gathered(tmp_path)
    job = Job.open(tmp_path)
    for shard in (0, 2):
        job.path(shard).unlink()
    from caseback.jobs.working import work_on

    work_on(job, work_of(job, model()))
    assert contents(tmp_path) == calm
    with pytest.raises(LoadError, match="a job of another model"):
        work_of(job, shelf.model("gpt2"))
    assert open_collection(tmp_path, model()).n_tokens == gathered().n_tokens
    with pytest.raises(LoadError, match="of another model"):
        open_collection(tmp_path, shelf.model("gpt2"))
    with pytest.raises(LoadError, match="activations of another model"):
        open_store(tmp_path, SITE).expect_model(shelf.model("gpt2"))


def damaged(path, how):
    data = path.read_bytes()
    flipped = data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]
    path.write_bytes({"flipped": flipped, "truncated": data[: len(data) // 2], "empty": b""}[how])


@pytest.mark.parametrize("how", ["flipped", "truncated", "empty"])
def test_a_damaged_shard_is_done_again(how, calm, tmp_path):
    gathered(tmp_path)
    damaged(Job.open(tmp_path).path(1), how)
    gathered(tmp_path)
    assert contents(tmp_path) == calm


@pytest.mark.parametrize("how", ["flipped", "truncated", "empty"])
def test_damaged_activations_are_never_read(how, tmp_path):
    gathered(tmp_path)
    path = Job.open(tmp_path).beside(1, f"activations/{SITE}")
    whole = path.read_bytes()
    damaged(path, how)
    with pytest.raises(LoadError, match="remove it, and the same call of collect makes it again|not complete"):
        store = open_store(tmp_path, SITE)
        for _ in store.blocks(100):
            pass
    path.unlink()
    gathered(tmp_path)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("how", ["flipped", "truncated"])
def test_damaged_rows_are_written_again(how, calm, tmp_path):
    gathered(tmp_path)
    damaged(tmp_path / "rows" / "00001.safetensors", how)
    gathered(tmp_path)
    assert contents(tmp_path) == calm


@pytest.mark.parametrize("how", ["flipped", "truncated"])
def test_a_damaged_table_is_refused(how, tmp_path):
    gathered(tmp_path)
    damaged(tmp_path / "tables" / "neuron_moments.safetensors", how)
    with pytest.raises(LoadError, match="run the collection again"):
        open_collection(tmp_path, model())


def changed_weight():
    import copy

    other = copy.deepcopy(model())
    with torch.no_grad():
        other.anatomy.layers[0].o.weight[0, 0] += 1e-3
    return other


OTHERS = {
    "weight": lambda: {"of": changed_weight()},
    "tables": lambda: {"tables": ["stream_moments"]},
    "options of a table": lambda: {"tables": [{"stream_moments": {"site": "resid_pre"}}, "neuron_moments"]},
    "activations": lambda: {"activations": ["resid_post.0"]},
    "padding": lambda: {"padding": "left"},
    "batch": lambda: {"batch_tokens": 32},
    "corpus": lambda: {"texts": corpus(seed=1)},
    "a shorter corpus": lambda: {"texts": corpus(4)},
    "shards": lambda: {"shard_tokens": 80},
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_collection_is_refused_and_leaves_what_is_there(what, calm, tmp_path):
    gathered(tmp_path)
    with pytest.raises(LoadError, match="what differs: |other inputs"):
        gathered(tmp_path, **OTHERS[what]())
    assert contents(tmp_path) == calm


def test_a_corpus_that_has_grown_adds_to_what_is_there(tmp_path, monkeypatch):
    gathered(tmp_path / "grown", texts=corpus()[:15])
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "grown" / "shards").iterdir()}
    gathered(tmp_path / "grown")
    kept = [name for name, at in before.items() if (tmp_path / "grown" / "shards" / name).stat().st_mtime_ns == at]
    assert len(kept) >= len(before) - 1 > 0
    gathered(tmp_path / "whole")
    assert contents(tmp_path / "grown") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    "texts", [corpus(1, seed=5), corpus(2)[1:], [corpus(2)[0][:-1]]], ids=["other", "later", "cut short"]
)
def test_another_corpus_of_one_shard_is_refused_too(texts, tmp_path):
    options = {"shard_tokens": 10**6}
    gathered(tmp_path, texts=corpus(1), **options)
    before = contents(tmp_path)
    with pytest.raises(LoadError, match="other inputs"):
        gathered(tmp_path, texts=texts, **options)
    assert contents(tmp_path) == before
    gathered(tmp_path, texts=corpus(2), **options)
    gathered(tmp_path / "whole", texts=corpus(2), **options)
    assert contents(tmp_path / "whole").items() <= contents(tmp_path).items()


def test_a_worker_notices_rows_that_are_not_the_jobs(tmp_path):
    gathered(tmp_path)
    job = Job.open(tmp_path)
    job.path(1).unlink()
    (tmp_path / "rows" / "00001.safetensors").write_bytes((tmp_path / "rows" / "00000.safetensors").read_bytes())
    with pytest.raises(LoadError, match="other rows than the job is of"):
        work_of(job, model())(job, 1)


KILLED = """
import sys
sys.path[:0] = {paths!r}
from test_collect import gathered
gathered(sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill")
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(calm, tmp_path):
    source = Path(cb.__file__).parent.parent
    paths = [str(source), str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    script = KILLED.format(paths=paths)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    kills = 0
    for wanted in (1, 3, 5):  # killed once so many files of the job are there, drafts included
        process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], env=environment)
        patience = time.monotonic() + 100
        while process.poll() is None and time.monotonic() < patience:
            if sum(1 for _ in tmp_path.glob("*/*")) >= wanted + kills * 2:
                process.kill()
                kills += 1
                break
            time.sleep(0.001)
        process.wait(timeout=60)
    assert kills == 3
    gathered(tmp_path)
    assert contents(tmp_path) == calm


def test_a_full_disk_leaves_what_was_finished(calm, tmp_path, monkeypatch):
    from caseback.errors import WriteError
    from caseback.stream import store as store_module

    real, written = store_module.write_tensors, []

    def write(path, *rest):
        if len(written) == 2:
            raise WriteError(f"cannot write {path}: No space left on device")
        written.append(path)
        real(path, *rest)

    monkeypatch.setattr(store_module, "write_tensors", write)
    with pytest.raises(WriteError, match="No space left"):
        gathered(tmp_path)
    monkeypatch.undo()
    assert len(Job.open(tmp_path).undone()) == len(Job.open(tmp_path)) - 2
    gathered(tmp_path)
    assert contents(tmp_path) == calm


def test_what_cannot_be_collected_is_refused(tmp_path):
    of = model()
    for options, error, says in (
        ({"texts": []}, CasebackError, "corpus is empty"),
        ({"texts": [[5]]}, CasebackError, "corpus is empty"),
        ({"tables": []}, CasebackError, "nothing to collect"),
        ({"tables": ["neuron_moment"]}, CasebackError, "neuron_moments"),
        ({"tables": ["router_counts"]}, SiteAbsent, "router"),
        ({"workers": 2}, CasebackError, "need a folder"),
        ({"length": 10**6}, OutOfRange, "context"),
        ({"texts": ["a text"]}, CasebackError, "no tokenizer"),
    ):
        with pytest.raises(error, match=says):
            collect(of, options.pop("texts", corpus()), options.pop("tables", TABLES), **options)
    with pytest.raises(CasebackError, match="need a folder"):
        collect(of, corpus(), activations=["resid_post.0"])
    with pytest.raises(UnknownSite):
        collect(of, corpus(), activations=["resid_past.0"], folder=tmp_path)
    with pytest.raises(CasebackError, match="no table 'neuron_windows' was collected"):
        gathered()["neuron_windows"]
    with pytest.raises(CasebackError, match="in memory"):
        gathered().store(SITE)
    gathered(tmp_path / "there")
    with pytest.raises(LoadError, match="no activations of resid_post.0"):
        open_store(tmp_path / "there", "resid_post.0")


def test_all_tables_of_a_model_and_their_results_have_names(tmp_path):
    collection = gathered(tables="all")
    assert "router_counts" not in collection.tables and len(collection) > 8
    for name in collection:
        assert collection[name].sizes, name
    mixture = collect(shelf.model("mixtral", "sdpa"), corpus(6), "all")
    assert "router_counts" in mixture.tables


def test_a_job_names_its_kind_and_runs_nothing_that_is_written_in_it(tmp_path):
    gathered(tmp_path)
    record = json.loads((tmp_path / "job.json").read_text())
    assert record["kind"] == "collect" and not any("caseback." in str(value) for value in record.values())
    record["kind"] = "os.system"
    from caseback.jobs.safe_files import write_json

    write_json(tmp_path / "job.json", {k: v for k, v in record.items() if k != "digest"})
    from typer.testing import CliRunner

    from caseback.cli import app

    result = CliRunner().invoke(app, ["work", str(tmp_path)])
    assert result.exit_code != 0 and "kind 'os.system'" in str(result.exception)


def test_batches_are_as_large_as_the_free_memory_holds_and_a_job_keeps_its_own(tmp_path, monkeypatch):
    few, many, shapes = 10**5, 10**9, []
    one_pass = importlib.import_module("caseback.stream.one_pass")
    execute = one_pass.execute

    def watched(anatomy, tokens, **options):
        shapes.append(tokens.shape)
        return execute(anatomy, tokens, **options)

    monkeypatch.setattr(one_pass, "execute", watched)
    with exact():
        tables = {}
        for free in (many, few):
            monkeypatch.setattr(budget, "free_bytes", lambda device, free=free: free)
            shapes.clear()
            tables[free] = gathered(batch_tokens=None, shard_tokens=None)["stream_moments"]["mean"].values
            largest = max(rows * width for rows, width in shapes)
            assert largest > 128 if free == many else largest <= 32
        np.testing.assert_allclose(tables[few], tables[many], atol=1e-10)
    # begun with little memory, it goes on with the same batches where there is more
    folder = tmp_path / "job"
    begun = gathered(folder, batch_tokens=None)
    monkeypatch.setattr(budget, "free_bytes", lambda device: many)
    again = gathered(folder, batch_tokens=None)
    assert Job.open(folder).plan.options["batch_tokens"] <= 32 and again.n_tokens == begun.n_tokens
    with pytest.raises(LoadError, match="batch_tokens"):
        gathered(folder, batch_tokens=64)
