"""A batch of aligned examples: rows, other metrics, what cannot be measured."""

import pytest
import torch

import caseback as cb
from caseback.errors import CasebackError


@pytest.fixture(scope="module")
def ioi(meadow):
    return cb.tasks.ioi(corruption="swap").prompts(meadow, 12)


def test_rows(ioi, meadow):
    some = ioi[3:6]
    assert len(some) == 3
    assert some.pairs == ioi.pairs[3:6]
    assert torch.equal(some.at("IO"), ioi.at("IO")[3:6])
    assert some.groups == ioi.groups[3:6]
    assert ioi[-1].pairs == [ioi.pairs[-1]] and ioi[[0, 2]].target == [ioi.target[0], ioi.target[2]]
    whole = ioi.metric(meadow.run(ioi.clean))
    torch.testing.assert_close(some.metric(meadow.run(some.clean)), whole[3:6], atol=1e-4, rtol=1e-4)


def test_the_measures_are_those_of_the_logits(ioi, meadow):
    run = meadow.run(ioi.clean)
    rows = torch.arange(len(ioi))
    last = run.logits[rows, ioi.clean.lengths - 1]
    target, foil = torch.tensor(ioi.target)[:, 0], torch.tensor(ioi.foil)[:, 0]
    expected = {
        "logit": last[rows, target],
        "logit_diff": last[rows, target] - last[rows, foil],
        "log_prob": last.log_softmax(-1)[rows, target],
        "prob": last.softmax(-1)[rows, target],
        "prob_diff": last.softmax(-1)[rows, target] - last.softmax(-1)[rows, foil],
    }
    for measure, value in expected.items():
        torch.testing.assert_close(ioi.measured(measure)(run), value)
    assert ioi.measured("loss")(run).shape == (12,)


def test_the_corrupt_prompts_own_answer(ioi, meadow):
    run = meadow.run(ioi.corrupt)
    torch.testing.assert_close(
        ioi.measured("logit", corrupt=True)(run), ioi.measured("logit_diff")(run).neg() + ioi.measured("logit")(run)
    )
    with pytest.raises(CasebackError, match="corrupt prompts of ioi have no answer"):
        cb.tasks.ioi().prompts(meadow, 3).measured("logit", corrupt=True)


def test_prompts_are_a_corpus_with_their_words_as_labels(ioi, meadow):
    for corrupt, tokens in ((False, ioi.clean), (True, ioi.corrupt)):
        documents = ioi.documents(corrupt=corrupt)
        assert [ids for ids, _ in documents] == [
            ids[mask].tolist() for ids, mask in zip(tokens.ids, tokens.mask, strict=True)
        ]
    names = list(ioi.spans)
    for row, (ids, labels) in enumerate(ioi.documents()):
        for name in set(names) - {"end"}:
            first, last = ioi.spans[name][row].tolist()
            assert set(labels["role"][first : last + 1]) == {names.index(name)}
        assert labels["role"][len(ids) - 1] == names.index("end") and -1 in labels["role"]
        assert set(labels["group"]) == {list(dict.fromkeys(ioi.groups)).index(ioi.groups[row])}
    table = {"neuron_groups": {"groups": ("any", f"label:role:{len(names)}")}}
    collection = cb.stream.collect(meadow, ioi.documents(), [table])
    assert (
        collection.n_tokens
        == int(ioi.clean.mask.sum())
        == cb.stream.collect(meadow, ioi.clean, ["token_counts"]).n_tokens
    )


def test_what_cannot_be_measured(ioi, meadow):
    with pytest.raises(CasebackError, match="measure 'logit_dif' is unknown. Did you mean logit_diff"):
        ioi.measured("logit_dif")
    with pytest.raises(CasebackError, match=r"example 0 of greater_than has \d+ targets, .*prob_diff"):
        cb.tasks.greater_than().prompts(meadow, 3).measured("logit_diff")
    with pytest.raises(CasebackError, match="plain_text has no foil: use measured"):
        cb.tasks.plain_text().prompts(meadow, 3).measured("logit_diff")
