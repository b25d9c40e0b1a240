"""A sweep in a folder: the values of plain runs, the same bytes from any number of workers, and of one sweep alone."""

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import caseback as cb
import shelf
from caseback.cli import app
from caseback.errors import CasebackError, LoadError
from caseback.jobs.budget import override
from caseback.jobs.job import Job
from caseback.jobs.safe_files import read_tensors, write_tensors
from caseback.model.anatomy.registered_sites import registered_site
from exact import exact

PROMPTS = shelf.ids((6, 4))
KEPT = {"threads": 1, "token_budget": 16}


def model():
    return shelf.model("llama")


def variants(of):
    """Edits of several kinds, one of which holds a run."""
    source = of.run(shelf.ids((6, 4), seed=3), read=["resid_post"])
    heads = [cb.Zero("z", layer=layer, head=head) for layer in range(3) for head in range(4)]
    patched = [[cb.Resample("resid_post", source=source, layer=layer, pos=pos)] for layer in range(3) for pos in (0, 2)]
    return [*heads, *patched, cb.Add("resid_pre", torch.ones(of.d_model), layer=1, pos=-1)]


def swept(folder, of=None, metric=None, **options):
    own = of or model()
    with override(sweep_shard_tokens=30):
        return own.sweep(PROMPTS, variants(own), metric or cb.logit_diff(3, 5), folder=folder, **KEPT, **options)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted((Path(folder) / "shards").iterdir())}


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calm")
    swept(folder)
    return contents(folder)


def test_the_values_are_those_of_plain_runs(tmp_path):
    with exact():
        result = swept(tmp_path)
        assert len(Job.open(tmp_path)) > 3
        for row, edits in zip(result.values, variants(model()), strict=True):
            logits = model().run(PROMPTS, edits=edits).logits
            ends = torch.tensor([5, 3])
            last = logits[torch.arange(2), ends]
            np.testing.assert_allclose(row, last[:, 3] - last[:, 5], rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["logit_diff", "kl", "activation"])
def test_any_number_of_workers_comes_to_the_same_bytes(metric, tmp_path):
    def measured():
        if metric == "kl":
            return cb.kl(model().run(PROMPTS))
        return cb.logit_diff(3, 5) if metric == "logit_diff" else cb.activation("resid_post", layer=2, unit=1)

    alone = swept(tmp_path / "alone", metric=measured())
    many = swept(tmp_path / "many", metric=measured(), workers=2)
    assert contents(tmp_path / "many") == contents(tmp_path / "alone")
    np.testing.assert_array_equal(many.values, alone.values)


def test_only_what_is_missing_or_damaged_is_done_again(calm, tmp_path, monkeypatch):
    swept(tmp_path)
    job = Job.open(tmp_path)
    job.path(1).unlink()
    data = job.path(3).read_bytes()
    job.path(3).write_bytes(data[:-4] + bytes([data[-4] ^ 1]) + data[-3:])
    from caseback.model.sweeping.sweep_job import Sweeping

    done, work = [], Sweeping.__call__
    monkeypatch.setattr(Sweeping, "__call__", lambda self, job, shard: done.append(shard) or work(self, job, shard))
    swept(tmp_path)
    assert done == [1, 3]
    assert contents(tmp_path) == calm


CHANGES = {
    "prompts": lambda: {"prompts": shelf.ids((6, 4), seed=9)},
    "edits": lambda: {"variants": [cb.Zero("z", layer=0)]},
    "metric": lambda: {"metric": cb.logit(3)},
    "model": lambda: {"model": _other_model()},
    "token_budget": lambda: {"token_budget": 8},
}


def _other_model():
    other = cb.load(copy.deepcopy(model().hf))
    with torch.no_grad():
        other.hf.lm_head.weight[0, 0] += 1e-3
    return other


@pytest.mark.parametrize("what", CHANGES)
def test_another_sweep_is_refused_by_what_differs(what, tmp_path):
    def sweep(model, prompts, variants, metric, **options):
        return model.sweep(prompts, variants, metric, folder=tmp_path, **{**KEPT, **options})

    given = {"model": model(), "prompts": PROMPTS, "variants": [cb.Zero("z", layer=1)], "metric": cb.logit_diff(3, 5)}
    sweep(**given)
    before = contents(tmp_path)
    with pytest.raises(LoadError, match="holds another job") as refused:
        sweep(**{**given, **CHANGES[what]()})
    assert what in str(refused.value).partition("what differs: ")[2]
    assert contents(tmp_path) == before


def doubled(x):
    return 2 * x


class Halves:
    def encode(self, x):
        return x / 2

    def decode(self, coded):
        return coded * 2


def test_what_other_processes_cannot_be_sent_is_refused_in_words(tmp_path):
    own = model()

    def refusal(variant, metric):
        with pytest.raises(CasebackError, match="use workers=1") as refused:
            own.sweep(PROMPTS, [variant], metric, folder=tmp_path / "job", workers=2, **KEPT)
        assert not (tmp_path / "job").exists()
        return str(refused.value)

    plain, metric = cb.Zero("z", layer=0), cb.logit(3)
    assert "Apply z L0 is a Python function" in refusal(cb.Apply("z", doubled, layer=0), metric)
    assert "metric 'doubled' is a Python function" in refusal(plain, cb.function(doubled))
    with registered_site("halved", "resid_post", {1: Halves()}):
        assert "'halved' is a site that was registered" in refusal(cb.Zero("halved", layer=1), metric)
        assert "'halved'" in refusal(plain, cb.activation("halved", layer=1, unit=0))
    under = own.edited(cb.Apply("z", doubled, layer=0))
    with pytest.raises(CasebackError, match="Apply z L0 is a Python function"):
        under.sweep(PROMPTS, [plain], metric, folder=tmp_path / "job", workers=2)


def test_a_function_that_has_a_name_may_be_used_by_one_worker(tmp_path):
    edits = [cb.Apply("z", doubled, layer=0)]
    kept = model().sweep(PROMPTS, edits, cb.logit(3), folder=tmp_path, **KEPT)
    np.testing.assert_array_equal(kept, model().sweep(PROMPTS, edits, cb.logit(3), token_budget=16))


def test_options_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(CasebackError, match="other workers need a folder"):
        model().sweep(PROMPTS, [cb.Zero("z", layer=0)], cb.logit(3), workers=2)
    with pytest.raises(CasebackError, match="kept in one of them"):
        model().sweep(PROMPTS, [cb.Zero("z", layer=0)], cb.logit(3), folder=tmp_path, checkpoint=tmp_path / "a")


@pytest.fixture
def on_disk(tmp_path):
    """The folder of a model, and the model as it is loaded from there."""
    model().hf.save_pretrained(tmp_path / "model")
    return tmp_path / "model", cb.load(str(tmp_path / "model"))


def joined(job, *more):
    return CliRunner().invoke(app, ["work", str(job), *map(str, more)])


METRICS = {
    "logit_diff": lambda of: cb.logit_diff([3, 4], 5),
    "kl": lambda of: cb.kl(of.run(PROMPTS)),
    "activation": lambda of: cb.activation("resid_post", layer=2, direction=torch.ones(of.d_model)),
}


@pytest.mark.parametrize("metric", METRICS)
def test_the_command_that_joins_jobs_does_a_sweep_from_its_folder_alone(metric, on_disk, tmp_path):
    path, own = on_disk
    expected = swept(tmp_path / "alone", own, METRICS[metric](own))
    job = tmp_path / "job"
    swept(job, own, METRICS[metric](own))
    done = contents(job)
    for shard in (job / "shards").iterdir():
        shard.unlink()
    result = joined(job, "--model", path)
    assert result.exit_code == 0, result.output
    assert contents(job) == done
    np.testing.assert_array_equal(swept(job, own, METRICS[metric](own)).values, expected.values)


def test_a_sweep_of_an_edited_model_is_joined_under_the_same_edits(on_disk, tmp_path):
    path, own = on_disk
    under = own.edited([cb.Add("resid_post", torch.ones(own.d_model), layer=[0, 1]), cb.Zero("z", layer=2, head=1)])
    swept(tmp_path / "job", under)
    done = contents(tmp_path / "job")
    Job.open(tmp_path / "job").path(1).unlink()
    assert joined(tmp_path / "job", "--model", path).exit_code == 0
    assert contents(tmp_path / "job") == done


def test_edits_that_share_a_tensor_are_written_with_one(tmp_path):
    own, shared = model(), torch.ones(32)
    edits = [cb.Add("resid_post", shared, layer=layer) for layer in range(3)]
    own.sweep(PROMPTS, edits, cb.logit(3), folder=tmp_path, **KEPT)
    tensors, _ = read_tensors(tmp_path / "sweep.safetensors")
    assert [name for name, value in tensors.items() if value.shape == (32,)] == ["variant0.0.value"]


def test_who_cannot_join_a_sweep_is_told_why(on_disk, tmp_path):
    path, own = on_disk
    job = tmp_path / "job"

    def refusal(model=path):
        result = joined(job, "--model", model)
        assert isinstance(result.exception, LoadError), result.output
        return str(result.exception)

    own.sweep(PROMPTS, [cb.Apply("z", doubled, layer=0)], cb.logit(3), folder=job, **KEPT)
    assert "edits or metric are Python functions" in refusal()

    job = tmp_path / "another"
    swept(job, own)
    Job.open(job).path(0).unlink()
    _other_model().hf.save_pretrained(tmp_path / "other")
    assert "what differs: model" in refusal(tmp_path / "other")
    assert "0 of" not in refusal(tmp_path / "other") and not Job.open(job).done(0)

    file = job / "sweep.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-4] + bytes([data[-4] ^ 1]) + data[-3:])
    assert "damaged" in refusal()
    own.sweep(PROMPTS, [cb.Zero("z", layer=0)], cb.logit(3), folder=tmp_path / "third", **KEPT)
    file.write_bytes((tmp_path / "third" / "sweep.safetensors").read_bytes())
    assert "is of another sweep" in refusal()
    file.write_bytes(data)
    tensors, metadata = read_tensors(file)
    write_tensors(file, tensors, {"sweep": metadata["sweep"].replace('"variants"', '"variant"')})
    assert "is not as caseback writes a sweep" in refusal()
    assert not Job.open(job).done(0)


def test_the_command_that_lists_jobs_tells_of_a_sweep(calm, tmp_path):
    swept(tmp_path)
    listed = json.loads(CliRunner().invoke(app, ["jobs", str(tmp_path), "--json"]).output)
    assert listed[0]["kind"] == "sweep" and listed[0]["done"] == listed[0]["shards"] and listed[0]["size"] == 19


@pytest.mark.parametrize(
    "metric",
    [
        cb.logit(3),
        cb.logit_diff([3, 4], [5, 6]),
        cb.prob(3),
        cb.log_prob(3, pos=1),
        cb.prob_diff([3, 4], [5]),
        cb.loss(),
        cb.activation("resid_post", layer=0, direction=torch.ones(32)),
    ],
    ids=lambda metric: metric.name,
)
def test_a_metric_that_was_sent_measures_the_same(metric):
    run = model().run(PROMPTS, read=["resid_post"])
    arrived = pickle.loads(pickle.dumps(metric))
    torch.testing.assert_close(arrived(run), metric(run), rtol=0, atol=0)
    assert (arrived.name, arrived.pos, arrived.reads) == (metric.name, metric.pos, metric.reads)


def test_a_metric_called_wrongly_is_refused_in_words():
    with pytest.raises(CasebackError, match="logit: got an unexpected keyword argument 'position'"):
        cb.logit(3, position=1)


def test_a_run_that_was_sent_holds_the_same():
    run = model().run(PROMPTS, read=["resid_post", ("z", 1)], grad=True)
    arrived = pickle.loads(pickle.dumps(run))
    assert arrived.sites == run.sites and arrived.edited == run.edited
    for key in ("resid_post", ("z", 1)):
        torch.testing.assert_close(arrived[key], run[key].detach(), rtol=0, atol=0)
    assert torch.equal(arrived.logits, run.logits) and torch.equal(arrived.tokens.ids, run.tokens.ids)
