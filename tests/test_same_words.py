"""The words of organisms and tasks are the ones they have always been drawn from: same seeds, same texts, to the byte.

Meadow was trained on the text whose checksums stand here, and published numbers hold for the examples whose checksums
stand here. A word that is added, taken away or moved in ``caseback.lexicon`` changes them; so it must, but for a reason.
"""

import hashlib
import json
import random
from collections.abc import Iterable
from pathlib import Path

import pytest

import caseback as cb
from caseback.organisms.prose import text, world
from caseback.tasks import Pair, Task
from caseback.tasks.facts import RELATIONS

RECORDED = json.loads(Path(__file__).with_name("same_words.json").read_text())
TASKS: dict[str, Task] = {
    **{name: cb.tasks.get(name) for name in cb.tasks.names()},
    **{f"relation {name}": cb.tasks.relation(name) for name in RELATIONS},
    "successor in all series": cb.tasks.successor(series="all"),
}


@pytest.fixture(scope="module")
def meadow():
    return cb.load("meadow")


def checksum(parts: Iterable[object]) -> str:
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]


def written(pair: Pair) -> tuple[object, ...]:
    return (
        *((side.text, side.ids, sorted(side.spans.items())) for side in (pair.clean, pair.corrupt)),
        pair.target,
        pair.foil,
        pair.corrupt_target,
        pair.group,
    )


@pytest.mark.parametrize("kind", text.KINDS)
def test_documents_of_a_kind(kind):
    shown = [document for heldout in (False, True) for document in text.documents(kind, 200, seed=0, heldout=heldout)]
    assert checksum((d.prompt, d.answer, d.rest, d.foil) for d in shown) == RECORDED["documents"][kind]


@pytest.mark.parametrize("phase", range(7))
def test_training_text(phase):
    rng = random.Random(0)
    assert checksum(text.document(rng, phase).text for _ in range(400)) == RECORDED["training"][phase]


def test_words_of_the_tokenizer():
    lists = world.WHOLE_WORDS, world.OPENING_WORDS, world.LIST_WORDS, world.RESIDENTS
    assert checksum(lists) == RECORDED["tokenizer"]


@pytest.mark.parametrize("name", TASKS)
def test_examples_of_a_task_whatever_the_tokenizer(name, meadow):
    task, rng = TASKS[name], random.Random(0)
    fillers = {key: listed(meadow) if callable(listed) else listed for key, listed in task.fillers.items()}
    assert checksum(written(task.draw(rng, fillers)) for _ in range(50)) == RECORDED["pairs"][name]


@pytest.mark.parametrize("name", RECORDED["prompts"])  # all but makers of products, of whom meadow was told nothing
def test_first_examples_for_meadow(name, meadow):
    prompts = TASKS[name].prompts(meadow, 50)
    assert checksum([*map(written, prompts.pairs), prompts.clean.ids.tolist()]) == RECORDED["prompts"][name]
