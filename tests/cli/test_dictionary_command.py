"""``caseback dictionary``: what one command writes, the next reads; JSON and pages say the same."""

import json

import pytest

from caseback import cli
from caseback import load as load_model
from caseback.decode.dictionaries import Facts, TopK, load, read_explanations, save, save_dictionary
from caseback.decode.dictionaries.training.pools import ModelPools

pytestmark = pytest.mark.usefixtures("plain")
TEXTS = ["Mary went to the store and John gave a drink to Mary.", "The cat sat. The dogs run to the red house."]


def answered(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(["dictionary", *arguments])
    printed = capsys.readouterr()
    assert ended.value.code == 0, printed.err
    return printed.out


def refused(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(["dictionary", *arguments])
    printed = capsys.readouterr()
    assert ended.value.code == 2 and printed.err.count("\n") == 1, printed.err
    return printed.err


@pytest.fixture
def corpus(tmp_path):
    file = tmp_path / "corpus.txt"
    file.write_text("\n".join(TEXTS * 10), encoding="utf-8")
    return file


def test_trained_measured_read_and_converted(capsys, corpus, tmp_path):
    folder, page = tmp_path / "trained", tmp_path / "page.html"
    options = ["--site", "resid_post:1", "--architecture", "batch_topk,standard", "--k", "4,8", "--width", "320"]
    asked = ["train", str(corpus), *options, "--l0", "5", "--tokens", "600", "--step-tokens", "100"]
    trained = json.loads(answered(capsys, *asked, "--store", str(folder), "--json"))
    names = ["resid_post.1-batch_topk-4", "resid_post.1-batch_topk-8", "resid_post.1-standard-5"]
    assert [one["name"] for one in trained["dictionaries"]] == names
    again = answered(capsys, *asked, "--store", str(folder))
    assert answered(capsys, *asked, "--store", str(folder), "--html", str(page)) == again
    assert "variance explained" in page.read_text(encoding="utf-8")
    assert "batch_topk-4" in again and "measure dictionaries on other text" in again
    files = [str(folder / f"{name}.safetensors") for name in names]

    measured = json.loads(answered(capsys, "eval", str(corpus), *files[:2], "--rows", "8", "--json"))
    assert [row["kind"] for row in measured["rows"]] == ["trained", "random"] * 2
    assert abs(measured["rows"][0]["l0"] - 4) < 1
    text = answered(capsys, "eval", str(corpus), files[0], "--rows", "8", "--html", str(page))
    assert "recovered" in text and "<svg" in page.read_text(encoding="utf-8")

    found = json.loads(
        answered(capsys, "features", files[1], str(corpus), "--features", "3,5", "--prompt", TEXTS[0], "--json")
    )
    assert [card["feature"] for card in found["cards"]] == [3, 5] and len(found["features"]) == 320
    most = max(found["features"], key=lambda row: row["max"])
    assert f"{most['feature']:7}" in answered(capsys, "features", files[1], str(corpus), "--rows", "1")

    answered(capsys, "convert", files[0], str(tmp_path / "saelens"))
    other = load(tmp_path / "saelens")
    assert other.n_features == 320 and other.facts.site == "resid_post.1"
    assert json.loads(answered(capsys, "list", "--model", "gemma-2-2b", "--json"))


def test_trained_end_to_end_or_only_at_the_end(capsys, corpus, tmp_path):
    options = ["--site", "resid_post:1", "--width", "64", "--k", "4", "--tokens", "600", "--step-tokens", "100"]
    for share, beside in (("1", "later"), ("0.5", None)):
        more = ["--end-to-end", share, *(["--beside", beside] if beside else [])]
        asked = ["train", str(corpus), *options, *more, "--store", str(tmp_path / share), "--json"]
        (one,) = json.loads(answered(capsys, *asked))["dictionaries"]
        assert one["curve"]["tokens"][-1] >= 600 * float(share) and min(one["curve"]["kl"]) > 0
        assert load(tmp_path / share / one["file"]).n_features == 64
    layers = [
        *options,
        "--architecture",
        "batch_topk_crosscoder",
        "--end-to-end",
        "0.5",
        "--store",
        str(tmp_path / "x"),
    ]
    layers[layers.index("resid_post:1")] = "resid_post:0+resid_post:1"
    (one,) = json.loads(answered(capsys, "train", str(corpus), *layers, "--json"))["dictionaries"]
    assert load(tmp_path / "x" / one["file"]).n_sources == 2 and min(one["curve"]["kl"]) > 0
    assert "end-to-end" in refused(
        capsys, "train", str(corpus), *options, "--end-to-end", "2", "--store", str(tmp_path)
    )


def test_switch_and_group_dictionaries_are_trained(capsys, corpus, tmp_path):
    options = ["--architecture", "switch,group_topk", "--site", "resid_post:1", "--width", "64", "--k", "4"]
    asked = ["train", str(corpus), *options, "--tokens", "600", "--step-tokens", "100", "--store", str(tmp_path)]
    trained = json.loads(answered(capsys, *asked, "--json"))["dictionaries"]
    assert [load(tmp_path / one["file"]).architecture for one in trained] == ["switch", "group_topk"]
    assert trained[1]["curve"]["l0"][-1] == 4
    odd = [*asked[:-1], str(tmp_path / "odd")]
    odd[odd.index("--k") + 1] = "3"
    assert "k is 3: expected a multiple of 2" in refused(capsys, *odd)
    chosen = [*asked[:-1], str(tmp_path / "chosen"), "--experts", "4", "--group-size", "4"]
    files = [one["file"] for one in json.loads(answered(capsys, *chosen, "--json"))["dictionaries"]]
    switch, groups = (load(tmp_path / "chosen" / file) for file in files)
    assert (switch.n_experts, groups.group_size) == (4, 4)
    assert "n_experts is 5: expected a divisor of 64" in refused(capsys, *odd, "--experts", "5")
    odd[odd.index("--architecture") + 1] = "topk"
    for flag, of in (("--experts", "switch"), ("--group-size", "group_topk")):
        assert f"{flag} is for {of}: expected --architecture {of}" in refused(capsys, *odd, flag, "2")


def test_temporal_dictionaries_are_trained_with_products_in_bfloat16(capsys, corpus, tmp_path):
    options = ["--architecture", "temporal", "--site", "resid_post:1", "--width", "60", "--k", "4"]
    asked = ["train", str(corpus), *options, "--tokens", "600", "--step-tokens", "100"]
    runs = [["--products", "bfloat16", "--store", str(tmp_path / "a")], ["--store", str(tmp_path / "b")]]
    one, whole = (json.loads(answered(capsys, *asked, *more, "--json"))["dictionaries"][0] for more in runs)
    assert load(tmp_path / "a" / one["file"]).own_options()["prefixes"] == [12, 60]
    assert one["curve"]["auxiliary"][0] > 0 and one["curve"]["error"] != whole["curve"]["error"]
    assert "needs the token before each" in refused(
        capsys, *asked, "--end-to-end", "0.5", "--store", str(tmp_path / "c")
    )
    pursuit = ["matching_pursuit" if word == "temporal" else word for word in asked]
    assert "products in float32 alone" in refused(
        capsys, *pursuit, "--products", "bfloat16", "--store", str(tmp_path / "d")
    )


def test_what_cannot_be_done_is_one_line(capsys, corpus, tmp_path):
    assert "--store FOLDER" in refused(capsys, "train", str(corpus))
    assert "no architecture is called 'tokp'" in refused(
        capsys, "train", str(corpus), "--architecture", "tokp", "--store", str(tmp_path / "a")
    )
    assert "no such" in refused(capsys, "features", "no such", str(corpus))
    other = TopK(160, 32, k=2, facts=Facts(site="resid_post.1", model="google/gemma-2-2b"))
    save_dictionary(other, tmp_path / "other.safetensors")
    asked = ["features", str(tmp_path / "other.safetensors"), str(corpus), "--cards", "0", "--prompt", "the cat"]
    assert "is of the model 'google/gemma-2-2b'" in refused(capsys, *asked)
    assert "resid_post.1" in answered(capsys, *asked, "--force")


def test_labels_are_shown_with_the_features_that_they_are_on(capsys, corpus, tmp_path):
    dictionary, notes, page = tmp_path / "one.safetensors", tmp_path / "notes.json", tmp_path / "page.html"
    save_dictionary(TopK(160, 320, k=4, facts=Facts(site="resid_post.1")), dictionary)
    label = ["label", str(notes)]

    def labelled(*arguments: str, status: int = 0):
        with pytest.raises(SystemExit) as ended:
            cli.main([*label, *arguments])
        printed = capsys.readouterr()
        assert ended.value.code == status, printed.err
        return printed

    labelled(
        "L1F3:resid_post", "<b>names</b>", "--note", "of people", "--author", "ann", "--dictionary", str(dictionary)
    )
    labelled("L1H0", "a head", "--author", "bob")
    shown = json.loads(labelled("--json").out)
    assert [(one["unit"], one["label"]) for one in shown["notes"]] == [
        ("L1F3:resid_post", "<b>names</b>"),
        ("L1H0", "a head"),
    ]
    assert "L1H0  a head  (bob)" in labelled().out
    asked = ["features", str(dictionary), str(corpus), "--features", "3,5", "--notes", str(notes), "--explain"]
    found = json.loads(answered(capsys, *asked, "--json"))
    assert found["features"][3]["label"] == "<b>names</b>" and found["features"][5]["label"] == ""
    assert found["cards"][0]["notes"] == [{"label": "<b>names</b>", "text": "of people", "by": "ann"}]
    assert found["cards"][1]["notes"] == [] and found["cards"][0]["explanation"]["text"]
    text = answered(capsys, *asked, "--html", str(page))
    assert "note    <b>names</b> (ann) of people" in text and "fires at" in text
    assert "<b>names</b>" not in page.read_text(encoding="utf-8")

    labelled("--dictionary", str(dictionary), "--export", str(tmp_path / "out"))
    assert [(one.index, one.description) for one in read_explanations(tmp_path / "out")] == [(3, "<b>names</b>")]
    other = tmp_path / "other.safetensors"
    save_dictionary(TopK(160, 320, k=4, facts=Facts(site="resid_post.1"), seed=1), other)
    assert "notes on the dictionary" in refused(capsys, "features", str(other), str(corpus), "--notes", str(notes))
    theirs = tmp_path / "theirs.json"
    notes.rename(theirs)
    labelled("L1H0", "--withdraw", "--author", "bob", status=2)
    labelled("--merge", str(theirs), status=2)  # there is no file yet
    labelled("L1H1", "another", "--merge", str(theirs))
    assert len(json.loads(labelled("--json").out)["notes"]) == 3
    labelled("L1H0", "--withdraw", "--author", "bob")
    assert len(json.loads(labelled("--merge", str(theirs), "--json").out)["notes"]) == 2
    for wrong in (["--withdraw"], ["L1H0"], ["L1H0", "x", "--withdraw"], ["L9H0", "x"], ["L1H0", " "], ["y", "x"]):
        assert labelled(*wrong, status=2).err.count("\n") == 1


def test_folders_whose_names_have_dots_or_are_alike_are_measured_each(capsys, corpus, tmp_path):
    folders = [tmp_path / name for name in ("resid_post.1-a", "resid_post.1-b", "other/resid_post.1-b")]
    for seed, folder in enumerate(folders):
        save(TopK(160, 64, k=4, facts=Facts(site="resid_post.1"), seed=seed), folder, format="saelens")
    rows = json.loads(answered(capsys, "eval", str(corpus), *map(str, folders), "--rows", "4", "--json"))["rows"]
    names = ["resid_post.1-a", str(folders[1]), str(folders[2])]
    assert [row["name"] for row in rows if row["kind"] == "trained"] == names
    assert "given twice" in refused(capsys, "eval", str(corpus), str(folders[0]), str(folders[0]))


def test_an_interrupted_training_says_whether_there_is_something_to_go_on_from(capsys, corpus, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ModelPools, "pool", interrupted)
    for name, left in (("new", ": nothing was done"), ("old", "and the same line goes on from there")):
        folder = tmp_path / name
        if name == "old":
            folder.mkdir()
            (folder / "training-end-to-end").touch()
        with pytest.raises(SystemExit) as ended:
            cli.main(["dictionary", "train", str(corpus), "--site", "resid_post:1", "--store", str(folder)])
        assert ended.value.code == 130 and capsys.readouterr().err.endswith(f"{left}\n")


def test_what_a_dictionary_is_and_cards_of_its_features(capsys, corpus, tmp_path):
    options = ["--width", "320", "--k", "4", "--tokens", "600", "--step-tokens", "100"]
    cross = ["--site", "resid_post:0+resid_post:2", "--architecture", "topk_crosscoder"]
    skip = ["--site", "mlp_in:1", "--target", "mlp_out:1", "--architecture", "topk", "--skip"]
    for name, kind in (("cross", cross), ("skip", skip)):
        answered(capsys, "train", str(corpus), *kind, *options, "--store", str(tmp_path / name))

    skipped = json.loads(answered(capsys, "show", str(tmp_path / "skip"), "7", "--json"))
    (one,) = skipped["dictionaries"]
    assert one["sources"] == ["mlp_in.1"] and one["targets"] == ["mlp_out.1"] and one["skip"]
    assert one["layout"] == "caseback" and one["model"] == "meadow" and one["options"]["k"] == 4
    how = one["trained"]["trained"]
    assert how["tokens"] >= 600 and how["recipe"] == {"width": 320, "skip": True} and how["last_step"]["l0"] == 4
    (card,) = skipped["cards"]
    assert card["feature"] == 7 and not card["up"] and not card["examples"] and len(card["neighbors"]) == 5
    text = answered(capsys, "show", str(tmp_path / "skip"), "7")
    assert "adds a linear map of what it reads" in text and "explained" in text and "feature 7" in text

    page = tmp_path / "page.html"
    asked = ["show", str(tmp_path / "cross"), "3", "5", "-m", "meadow", "--corpus", str(corpus)]
    shown = json.loads(answered(capsys, *asked, "--json", "--html", str(page)))
    (one,) = shown["dictionaries"]
    assert one["sources"] == ["resid_post.0", "resid_post.2"] and sum(one["classes"].values()) == 320
    assert [norm["target"] for norm in shown["cards"][0]["by_target"]] == one["targets"]
    features = ["features", str(tmp_path / "cross"), str(corpus), "--features", "3,5", "--json"]
    assert shown["cards"] == json.loads(answered(capsys, *features))["cards"] and shown["tokens"] > 100
    assert "batch" not in text and "resid_post.2" in page.read_text(encoding="utf-8")

    files = tmp_path / "many"
    several = ["--site", "mlp_in:0,mlp_in:2", "--target", "mlp_out:0,mlp_out:2", "--architecture", "topk"]
    answered(capsys, "train", str(corpus), *several, *options, "--store", str(files))
    both = json.loads(answered(capsys, "show", str(files), "--json"))["dictionaries"]
    assert [one["targets"] for one in both] == [["mlp_out.0"], ["mlp_out.2"]]
    assert "features of which of" in refused(capsys, "show", str(files), "3")
    assert "feature 900: there are 320" in refused(capsys, "show", str(tmp_path / "skip"), "900")
    assert "a corpus is read by a model" in refused(
        capsys, "show", str(files / f"{both[0]['name']}.safetensors"), "3", "--corpus", str(corpus)
    )
    assert "expected 1 target, or one for each" in refused(
        capsys,
        "train",
        str(corpus),
        *several,
        *options,
        "--store",
        str(files),
        "--target",
        "mlp_out:0,mlp_out:1,mlp_out:2",
    )


def test_dictionaries_of_several_sources_are_measured_target_by_target(capsys, corpus, tmp_path):
    options = ["--width", "64", "--k", "4", "--tokens", "600", "--step-tokens", "100"]
    cross = ["--site", "resid_post:0+resid_post:2", "--architecture", "topk_crosscoder"]
    answered(capsys, "train", str(corpus), *cross, *options, "--store", str(tmp_path / "cross"))
    page = tmp_path / "page.html"
    asked = ["eval", str(corpus), str(tmp_path / "cross"), "--rows", "4"]
    measured = json.loads(answered(capsys, *asked, "--json", "--html", str(page)))
    assert [row["name"] for row in measured["rows"] if row["kind"] == "trained"] == [
        "cross at resid_post.0",
        "cross at resid_post.2",
    ]
    (shared,) = measured["shared"]
    assert sum(shared["kinds"].values()) == 64 and shared["exclusive"] >= 0
    assert "latent scaling" in page.read_text(encoding="utf-8") and "latent scaling" in answered(capsys, *asked)

    both = ["--site", "resid_post:1", "--architecture", "topk_crosscoder", "--other-model", "meadow"]
    copy = tmp_path / "chat"
    load_model("meadow").hf.save_pretrained(copy)
    load_model("meadow").tokenizer.save_pretrained(copy)
    both[-1] = str(copy)
    answered(capsys, "train", str(corpus), *both, *options, "--store", str(tmp_path / "two"))
    (one,) = json.loads(answered(capsys, "show", str(tmp_path / "two"), "3", "-m", "meadow", "--json"))["dictionaries"]
    name = load_model(str(copy)).name
    capsys.readouterr()
    assert one["sources"] == ["meadow:resid_post.1", f"{name}:resid_post.1"]
    asked = ["eval", str(corpus), str(tmp_path / "two"), "--rows", "4"]
    assert "is of two models" in refused(capsys, *asked)
    rows = json.loads(answered(capsys, *asked, "--other-model", str(copy), "--json"))["rows"]
    assert [row["site"] for row in rows if row["kind"] == "trained"] == one["sources"]
    assert rows[0]["ce_increase"] == pytest.approx(rows[1]["ce_increase"], rel=1e-4)
    assert "no + and no --target" in refused(
        capsys, "train", str(corpus), *cross, *options, "--other-model", str(copy), "--store", str(tmp_path / "x")
    )
