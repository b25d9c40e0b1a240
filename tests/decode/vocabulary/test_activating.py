"""Activating inputs: exact whatever the batches, the padding and interruptions; the planted trigger is on top (4.3.14)."""

import pytest
import torch

import caseback as cb
import shelf
from caseback.decode.vocabulary.activating import activating_inputs, load_activating
from caseback.decode.vocabulary.activating.collect import work_of
from caseback.decode.vocabulary.activating.tally import EIGHTHS
from caseback.errors import CasebackError, LoadError, OutOfRange, SiteAbsent, UnknownSite
from caseback.jobs.job import Job
from caseback.jobs.working import work_on
from caseback.organisms.compiled import build
from caseback.stream import collect
from caseback.stream.collect import Collecting
from caseback.stream.tables.ordered_keys import index_of, keys_of, values_of
from exact import exact

CORPUS = [*shelf.ids((9, 4, 17, 2, 11, 6, 1), seed=3), *shelf.ids((9, 5), seed=3)]  # the last two repeat the first


def same(a, b):
    assert torch.equal(index_of(a.tally.keys), index_of(b.tally.keys))
    torch.testing.assert_close(values_of(a.tally.keys), values_of(b.tally.keys), rtol=1e-6, atol=1e-7, equal_nan=True)
    assert torch.equal(a.tally.histogram, b.tally.histogram) and torch.equal(a.tally.firing, b.tally.firing)
    assert torch.equal(a.tally.sample_index, b.tally.sample_index)
    torch.testing.assert_close(a.tally.sample_values, b.tally.sample_values)
    torch.testing.assert_close(a.tally.moments, b.tally.moments)
    assert a.names == b.names and torch.equal(a.rows.ids(), b.rows.ids())


def by_hand(model, site, layer, length=8):
    """Every activation, a row at a time: no batches, no padding."""
    rows = [row[i : i + length] for row in CORPUS for i in range(0, len(row), length)]
    return torch.cat([model.run(row, read=[(site, layer)])[site, layer][0] for row in rows]), rows


@pytest.mark.parametrize(
    ("family", "site"),
    [("gpt2", "mlp_post"), ("llama", "mlp_post"), ("gptj", "resid_post"), ("gpt_neox", "mlp_post")]
    + [("gemma2", "mlp_out"), ("mixtral", "expert"), ("llama", "logits")],
)
@pytest.mark.parametrize(("batch", "padding"), [(1, "right"), (3, "left"), (16, "right")])
def test_the_top_and_the_counts_are_those_of_one_row_at_a_time(family, site, batch, padding):
    model = shelf.model(family)
    layer = None if site == "logits" else 1
    with exact():
        found = activating_inputs(
            model, CORPUS, site, layer=layer, top=5, length=8, batch=batch, padding=padding, sample=20
        )
        if layer is None:
            values = torch.cat([model.run(row).logits[0] for row in by_hand(model, "resid_post", 1)[1]])
        else:
            values, _ = by_hand(model, site, layer)
    assert found.n_tokens == len(values) == sum(map(len, CORPUS))
    values = values.detach()
    order = values.float().sort(dim=0, descending=True, stable=True).indices[:5].T
    assert torch.equal(index_of(found.tally.keys), order)
    torch.testing.assert_close(values_of(found.tally.keys), values.float().T.gather(1, order))
    assert torch.equal(found.tally.firing, (values > 0).sum(0))
    torch.testing.assert_close(found.mean(), values.double().mean(0))
    torch.testing.assert_close(found.std(), values.double().std(0, correction=0))
    torch.testing.assert_close(found.tally.sample_values, values.float()[found.tally.sample_index])
    assert len(found.tally.sample_index.unique()) == 20


def test_what_repeats_is_told_by_its_place():
    model = shelf.model("llama")
    with exact():
        found = activating_inputs(model, CORPUS[:1] * 3, "mlp_post", layer=0, top=3, batch=2)
    n = len(CORPUS[0])
    first = index_of(found.tally.keys)[:, 0]
    assert torch.equal(index_of(found.tally.keys), torch.stack([first, first + n, first + 2 * n], 1))


def test_a_row_gives_its_strongest_token_alone():
    model = shelf.model("llama")
    with exact():
        found = activating_inputs(model, CORPUS, "mlp_post", layer=1, top=4, length=8, batch=4, per_row=True)
        values, rows = by_hand(model, "mlp_post", 1)
    best = torch.stack([part.max(0).values for part in values.split([len(r) for r in rows])])
    torch.testing.assert_close(values_of(found.tally.keys), best.topk(4, 0).values.T.float())
    placed = found.top(model)
    assert all(len(set(r)) == 4 for r in placed.row.values.tolist())


def test_heads_directions_and_features_are_units_too():
    model = shelf.model("llama")
    z = torch.cat([model.run(row, read=[("z", 1)])["z", 1][0] for row in CORPUS])
    flat = z.flatten(1)
    matrix = torch.randn(3, flat.shape[1], dtype=torch.float64)
    cases = {
        "norm": ({}, z.norm(dim=-1)),
        "flat": ({"heads": "flat"}, flat),
        "matrix": ({"directions": matrix}, flat @ matrix.T),
        "function": ({"directions": lambda x: (x @ matrix.T - 1).relu()}, (flat @ matrix.T - 1).relu()),
    }
    for options, wanted in cases.values():
        found = activating_inputs(model, CORPUS, "z", layer=1, top=2, **options)
        torch.testing.assert_close(values_of(found.tally.keys), wanted.topk(2, 0).values.T.float())
        assert found.tally.keys.shape == (wanted.shape[1], 2)


def test_first_positions_can_be_left_out():
    model = shelf.model("gpt2")
    found = activating_inputs(model, CORPUS, "mlp_post", layer=0, top=50, skip=2)
    assert found.n_tokens == sum(max(0, len(row) - 2) for row in CORPUS)
    top = found.top(model)
    assert int(top.pos.where(top.pos >= 0).min()) == 2
    assert bool(top.isnull().any()) == (found.n_tokens < 50)


OPTIONS = {"layer": 1, "top": 4, "length": 8, "sample": 15, "batch": 2}
STORED = {**OPTIONS, "shard_tokens": 12, "threads": 1}


def contents(store):
    return {str(path.relative_to(store)): path.read_bytes() for path in sorted(store.rglob("*.safetensors"))}


@pytest.mark.parametrize("after", [1, 2, 4])
def test_an_interrupted_job_goes_on_to_the_same_end(tmp_path, after, monkeypatch):
    model, store, work = shelf.model("llama"), tmp_path / "store", Collecting.__call__
    with exact():
        whole = activating_inputs(model, CORPUS, "mlp_post", **OPTIONS)

        def stopping(self, job, shard):
            if shard == after:
                raise KeyboardInterrupt
            return work(self, job, shard)

        monkeypatch.setattr(Collecting, "__call__", stopping)
        with pytest.raises(KeyboardInterrupt):
            activating_inputs(model, CORPUS, "mlp_post", store=store, **STORED)
        monkeypatch.undo()
        with pytest.raises(LoadError, match="run the collection again"):
            load_activating(store)
        kept = {path: path.stat().st_mtime_ns for path in (store / "shards").iterdir()}
        assert len(kept) == after
        again = activating_inputs(model, CORPUS, "mlp_post", store=store, **STORED)
    same(whole, again)
    same(whole, load_activating(store))
    assert all(path.stat().st_mtime_ns == at for path, at in kept.items())
    assert not [p for p in store.iterdir() if p.name.startswith(".")]


@pytest.mark.slow
def test_any_number_of_workers_comes_to_the_same_bytes(tmp_path):
    model = shelf.model("llama")
    activating_inputs(model, CORPUS, "mlp_post", store=tmp_path / "alone", **STORED)
    activating_inputs(model, CORPUS, "mlp_post", store=tmp_path / "many", workers=2, **STORED)
    assert contents(tmp_path / "many") == contents(tmp_path / "alone")
    same(load_activating(tmp_path / "many"), load_activating(tmp_path / "alone"))


def test_a_worker_joins_from_elsewhere_and_another_model_does_not(tmp_path):
    model, store = shelf.model("llama"), tmp_path / "store"
    activating_inputs(model, CORPUS, "mlp_post", store=store, **STORED)
    before = contents(store)
    job = Job.open(store)
    for shard in (0, 2):
        job.path(shard).unlink()
    work_on(job, work_of(job, model))
    assert contents(store) == before
    with pytest.raises(LoadError, match="of another model"):
        work_of(job, shelf.model("gpt2"))
    options = {**STORED, "directions": torch.eye(3, model.d_model)}
    activating_inputs(model, CORPUS, "resid_post", store=tmp_path / "directions", **options)
    with pytest.raises(LoadError, match="of directions that it does not hold"):
        work_of(Job.open(tmp_path / "directions"), model)


@pytest.mark.parametrize(
    "file", ["shards/00001.safetensors", "rows/00001.safetensors", "tables/activating.safetensors"]
)
@pytest.mark.parametrize("how", ["flipped", "truncated"])
def test_what_was_damaged_is_made_again(file, how, tmp_path):
    model, store = shelf.model("llama"), tmp_path / "store"
    activating_inputs(model, CORPUS, "mlp_post", store=store, **STORED)
    before = contents(store)
    data = before[file]
    flipped = data[:-4] + bytes([data[-4] ^ 1]) + data[-3:]
    (store / file).write_bytes(flipped if how == "flipped" else data[: len(data) // 2])
    if "shards" not in file:  # of the shards only the sum is read
        with pytest.raises(LoadError, match="cannot be read"):
            load_activating(store)
    activating_inputs(model, CORPUS, "mlp_post", store=store, **STORED)
    assert contents(store) == before


def test_a_corpus_that_has_grown_adds_to_what_is_there(tmp_path):
    model, store = shelf.model("llama"), tmp_path / "store"
    with exact():
        activating_inputs(model, CORPUS[:5], "mlp_post", store=store, **STORED)
        kept = {path: path.stat().st_mtime_ns for path in sorted((store / "shards").iterdir())[:-1]}
        grown = activating_inputs(model, CORPUS, "mlp_post", store=store, **STORED)
        same(grown, activating_inputs(model, CORPUS, "mlp_post", **OPTIONS))
    assert kept and all(path.stat().st_mtime_ns == at for path, at in kept.items())


def test_a_store_of_something_else_is_refused(tmp_path):
    model, store = shelf.model("llama"), tmp_path / "store"

    def collected(of=model, corpus=CORPUS, **options):
        activating_inputs(of, corpus, "mlp_post", store=store, **{**STORED, **options})

    collected()
    before = contents(store)
    for options, says in (
        ({"top": 3}, r"what differs: top \(4 there, 3 here\)"),
        ({"of": shelf.model("gpt2")}, "what differs: .*model"),
        ({"corpus": CORPUS[1:]}, "other inputs .from shard 0 on"),
        ({"corpus": CORPUS[:2]}, "other inputs"),
        ({"batch": 3}, r"what differs: batch_tokens \(16 there, 24 here\)"),
        ({"padding": "left"}, "what differs: padding"),
        ({"skip": 1}, "what differs: skip"),
    ):
        with pytest.raises(LoadError, match=says):
            collected(**options)
    assert contents(store) == before
    with pytest.raises(LoadError, match="holds no collection"):
        load_activating(tmp_path)
    with pytest.raises(LoadError, match="was made without directions"):
        load_activating(store, directions=torch.eye(3))
    with pytest.raises(CasebackError, match="directions is the class object"):
        activating_inputs(model, CORPUS, "mlp_post", layer=1, directions=object)
    with pytest.raises(CasebackError, match="other workers need a folder"):
        activating_inputs(model, CORPUS, "mlp_post", layer=1, workers=2)
    collect(model, CORPUS, "stream_moments", folder=tmp_path / "tables")
    with pytest.raises(LoadError, match="a job of the kind 'collect'"):
        load_activating(tmp_path / "tables")


def test_the_planted_trigger_is_the_top_example():
    organism = build("planted_neurons")
    model = organism.model
    roles = {str(role): node for node, role in organism.circuit.roles.items()}
    node = roles["bigram: new york (5.2.12)"]
    prompts = [["the", "old", "city", "has"], ["a", "dog", "sees", "new", "york", "has"], ["york", "has", "new", "the"]]
    rows = [organism.tokens([p]).ids[0].tolist() for p in prompts]
    found = activating_inputs(model, rows, "mlp_post", layer=0, units=[node.index], top=2)
    (best, *rest) = found.examples(model, node.index)
    assert "".join(best.text[-3:]).replace(" ", "").endswith("yorkhas") or best.text[best.pos - best.first] == "york"
    assert best.text[best.pos - best.first - 1 : best.pos - best.first + 1] == ["new", "york"]
    assert best.row == 1 and best.value == pytest.approx(1) and all(e.value < 0.5 for e in rest)
    assert float(found.frequency()[0]) == pytest.approx(1 / found.n_tokens)


def test_windows_hold_what_stood_there():
    model = shelf.model("llama")
    with exact():
        found = activating_inputs(model, CORPUS, "mlp_post", layer=1, top=3, length=8)
        for unit in (0, 5):
            top = found.top(model).sel(feature=unit)
            for k, example in enumerate(found.examples(model, unit, before=3, after=2)):
                row = found.rows[example.row]
                assert (example.row, example.pos) == (int(top.row[k]), int(top.pos[k]))
                assert example.ids == row[max(0, example.pos - 3) : example.pos + 3]
                values = model.run(row, read=[("mlp_post", 1)])["mlp_post", 1][0, :, unit]
                assert example.values == pytest.approx(values[example.first : example.pos + 3].tolist(), abs=1e-6)
                assert example.value == pytest.approx(float(top[k]), abs=1e-6)


def test_ranges_have_examples_from_bottom_to_top():
    model = shelf.model("llama")
    with exact():
        found = activating_inputs(model, CORPUS, "mlp_post", layer=1, top=3)
        ranges = found.ranges(model, 2, bins=3, each=2)
    assert len(ranges) == 3 and all(low < high for low, high, _ in ranges)
    for low, high, examples in ranges:
        assert all(low - 1e-6 <= e.value <= high + 1e-6 for e in examples)
    assert ranges[0][2] and ranges[-1][2]


def test_keys_keep_order_and_come_back():
    values = torch.tensor([[0.0, -0.0, 1.5, -3.0, torch.inf, -torch.inf, 1e-40, -1e-40, 1.5]])
    keys = keys_of(values, torch.arange(9))
    assert torch.equal(values_of(keys), values) and torch.equal(index_of(keys), torch.arange(9)[None])
    assert index_of(keys.sort(descending=True).values)[0].tolist() == [4, 2, 8, 6, 0, 1, 7, 3, 5]


def test_bins_hold_what_is_between_their_edges():
    values = torch.cat([torch.randn(2000) * 10 ** torch.randint(-7, 7, (2000,)), torch.tensor([0.0, -0.0, 2.0**16])])
    bins, edges = EIGHTHS.of(values[:, None])[:, 0], EIGHTHS.edges()
    low, high = edges[bins], edges[bins + 1]
    assert bool(((values >= low) & (values <= high)).all())
    inside = (values.abs() >= 2**-16) & (values.abs() < edges[-2])
    wide = (high - low)[inside] / values[inside].abs()
    assert float(wide.max()) <= 1 / 8 + 1e-6


def test_quantiles_are_right_to_their_bin():
    model = shelf.model("llama")
    with exact():
        found = activating_inputs(model, CORPUS, "resid_post", layer=1)
        values = torch.cat([model.run(row, read=[("resid_post", 1)])["resid_post", 1][0] for row in CORPUS])
    q = [0.1, 0.5, 0.9, 1.0]
    got = found.quantiles(q).double()
    need = [int(torch.tensor(x * len(values)).ceil()) - 1 for x in q]
    exactly = values.sort(0).values[need].T
    assert bool(((got - exactly).abs() <= exactly.abs() / 8 + 2**-16).all())


@pytest.mark.parametrize("corpus", [[], ["", "  \n"], [[]]])
def test_an_empty_corpus_is_refused(corpus):
    with pytest.raises(CasebackError, match="corpus is empty"):
        activating_inputs(cb.load("meadow"), corpus, "mlp_post", layer=0)


def test_bad_input_says_what_is_wrong(tmp_path):
    model = shelf.model("llama")
    with pytest.raises(SiteAbsent, match="has no units"):
        activating_inputs(model, CORPUS, "pattern", layer=0)
    with pytest.raises(SiteAbsent, match="has no units"):
        activating_inputs(model, CORPUS, "attn_norm.scale", layer=0)
    with pytest.raises(OutOfRange, match="say which with layer="):
        activating_inputs(model, CORPUS, "mlp_post")
    with pytest.raises(OutOfRange, match="unit 99999"):
        activating_inputs(model, CORPUS, "mlp_post", layer=0, units=[99999])
    with pytest.raises(UnknownSite):
        activating_inputs(model, CORPUS, "mlp_pots", layer=0)
    with pytest.raises(UnknownSite, match="no site 'mlp_post'|has no site"):
        activating_inputs(shelf.model("mixtral"), CORPUS, "mlp_post", layer=0)
    with pytest.raises(CasebackError, match="expected .units, "):
        activating_inputs(model, CORPUS, "mlp_post", layer=0, directions=torch.ones(2, 3))
    with pytest.raises(OutOfRange, match="top 0"):
        activating_inputs(model, CORPUS, "mlp_post", layer=0, top=0)
    with pytest.raises(CasebackError, match="is NaN"):
        activating_inputs(model, CORPUS, "mlp_post", layer=0, directions=lambda x: x * torch.nan)
    with pytest.raises(LoadError, match="is not a file"):
        activating_inputs(model, tmp_path / "none.txt", "mlp_post", layer=0)
    with pytest.raises(OutOfRange, match="was not collected"):
        activating_inputs(model, CORPUS, "mlp_post", layer=0, units=[1]).examples(model, 2)
