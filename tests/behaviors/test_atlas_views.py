"""What the atlas shows: a map of experts, and in every table which domain, relation or letter a unit is of."""

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import caseback as cb
from caseback.behaviors import atlas, load_atlas, save_atlas
from caseback.behaviors.atlas import Atlas, KindReport
from caseback.model.findings import Finding, Findings
from caseback.reports.atlas import atlas_document
from caseback.views.page.atlas import atlas_html
from caseback.views.text.atlas import print_atlas

TEXTS = ["Mary gave a drink to John in the park.", "the cat is on the table, and the dog ran."] * 40


@pytest.fixture(scope="module")
def mixture():
    """An atlas of two layers of three experts, two of which have a domain."""
    names = [f"L{layer}X{i}" for layer in range(2) for i in range(3)]
    score = np.array([0.9, 0.1, 0.2, 0.1, 0.8, 0.0])
    frame = pd.DataFrame({"unit": names, "score": score, "control": 0.0, "ranked_by": score, "band": 0.5})
    frame["class"] = ["code", "prose", "code", "prose", "prose", "code"]
    report = KindReport("domain expert", "expert", "B.33", "", "", "", 0.6, 0.5, 2, 0, 6, "loss by domain")
    one = Finding("L0X0", "domain expert", 0.9, 0.0, 0.5, -0.2, "nats", "proved", {"proved": "alone", "class": "code"})
    about = {"model": "mixture", "layers": 2, "heads": 0, "tokens": 10}
    return Atlas((report,), Findings((one,), about), {"domain expert": frame}, about=about)


def test_the_page_has_a_map_of_experts(mixture):
    document = atlas_document(mixture)
    assert [(e["name"], e["labels"], e["classes"], e["proved"]) for e in document["experts"] if e["labels"]] == [
        ("L0X0", ["domain expert"], ["code"], ["domain expert"]),
        ("L1X1", ["domain expert"], ["prose"], []),
    ]
    html = atlas_html(document)
    assert "layers by experts" in html and "L1X1: domain expert of prose (seen)" in html
    assert "class='s9' title='L0X0: domain expert of code (proved)'" in html
    # every link of the map leads somewhere
    for name in ("L0X0", "L1X1"):
        assert html.count(f"href='#{name}'") == 1 and html.count(f"id='{name}'") == 1
    assert "layers by experts" not in atlas_html(atlas_document(atlas(cb.load("meadow"), kinds="copying", top=1)))


def test_the_terminal_names_the_class(mixture):
    console = Console(width=100, record=True)
    print_atlas(atlas_document(mixture), console=console)
    row = next(line for line in console.export_text().splitlines() if "L0X0" in line)
    assert "code" in row and "proved alone" in row


def test_a_narrow_terminal_cuts_the_class_and_no_number():
    of = ", ".join(["itself", "themselves", "herself"] * 4)
    report = KindReport("concept promoting", "neuron", "5.2.5", "", "", "", 1.0, 44.76, 1, 0, 9, "clamped")
    shown = {"proved": "alone", "class": of, "matched units": 0.88}
    one = Finding("L20N1036", "concept promoting", 110.68, 0.92, 44.76, 10.16, "deviations", "proved", shown)
    about = {"model": "deep", "layers": 30, "heads": 0, "tokens": 10}
    columns = {"score": 110.68, "control": 0.92, "ranked_by": 110.68, "band": 44.76, "class": of}
    scores = {"concept promoting": pd.DataFrame({"unit": ["L20N1036"], **columns})}
    console = Console(width=80, record=True)
    print_atlas(atlas_document(Atlas((report,), Findings((one,), about), scores, about=about)), console=console)
    row = next(line for line in console.export_text().splitlines() if "L20N1036" in line)
    for whole in ("110.68", "0.92", "44.76", "+10.16", "+0.88", "proved alone", "itself"):
        assert whole in row


def test_classes_are_kept_in_a_folder(tmp_path):
    found = atlas(cb.load("meadow"), TEXTS, kinds=["alphabet", "word start"], top=2, proofs=False)
    save_atlas(found, tmp_path / "atlas")
    back = load_atlas(tmp_path / "atlas").scores
    assert back["alphabet"]["class"].tolist() == found.scores["alphabet"]["class"].tolist()
    assert set(back["alphabet"]["class"]) <= set("abcdefghijklmnopqrstuvwxyz")
    assert "class" not in back["word start"] and "class" not in found.scores["word start"]


def test_cards_have_words_and_the_windows_where_a_unit_is_strongest(tmp_path):
    from caseback.behaviors.cards import cards_of
    from caseback.behaviors.evidence import collect_evidence

    model = cb.load("meadow")
    texts = [
        f"{a} gave a {thing} to {b} in the park."
        for a in ("Mary", "John")
        for b in ("Tom", "Anna")
        for thing in ("drink", "book", "ball", "flower")
    ]
    needs = {"text": ("neuron_windows", "head_moments")}
    evidence = collect_evidence(model, texts, needs)
    evidence.prompts = [model.tokens(text).ids[0].tolist() for text in texts[:3]]
    cards = cards_of(evidence, ["L2H2", "L3N154", "L1X0", "L2H2"])
    assert list(cards) == ["L2H2", "L3N154"]
    # words: the ends of what the unit writes by its weights
    from caseback.decode.vocabulary.weights.weight_words import weights_as_words

    (line,) = cards["L3N154"]["words"]
    out = weights_as_words(model, "out", 3, units=[154], k=5)
    assert line["writes"] == out["top_text"].values[0].tolist() and len(line["reads"]) == len(line["lowers"]) == 5
    assert [len(line["writes"]) for line in cards["L2H2"]["words"]] == [5, 5]
    # windows: a neuron's largest activation of all texts of the half, in its row
    runs = [model.run(text, read=[("mlp_post", 3)]) for text in evidence.documents[1]]
    largest = max(float(run["mlp_post", 3][0, :, 154].max()) for run in runs)
    first = cards["L3N154"]["windows"][0]
    assert first["value"] == pytest.approx(largest, rel=1e-2) and max(first["share"]) == 100
    assert first["share"][first["at"]] == 100
    assert any(text.startswith("".join(first["tokens"][1:])) for text in evidence.documents[1])
    # a head's: where it writes most, and what it looks at there
    for window in cards["L2H2"]["windows"]:
        assert window["at"] == len(window["tokens"]) - 1 >= 4 and max(window["share"]) == 100


def test_cards_are_of_labeled_candidates_saved_and_on_the_page(tmp_path):
    found = atlas(cb.load("meadow"), TEXTS, kinds=["alphabet", "copying"], top=2, proofs=False)
    assert set(found.cards) == {f.component for f in found.findings} and found.cards
    save_atlas(found, tmp_path)
    assert load_atlas(tmp_path).cards == found.cards
    document = atlas_document(found)
    assert document["cards"] == found.cards and "size of the write" in atlas_html(document)
    # without text there are words alone
    bare = atlas(cb.load("meadow"), kinds=["copying"], top=1, proofs=False).cards
    assert all(card["words"] and not card["windows"] for card in bare.values()) and bare
