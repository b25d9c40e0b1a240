"""``caseback steer``: continuations side by side, the dose table, files in and out; one line for a mistake."""

import json
import math
import re

import pytest
import torch

import caseback as cb
from caseback import cli
from caseback.decode.directions import load_directions
from caseback.decode.states import read_states
from caseback.decode.steering import contrastive_addition, inference_time_intervention
from caseback.views.numbers_text import number

GOOD = "Review: The film was great and the show was lovely. Sentiment:"
BAD = "Review: The film was awful and the show was boring. Sentiment:"
PAIR = ["--positive", GOOD, "--negative", BAD]
TURNED = ["--target", " positive", "--foil", " negative"]


@pytest.fixture(autouse=True)
def wide(monkeypatch, plain):
    monkeypatch.setenv("COLUMNS", "140")


def answer(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["steer", *arguments])
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def test_continuations_stand_beside_each_other_above_the_curve(capsys):
    status, out, err = answer(capsys, BAD, *PAIR, *TURNED, "--strength", "1", "--strength=-1", "--generate", "1")
    assert status == 0, err
    row = next(line for line in out.splitlines() if " positive" in line and "Review" not in line)
    assert row.index("negative") < row.index("positive")
    for words in (
        "unsteered",
        "+1.00",
        "−1.00",
        "logit of ␣positive less that of ␣negative",
        "random KL",
        "perplexity",
    ):
        assert words in out


def test_json_is_what_the_library_gives(capsys):
    status, out, err = answer(
        capsys, BAD, "The dog was", *PAIR, *TURNED, "--layer", "3", "--strength", "1", "--generate", "4", "--json"
    )
    assert status == 0, err
    document = json.loads(out)
    assert document["direction"]["places"] == ["resid_post.3"] and document["strengths"] == [1.0]
    model = cb.load("meadow")
    found = contrastive_addition(model, GOOD, BAD).at("resid_post.3")
    for row, prompt in zip(document["continuations"], (BAD, "The dog was"), strict=True):
        for text, edits in ((row["unsteered"], []), (row["steered"][0], found.edits(1.0, unit="norm"))):
            assert prompt + text == model.text(model.generate(prompt, edits=edits, max_new_tokens=4))[0]
    effect = cb.logit_diff(" positive", " negative")(
        model.run([BAD, "The dog was"], edits=found.edits(1.0, unit="norm"))
    )
    assert document["dose"]["dose"] == [-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0]
    assert document["dose"]["effect"][5] == pytest.approx(float(effect.mean()), abs=1e-3)
    assert document["dose"]["monotone"] is True and document["dose"]["n_random"] == 3


def test_directions_are_kept_and_used_again(capsys, tmp_path):
    file = tmp_path / "good.safetensors"
    line = [BAD, *TURNED, "--generate", "2", "--strength", "0.5", "--json"]
    status, first, err = answer(capsys, *line, *PAIR, "--save", str(file))
    assert status == 0 and f"written to {file}" in err
    assert load_directions(file).names == [f"resid_post.{i}" for i in range(4)]
    status, again, _ = answer(capsys, *line, "--directions", str(file))
    assert status == 0
    assert json.loads(again)["dose"] == json.loads(first)["dose"]


def test_labeled_texts_give_a_direction(capsys, tmp_path):
    file = tmp_path / "texts.jsonl"
    rows = [(f"{a} + {b} =", "sum") for a in (2, 3, 4) for b in (5, 6)]
    rows += [(f"The {noun} was", "text") for noun in ("dog", "cat", "boat", "cake", "king", "farmer")]
    file.write_text("\n".join(json.dumps({"text": text, "kind": kind}) for text, kind in rows))
    line = ["The dog was", "--texts", str(file), "--label", "kind", "--generate", "0", "--json"]
    status, out, err = answer(capsys, *line, "--toward", "sum")
    assert status == 0, err
    document = json.loads(out)
    assert document["direction"]["classes"] == ["text", "sum"] and document["direction"]["auroc"] == [1.0]
    assert "perplexity" not in document["dose"]
    plain = tmp_path / "plain.txt"
    plain.write_text("The dog was old.\n\nMary went to the zoo.\n")
    status, out, _ = answer(capsys, *line, "--plain", str(plain))
    dose = json.loads(out)["dose"]
    assert status == 0 and dose["dose"] == [-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0]
    model = cb.load("meadow")
    texts = model.tokens(["The dog was old.", "Mary went to the zoo."])
    counts = (texts.lengths - 1).double()
    surprise = float((cb.loss()(model.run(texts)).double() * counts).sum() / counts.sum())
    assert dose["perplexity"][3] == pytest.approx(math.exp(surprise), rel=1e-4)


def test_only_what_is_generated_is_steered(capsys):
    status, out, _ = answer(
        capsys, "The dog was", *PAIR, "--pos", "generated", "--generate", "5", "--json", "--strength", "2"
    )
    row = json.loads(out)["continuations"][0]
    assert status == 0
    model = cb.load("meadow")
    found = contrastive_addition(model, GOOD, BAD).at("resid_post.2")
    edits = found.edits(2.0, unit="norm", pos="generated")
    whole = model.text(model.generate("The dog was", edits=edits, max_new_tokens=5))[0]
    assert whole == "The dog was" + row["steered"][0]


def test_the_page_has_the_numbers_of_the_json_and_no_markup_of_the_texts(capsys, tmp_path):
    page = tmp_path / "steered.html"
    prompt = "The <b>dog</b> was"
    line = [prompt, *PAIR, *TURNED, "--generate", "3", "--strength", "1", "--json", "--html", str(page)]
    status, out, err = answer(capsys, *line)
    assert status == 0 and f"written to {page}" in err
    document, text = json.loads(out), page.read_text(encoding="utf-8")
    dose = document["dose"]
    for name in ("effect", "kl", "perplexity"):
        assert text.count(f"<title>1: {number(dose[name][5])}</title>") >= 1
        assert f"<td>{number(dose[name][5])}</td>" in text
        low, mean, high = (number(dose[f"control_{name}{end}"][5]) for end in ("_low", "", "_high"))
        assert f"<td>{mean} <small>{low} to {high}</small></td>" in text
    assert "The <b>dog" not in text and text.count("<main ") == 1 and text.count("<script") == 2
    edges = sum(dose[f"doubles_{side}"] is not None for side in ("below", "above"))
    assert text.count("<path class='edge'") == 3 * edges


def test_what_is_written_is_read_back_by_the_model_without_the_direction(capsys):
    line = [BAD, "The dog was", *PAIR, "--layer", "3", "--strength", "1", "--generate", "4", "--json"]
    _, out, _ = answer(capsys, *line)
    rows = json.loads(out)["continuations"]
    model = cb.load("meadow")
    found = contrastive_addition(model, GOOD, BAD).at("resid_post.3")
    gap = float(found.write[0] @ found.detect[0])

    def along(text):
        """Of each token of a text, in float64."""
        x = read_states(model, [text], sites="resid_post.3", pos=slice(None)).x[0].double()
        return (x @ found.detect[0].double() / gap).tolist()

    plain = []  # without each text's first token
    for prompt in (BAD, "The dog was"):
        whole = model.generate(prompt, max_new_tokens=4)
        x = read_states(model, whole, sites="resid_post.3", pos=slice(1, None)).x[0].double()
        plain += (x @ found.detect[0].double() / gap).tolist()
    mean = sum(plain) / len(plain)
    for prompt, row in zip((BAD, "The dog was"), rows, strict=True):
        for text, read in zip((row["unsteered"], *row["steered"]), row["read"], strict=True):
            assert "".join(read["tokens"]) == text
            own = along(prompt + text)[-len(read["tokens"]) :] if text else []
            assert read["toward"] == pytest.approx([x - mean for x in own], abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["The dog"], "nothing says what is added"),
        (["The dog", "--positive", "a"], "--positive and --negative go together"),
        (["The dog", "--positive", "a", "--positive", "b", "--negative", "c"], "2 --positive and 1 --negative"),
        (["The dog", *PAIR, "--directions", "nowhere"], "--positive and --directions both say"),
        (["The dog", "--directions", "nowhere"], "nowhere"),
        (["The dog", *PAIR, "--strength", "0"], "--strength 0 adds nothing"),
        (["The dog", *PAIR, "--strength", "nan"], "--strength"),
        (["The dog", *PAIR, "--unit", "meter"], "--unit 'meter' is unknown"),
        (["The dog", *PAIR, "--pos", "end"], "--pos 'end' is unknown"),
        (["The dog", *PAIR, "--layer", "9"], "no direction at 'resid_post.9'"),
        (["The dog", *PAIR, "--site", "logits"], "logits"),
        ([" ", *PAIR], "the prompt is empty"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments, said):
    status, out, err = answer(capsys, *arguments)
    assert status == 2 and not out
    assert err.startswith("caseback: ") and err.count("\n") == 1 and said in err


def test_a_direction_of_another_model_is_refused(capsys, tmp_path):
    from caseback.decode.directions import save_directions
    from caseback.decode.states import Place
    from caseback.decode.steering.vectors import of_pairs

    file = tmp_path / "other.safetensors"
    save_directions(of_pairs(torch.ones(1, 2, 7), torch.zeros(1, 2, 7), [Place("resid_post", 2)]), file)
    status, _, err = answer(capsys, "The dog", "--directions", str(file))
    assert status == 2 and "width 7" in err


REVIEWS = [
    ("great", "lovely", "good"),
    ("charming", "superb", "good"),
    ("awful", "boring", "bad"),
    ("ugly", "sad", "bad"),
]
NOUNS = ("film", "game", "book", "song", "show", "play")


@pytest.fixture(scope="module")
def labeled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labeled")
    rows = [
        {"text": f"Review: The {noun} was {a} and the {noun} was {b}. Sentiment:", "label": label, "group": noun}
        for noun in NOUNS
        for a, b, label in REVIEWS
    ]
    kinds = [{"text": row["text"], "label": "review"} for row in rows[::4]]
    kinds += [
        {"text": f"{name} went to the store. They", "label": "story"}
        for name in ("Tom", "Mary", "Anna", "John", "Sam", "Kate")
    ]
    for name, records in (("reviews", rows), ("kinds", kinds)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder, rows, kinds


def test_heads_are_those_of_inference_time_intervention(capsys, labeled):
    folder, rows, _ = labeled
    texts = ["--texts", str(folder / "reviews.jsonl"), "--group", "group", "--best-heads", "3"]
    status, out, err = answer(capsys, BAD, *texts, *TURNED, "--strength", "2", "--generate", "3", "--json")
    assert status == 0, err
    document = json.loads(out)
    model = cb.load("meadow")
    found = inference_time_intervention(
        model,
        [row["text"] for row in rows],
        [row["label"] for row in rows],
        groups=[row["group"] for row in rows],
        heads=3,
        strength=2.0,
    )
    assert document["direction"]["places"] == found.names and document["unit"] == "difference"
    assert document["direction"]["difference"] == "a standard deviation of each head"
    effect = cb.logit_diff(" positive", " negative")(model.run(BAD, edits=found.edits()))
    assert document["dose"]["effect"][document["dose"]["dose"].index(2.0)] == pytest.approx(float(effect), abs=1e-3)
    status, out, _ = answer(capsys, BAD, *texts, *TURNED, "--generate", "1", "--json")
    assert json.loads(out)["strengths"] == [-15.0, 15.0]


def test_prompts_that_are_not_like_the_label_are_left_alone(capsys, labeled, tmp_path):
    folder, _, _ = labeled
    when = ["--when", str(folder / "kinds.jsonl"), "--when-label", "review"]
    line = [*PAIR, *TURNED, "--layer", "2", "--strength", "1", "--generate", "3"]
    status, out, err = answer(capsys, BAD, "Tom was at the zoo. He", *line, *when, "--json")
    assert status == 0, err
    document = json.loads(out)
    assert document["condition"]["met"] == [True, False]
    steered, left = document["continuations"]
    assert steered["steered"][0] != steered["unsteered"] and left["steered"][0] == left["unsteered"]
    alone = json.loads(answer(capsys, BAD, *line, "--json")[1])
    assert document["dose"]["effect"] == pytest.approx(alone["dose"]["effect"], abs=1e-3)
    status, out, _ = answer(capsys, BAD, "Tom was at the zoo. He", *line, *when, "--html", str(tmp_path / "page.html"))
    assert status == 0 and "left alone" in " ".join(out.split()) and "Steered: prompts whose mean at" in out
    assert "left alone: cosine" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([*PAIR, "--best-heads", "3"], "give --texts"),
        ([*PAIR, "--when-label", "review"], "give --when"),
        ([*PAIR, "--when", "{few}"], "1 of a label"),
        ([*PAIR, "--when", "{kinds}", "--when-label", "poem"], "poem"),
        ([*PAIR, "--when", "{kinds}", "--when-label", "story"], "no prompt meets the condition"),
    ],
)
def test_what_cannot_be_chosen_is_refused(capsys, labeled, tmp_path, arguments, says):
    folder, _, kinds = labeled
    few = tmp_path / "few.jsonl"
    few.write_text("".join(json.dumps(record) + "\n" for record in [*kinds[:2], *kinds[-2:]]))
    filled = [one.format(few=few, kinds=folder / "kinds.jsonl") for one in arguments]
    status, _, err = answer(capsys, BAD, *filled, "--generate", "1")
    assert status == 2 and re.search(says, err), err
