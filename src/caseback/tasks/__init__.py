"""Prompts with counterfactuals, answers and metrics: the field's standard tasks, for any tokenizer.

``cb.tasks.ioi()`` makes a task, and its ``.prompts(model, 100)`` draws aligned examples. ``cb.tasks.names()`` lists all
tasks and ``cb.tasks.get(name)`` makes one by its name.
"""

from typing import Any

from caseback.tasks import formats as formats
from caseback.tasks.align import align as align
from caseback.tasks.labeled_texts import LabeledTexts as LabeledTexts
from caseback.tasks.labeled_texts import labeled_texts as labeled_texts
from caseback.tasks.prompts import Pair as Pair
from caseback.tasks.prompts import Prompts as Prompts
from caseback.tasks.sentence_scores import MinimalPair as MinimalPair
from caseback.tasks.sentence_scores import preference as preference
from caseback.tasks.sentence_scores import sentence_log_prob as sentence_log_prob
from caseback.tasks.statements import Statements as Statements
from caseback.tasks.statements import facts_of_files as facts_of_files
from caseback.tasks.statements import load_statements as load_statements
from caseback.tasks.statements import statements_of as statements_of
from caseback.tasks.statements import statements_of_files as statements_of_files
from caseback.tasks.task import MAKERS, maker
from caseback.tasks.task import Task as Task
from caseback.tasks.task import get as get
from caseback.tasks.task import names as names
from caseback.tasks.text import Text as Text
from caseback.tasks.text import fill as fill
from caseback.tasks.text import of_ids as of_ids


def __getattr__(name: str) -> Any:
    if name in MAKERS:
        return maker(name)
    raise AttributeError(f"module 'caseback.tasks' has no attribute {name!r}: the tasks are {', '.join(names())}")


def __dir__() -> list[str]:
    return sorted({*globals(), *MAKERS})
