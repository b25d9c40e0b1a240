"""A file of texts in JSON is read as its texts, at every door that takes one: never as lines with braces and quotes."""

import inspect
import json

import pytest
import torch

import caseback as cb
from caseback import cli

pytestmark = pytest.mark.usefixtures("plain")

TEXTS = [
    "Mary went to the store.",
    'John said "the cat sat on the mat" and\nleft.',  # a quote and a line end, which lines of JSON escape
    "The dog gave it to Mary in the park.",
]
FILES = {
    "lines.jsonl": "\n".join(json.dumps({"text": text}) for text in TEXTS) + "\n\n",
    "lines.ndjson": "\n".join(json.dumps(text) for text in TEXTS),
    "array.json": json.dumps([{"text": text, "source": "web"} for text in TEXTS], indent=2),
    "ARRAY.JSON": json.dumps(TEXTS),
}
KINDS = {
    "tuned": "fit_tuned_lens",
    "jacobian": "fit_jacobian_lens",
    "translator": "fit_translators",
    "future": "fit_future_lens",
}


@pytest.fixture(params=FILES)
def corpus(request, tmp_path):
    path = tmp_path / request.param
    path.write_text(FILES[request.param], encoding="utf-8")
    return str(path)


def answer(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "--json"])
    printed = capsys.readouterr()
    assert ended.value.code == 0, printed.err
    return json.loads(printed.out)


class Read(Exception):
    """What a lens would have been fitted on."""


@pytest.mark.parametrize("kind", KINDS)
def test_every_lens_is_fitted_on_the_texts(kind, corpus, monkeypatch):
    def stopped(model, texts, **_):
        raise Read(list(texts))

    monkeypatch.setattr(f"caseback.decode.vocabulary.{KINDS[kind]}", stopped)
    monkeypatch.setenv("CASEBACK_DEBUG", "1")
    with pytest.raises(Read) as read:
        cli.main(["lens", "Mary went", "--kind", kind, "--fit", corpus])
    assert read.value.args == (TEXTS,)


def test_the_strongest_inputs_are_those_of_the_texts_by_plain_transformers(corpus, capsys):
    model, unit = cb.load("meadow"), 3
    kept = []
    handle = model.hf.transformer.h[1].mlp.act.register_forward_hook(lambda _, __, out: kept.append(out[0, :, unit]))
    with torch.no_grad():
        for text in TEXTS:
            model.hf(**model.tokenizer(text, return_tensors="pt"))
    handle.remove()
    strongest = sorted(torch.cat(kept).tolist(), reverse=True)[:4]
    made = answer(capsys, "activating", corpus, "--layer", "1", "--units", str(unit), "--top", "4")
    assert [e["value"] for e in made["units"][0]["examples"]] == pytest.approx(strongest, abs=1e-4)


def test_training_examples_are_the_texts(corpus, capsys):
    scores = answer(capsys, "influence", TEXTS[1], "--corpus", corpus, "--method", "bm25")
    assert scores["data_vars"]["text"]["data"][0][0] == TEXTS[1]
    assert sorted(scores["data_vars"]["text"]["data"][0]) == sorted(TEXTS)


@pytest.mark.parametrize(("command", "option"), [("lens", "fit"), ("influence", "corpus"), ("activating", "corpus")])
def test_the_help_says_so(command, option):
    commands = {c.__name__: c for c in cli.COMMANDS}
    words = inspect.signature(commands[command]).parameters[option].annotation.__metadata__[0].help
    assert "one a line, or JSON (.json, .jsonl)" in words
