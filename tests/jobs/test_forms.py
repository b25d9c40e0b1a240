"""Files of another form are refused by the place where they differ, also where their digest is right."""

import json

import pytest
import torch

from caseback.errors import CasebackError, LoadError
from caseback.jobs.forms import expect_form
from caseback.jobs.job import Job, Plan
from caseback.jobs.safe_files import write_json
from caseback.jobs.status import statuses
from caseback.reports.document import DocumentKind


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], r"it is \[\], expected an object"),
        ({"sizes": [1]}, "it has no 'name'"),
        ({"name": 3, "sizes": []}, "name is 3, expected a text"),
        ({"name": "a", "sizes": [1, -1]}, "sizes/1 is -1, expected a whole number from 0"),
        ({"name": "a", "sizes": [True]}, "sizes/0 is True, expected a whole number from 0"),
        ({"name": "a", "sizes": [], "whole": 1}, "whole is 1, expected true or false"),
    ],
)
def test_what_differs_is_named_with_its_place(data, says):
    with pytest.raises(LoadError, match=f"'a.json' cannot be read: {says}"):
        expect_form(data, {"name": str, "sizes": [int], "whole?": bool}, "a.json")


def test_what_fits_passes():
    expect_form({"name": "a", "sizes": [0, 5], "else": None}, {"name": str, "sizes": [int], "whole?": bool}, "a.json")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sizes": ["2"]}, "sizes/0 is '2'"),
        ({"sizes": [1, 1, 1]}, "3 sizes of 2 shards"),
        ({"threads": 0}, "threads is 0"),
        ({"shards": "ab"}, "shards is 'ab', expected a list"),
        ({"options": None}, "options is None, expected an object"),
    ],
)
def test_a_job_of_another_form_is_refused_though_its_digest_is_right(change, says, tmp_path):
    Job.begin(tmp_path, Plan("squares", {"power": 2}, {}, ["a", "b"], [1, 1])).keep(0, {"x": torch.ones(1)})
    record = json.loads((tmp_path / "job.json").read_text(encoding="utf-8"))
    write_json(tmp_path / "job.json", record | change)
    with pytest.raises(LoadError, match=says):
        list(statuses(tmp_path))


def test_drawing_refuses_what_is_not_as_it_was_made():
    kind = DocumentKind("caseback.counts", 1, "a document of counts", "count_documents", ("tokens",))
    document = kind.document({"name": "meadow"}, tokens=[3])
    with kind.drawing(document) as same:
        assert same is document
    refused = pytest.raises(CasebackError, match="a document of counts that cannot be drawn .KeyError: 'text'")
    with refused, kind.drawing({**document, "tokens": {}}) as other:
        other["tokens"]["text"]
    with pytest.raises(CasebackError, match="no such token"), kind.drawing(document):
        raise CasebackError("no such token")  # what is said in words already is not said again
