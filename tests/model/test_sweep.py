"""A sweep is exact: every variant has the value of its own edited run."""

import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import EditError, OutOfRange
from caseback.model.anatomy.sites import SITES, Site
from caseback.model.running.run import resolve
from caseback.model.sweeping.segments import entry_layer, plan
from exact import exact


def close(model, tokens, variants, metric, *, tolerance=1e-10, every=1, **options):
    """Compare a sweep with one run a variant (or every so-manyth)."""
    swept = model.sweep(tokens, variants, metric, **options)
    assert swept.dims == ("variant", "batch") and swept.shape == (len(variants), len(tokens))
    torch.testing.assert_close(
        torch.tensor(swept.clean.values), metric(model.run(tokens)).double(), rtol=tolerance, atol=tolerance
    )
    for i in range(0, len(variants), every):
        alone = metric(model.run(tokens, edits=variants[i])).double()
        said = torch.tensor(swept.values[i]).double()
        assert (said - alone).abs().max() <= tolerance * (1 + alone.abs().max()), (i, swept.variant.values[i])
    return swept


def changed(model, rows):
    """Counterfactual prompts that differ from the third token on."""
    return [[(t + 1) % model.d_vocab if i > 2 else t for i, t in enumerate(row)] for row in rows]


def one_of_each_site(model, source, pos):
    """Every site replaced by another run's, and every site silenced."""
    variants = []
    for name in shelf.editable(model.anatomy):
        site = shelf.middle(model.anatomy, name)
        variants.append([cb.Resample(name, source, layer=site.layer, pos=pos)])
        if name != "scores":
            variants.append([cb.Zero(name, layer=site.layer)])
    return variants


def mixtures(model):
    """Several edits of several layers and kinds in one variant."""
    knockout = cb.Knockout(layer=1, head=[0, 2], query=-1, key=[1, 2])
    return [
        [cb.Zero("z", layer=1, head=1), cb.Add("resid_post", 0.3, layer=0, pos=3)],
        [knockout, cb.Scale("mlp_out", 2.0, layer=2, pos=[1, -1])],
        [cb.Noise("resid_pre", 0.5, layer=1)],
        [cb.Mean("mlp_out", layer=1)],
        [cb.Freeze("attn_out", layer=2), cb.Zero("z", layer=0)],
        [cb.Replace("resid_post", 1.5, layer=2, pos=-1, unit=[0, 3])],
        [cb.Add("resid_post", 0.7, layer=0, pos=1, prompt=1), cb.Zero("z", layer=1, pos=-1, prompt=[0, -1])],
        [cb.Affine("mlp_out", torch.ones(1, model.d_model), torch.ones(1, model.d_model), layer=1, pos=[0, 2])],
        [cb.Apply("attn_out", torch.tanh, layer=0, pos=slice(2, 5))],
        [
            cb.Project(
                "resid_mid" if "resid_mid" not in model.anatomy.lacks else "resid_post",
                torch.ones(1, model.d_model),
                layer=0,
            )
        ],
    ]


@pytest.mark.parametrize("name", shelf.FAMILIES)
def test_every_site_of_every_family(name):
    model = shelf.model(name)
    rows = shelf.ids((7, 9))
    with exact():
        tokens = model.tokens(rows)
        source = model.run(changed(model, rows), read=shelf.editable(model.anatomy))
        variants = one_of_each_site(model, source, pos=4)
        every = 1 if name in shelf.DISTINCT else 5
        close(model, tokens, variants, cb.logit_diff(3, 5), token_budget=150, every=every)


@pytest.mark.parametrize("name", shelf.DISTINCT)
def test_left_padding_mixed_edits_and_small_budgets(name):
    model = shelf.model(name)
    rows = shelf.ids((6, 9, 4))
    with exact():
        tokens = model.tokens(rows, padding="left")
        source = model.run(changed(model, rows), read=["resid_pre", "v", "z"])
        variants = mixtures(model)
        variants += [[cb.Resample(s, source, layer=layer)] for layer in range(3) for s in ("resid_pre", "v", "z")]
        close(model, tokens, variants, cb.prob(7), token_budget=12)


@pytest.mark.parametrize("name", shelf.FEW)
def test_metrics_of_other_positions_and_of_all(name):
    model = shelf.model(name)
    rows = shelf.ids((6, 9))
    with exact():
        tokens = model.tokens(rows)
        reference = model.run(changed(model, rows))
        variants = mixtures(model) + [[cb.Zero("mlp_out", layer=i, pos=p)] for i in range(3) for p in (0, 3, -1)]
        metrics = [
            cb.loss(),
            cb.prob(7, pos=3),
            cb.kl(reference),
            cb.log_prob([5, 8]),
            cb.function(lambda x: x.logsumexp(-1), pos=torch.tensor([2, -2])),
            cb.function(lambda x: x[:, 2, 4], pos=None),
        ]
        for i, metric in enumerate(metrics):
            close(model, tokens, variants, metric, token_budget=37, every=1 + i % 3)


@pytest.mark.parametrize("name", ["gpt2", "mistral", "gemma2", "bloom"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_maps_keys_and_values_on_both_sides_of_padding(name, side):
    model = shelf.model(name)
    rows = shelf.ids((6, 9))
    with exact():
        tokens = model.tokens(rows, padding=side)
        source = model.run(model.tokens(changed(model, rows), padding="left"), read=["scores", "pattern", "k"])
        variants = [
            [cb.Resample("pattern", source, layer=1)],
            [cb.Resample("scores", source, layer=0, head=2)],
            [cb.Resample("k", source, layer=1)],
            [cb.Zero("pattern", layer=1, head=0, unit=0)],
            [cb.Knockout(layer=2, query=-1, key=[0, 3])],
            [cb.Knockout(query=slice(3, None), key=1, renormalise=False)],
            [cb.Scale("v", 1.5, layer=0, pos=2), cb.Add("k", 0.2, layer=2, pos=-2)],
        ]
        close(model, tokens, variants, cb.logit_diff(3, 5), token_budget=20)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3_text"])
def test_thirty_two_tokens_with_sdpa(name):
    model = shelf.model(name, "sdpa")
    with exact():
        tokens = model.tokens(shelf.ids((32, 27)))
        variants = [[cb.Zero("resid_post", layer=i, pos=p)] for i in range(3) for p in range(0, 27, 5)]
        variants += [[cb.Zero("z", layer=i, head=h)] for i in range(3) for h in range(4)]
        close(model, tokens, variants, cb.logit_diff(3, 5), every=3)


@pytest.mark.slow
def test_256_tokens_of_real_text_in_float32(assets):
    model = cb.load(assets / "models" / "babyllama105")
    text = (assets / "data" / "tinyshakespeare").glob("**/*.txt")
    tokens = model.tokens(torch.tensor([model.tokens(next(text).read_text()[:250]).ids[0].tolist()])[:, :250])
    assert tokens.ids.shape[1] > 200
    variants = [[cb.Zero("attn_out", layer=i, pos=p)] for i in (0, 3) for p in (0, 100, -1)]
    variants += [[cb.Zero("z", layer=i, head=2)] for i in range(model.n_layers)]
    close(model, tokens, variants, cb.loss(), tolerance=1e-5, every=2)
    close(model, tokens, variants, cb.logit(5), tolerance=2e-5)


def test_a_real_model_in_float32(assets):
    model = cb.load(assets / "models" / "stories3M")
    tokens = model.tokens(
        ["Tom and Lily went to the park. Lily gave the ball to", "Lily and Tom sat. Tom gave the cake to"]
    )
    metric = cb.logit_diff([" Tom", " Lily"], [" Lily", " Tom"])
    variants = [[cb.Zero("z", layer=i, head=h)] for i in range(model.n_layers) for h in range(model.n_heads)]
    variants += [[cb.Zero("resid_post", layer=i, pos=p)] for i in range(model.n_layers) for p in (1, 5, -1)]
    close(model, tokens, variants, metric, tolerance=1e-5)


@pytest.mark.parametrize("name", ["llama", "gptj", "mixtral"])
def test_no_more_rows_at_once_than_the_budget_whatever_the_number_of_variants(name, hooks_only_look):
    """What a layer is handed bounds the memory."""
    model = shelf.model(name)
    tokens = model.tokens(shelf.ids((9, 9)))
    seen = []
    hook = model.anatomy.layers[1].layer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args[0] if args else kwargs["hidden_states"]).shape[:2].numel()),
        with_kwargs=True,
    )
    try:
        for budget in (40, 90):
            peaks = []
            for times in (1, 12):
                seen.clear()
                variants = [[cb.Zero("z", layer=0, head=h % 4, pos=h % 8)] for h in range(10 * times)]
                model.sweep(tokens, variants, cb.logit(3), token_budget=budget)
                peaks.append(max(seen))
            assert peaks[1] <= budget, (budget, peaks)
            assert peaks[1] > budget / 2
    finally:
        hook.remove()


def test_only_what_an_edit_reaches_is_computed(hooks_only_look):
    """An edit of the last position in layer 2 calls layer 1 for the clean run alone."""
    model = shelf.model("llama")
    tokens = model.tokens(shelf.ids((9,)))
    rows = {i: [] for i in range(3)}
    hooks = [
        p.layer.register_forward_pre_hook(
            lambda m, a, kw, i=i: rows[i].append(a[0].shape[:2].numel()), with_kwargs=True
        )
        for i, p in enumerate(model.anatomy.layers)
    ]
    try:
        model.sweep(tokens, [cb.Zero("z", layer=1, head=h, pos=-1) for h in range(4)], cb.logit(3))
    finally:
        for hook in hooks:
            hook.remove()
    assert rows[0] == [9]
    assert rows[1] == [9, 4]
    assert sum(rows[2]) <= 9 + 4


def test_an_edit_that_cannot_reach_the_metric_leaves_the_clean_value():
    model = shelf.model("llama")
    tokens = model.tokens(shelf.ids((9, 5)))
    swept = model.sweep(tokens, [cb.Zero("z", pos=-1), cb.Zero("z", pos=0)], cb.logit(3, pos=2))
    assert (swept.values[0] == swept.clean.values).all()
    assert (swept.values[1] != swept.clean.values).all()


@pytest.mark.parametrize(
    ("site", "layer"),
    [
        ("embed", 0),
        ("resid_pre.2", 2),
        ("z.1", 1),
        ("resid_post.1", 2),
        ("resid_post.2", 3),
        ("final_norm", 3),
        ("logits", 3),
    ],
)
def test_the_first_layer_that_an_edit_makes_a_difference_to(site, layer):
    name, _, at = site.partition(".")
    assert entry_layer(Site(name, int(at) if at else None), 3) == layer


def test_the_plan_starts_at_the_first_token_that_can_change():
    model = shelf.model("llama")
    rows = shelf.ids((9, 6))
    tokens = model.tokens(rows)
    bound = cb.logit(3).on(tokens, model.anatomy)
    source = model.run(changed(model, rows), read=["z"])

    def segments(*edits):
        return [
            (s.example, s.start, s.stop, s.layer)
            for s in plan(resolve(edits, model.anatomy, tokens), tokens, bound, model.anatomy, 0)
        ]

    assert segments(cb.Zero("z", layer=1, pos=-2)) == [(0, 7, 9, 1), (1, 4, 6, 1)]
    assert segments(cb.Zero("z", layer=2), cb.Zero("embed", pos=3)) == [(0, 0, 9, 0), (1, 0, 6, 0)]
    assert segments(cb.Resample("z", source, layer=1)) == [(0, 3, 9, 1), (1, 3, 6, 1)]
    assert segments(cb.Resample("z", source, layer=1, pos=[0, 1])) == []


def test_labels_are_the_edits_in_words_or_as_given():
    model = shelf.model("gpt2")
    variants = [cb.Zero("z", layer=1, head=2), [cb.Scale("mlp_out", 2.0, layer=0, pos=3), cb.Zero("embed", pos=-1)]]
    swept = model.sweep(shelf.ids(), variants, cb.logit(3))
    assert list(swept.variant.values) == ["Zero z L1H2", "Scale mlp_out L0 pos 3; Zero embed pos -1"]
    assert list(model.sweep(shelf.ids(), variants, cb.logit(3), labels=["a", "b"]).variant.values) == ["a", "b"]
    assert swept.name == "logit"


def test_what_cannot_be_swept_is_refused():
    model = shelf.model("gpt2")
    with pytest.raises(EditError, match="variant 1 has no edit"):
        model.sweep(shelf.ids(), [cb.Zero("z"), []], cb.logit(3))
    with pytest.raises(OutOfRange, match="position 9 is out of range: prompt 0 has 9 tokens"):
        model.sweep(shelf.ids(), [cb.Zero("z", pos=9)], cb.logit(3))
    with pytest.raises(EditError, match="token_budget=0: expected at least 1 row"):
        model.sweep(shelf.ids(), [cb.Zero("z")], cb.logit(3), token_budget=0)


def test_every_editable_site_has_been_swept():
    covered = {n for name in shelf.DISTINCT for n in shelf.editable(shelf.model(name).anatomy)}
    assert covered == {name for name, kind in SITES.items() if kind.editable}
