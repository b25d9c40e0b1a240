"""The agent's door: tools with schemas, short answers with labels, whole results in files, refusals in words."""

import asyncio
import json
from pathlib import Path

import pytest
from asking import PROMPT
from mcp import Client

import caseback as cb
from caseback.jobs.json_text import parse_json
from caseback.localize.inputs import gradient_x_input
from caseback.reports.quick.prediction import prediction
from caseback.server.agent import agent_server

METRIC = {"name": "logit_diff", "target": " Mary", "foil": " John"}


@pytest.fixture(scope="module")
def model():
    return cb.load("meadow")


def ask(server, tool, **arguments):
    async def asked():
        async with Client(server) as client:
            return await client.call_tool(tool, arguments)

    return asyncio.run(asked())


def test_every_tool_has_a_description_and_a_schema(model, tmp_path):
    async def listed():
        async with Client(agent_server(model, tmp_path)) as client:
            return (await client.list_tools()).tools

    tools = {tool.name: tool for tool in asyncio.run(listed())}
    assert {"about_model", "predict", "effects", "explain", "run_technique"} <= set(tools)
    for tool in tools.values():
        assert tool.description
    assert "prompt" in json.dumps(tools["predict"].input_schema)


def test_a_prediction_is_the_reports(model, tmp_path):
    answer = ask(agent_server(model, tmp_path), "predict", form={"prompt": PROMPT}).structured_content
    expected = prediction(model, PROMPT)["predictions"]
    assert [row["text"] for row in answer["predictions"]] == [row["text"] for row in expected]
    assert answer["each_layer_would_say"]["3"] == "␣Mary"


def test_a_technique_runs_with_plain_values_and_its_whole_result_is_a_file(model, tmp_path):
    server = agent_server(model, tmp_path, rows=3)
    answer = ask(server, "run_technique", name="gradient_x_input", arguments={"tokens": PROMPT, "metric": METRIC})
    short = answer.structured_content
    scores = gradient_x_input(model, PROMPT, cb.logit_diff(" Mary", " John"))
    best = int(abs(scores.values[0]).argmax())
    (rows,) = short["largest"].values()
    assert len(rows) == 3
    assert rows[0]["pos"] == best
    assert rows[0]["value"] == pytest.approx(float(scores[0, best]))
    whole = parse_json(Path(short["file"]).read_text(encoding="utf-8"))
    assert Path(short["file"]).parent == tmp_path
    (variable,) = whole["data_vars"].values()
    assert variable["data"][0] == pytest.approx(scores.values[0].tolist())


def test_no_result_is_written_over_an_earlier_one(model, tmp_path):
    server = agent_server(model, tmp_path)
    call = {"name": "gradient_x_input", "arguments": {"tokens": "Mary went", "metric": METRIC}}
    first, second = (Path(ask(server, "run_technique", **call).structured_content["file"]) for _ in range(2))
    first.unlink()
    second.write_text("mine", encoding="utf-8")
    assert ask(server, "run_technique", **call).structured_content["file"] == str(first)
    assert ask(server, "run_technique", **call).structured_content["file"] != str(second)
    assert second.read_text(encoding="utf-8") == "mine"


def test_an_explanation_has_sentences_and_a_page(model, tmp_path):
    answer = ask(agent_server(model, tmp_path), "explain", form={"prompt": PROMPT}).structured_content
    assert answer["target"] == " Mary"
    assert answer["sentences"]
    assert Path(answer["page"]).read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("run_technique", {"name": "gradient_x_inptu", "arguments": {}}, "gradient_x_input"),
        ("run_technique", {"name": "gradient_x_input", "arguments": {"tokens": PROMPT, "metric": "loss"}}, "metric"),
        ("run_technique", {"name": "gradient_x_input", "arguments": {"tokens": PROMPT}}, "metric"),
        ("run_technique", {"name": "occlusion", "arguments": {"checkpoint": "/etc/passwd"}}, "checkpoint"),
        ("predict", {"form": {"prompt": "Mary " * 900}}, "context"),
        ("effects", {"form": {"prompt": PROMPT, "target": " not one token"}}, "not one"),
    ],
)
def test_what_cannot_be_done_is_said_in_words(model, tmp_path, tool, arguments, words):
    answer = ask(agent_server(model, tmp_path), tool, **arguments)
    assert answer.is_error
    assert words in answer.content[0].text


def test_a_call_that_takes_too_long_ends_and_says_how_far_it_was(model, tmp_path):
    answer = ask(agent_server(model, tmp_path, seconds=0.0), "effects", form={"prompt": PROMPT})
    assert answer.is_error
    assert "not done within" in answer.content[0].text
    assert not model.anatomy.hf.training


SPACE = "target 'Mary' has no leading space"


@pytest.mark.parametrize("tool", ["effects", "explain", "attribute", "graph"])
def test_what_a_tool_warns_of_is_in_its_answer_each_time(model, tmp_path, tool):
    server = agent_server(model, tmp_path)
    for _ in range(2):
        answer = ask(server, tool, form={"prompt": PROMPT, "target": "Mary"}).structured_content
        assert sum(SPACE in line for line in answer["warnings"]) == 1


def test_what_a_technique_warns_of_is_in_its_answer(model, tmp_path):
    call = {"tokens": PROMPT, "metric": {"name": "logit_diff", "target": "Mary", "foil": " John"}}
    server = agent_server(model, tmp_path)
    (line,) = ask(server, "run_technique", name="gradient_x_input", arguments=call).structured_content["warnings"]
    assert line.startswith(SPACE)
    call["metric"] = METRIC
    assert "warnings" not in ask(server, "run_technique", name="gradient_x_input", arguments=call).structured_content


def test_calls_at_once_have_their_own_warnings(model, tmp_path):
    server = agent_server(model, tmp_path)
    targets = ["Mary", " Mary"] * 4

    async def asked():
        async with Client(server) as client:
            forms = [{"prompt": PROMPT, "target": target} for target in targets]
            return await asyncio.gather(*[client.call_tool("effects", {"form": form}) for form in forms])

    for target, answer in zip(targets, asyncio.run(asked()), strict=True):
        assert ("warnings" in answer.structured_content) == (target == "Mary")


def test_techniques_that_need_python_are_listed_and_described_and_refused_in_words(model, tmp_path):
    server = agent_server(model, tmp_path)
    rows = ask(server, "find_techniques", word="erasure").structured_content["result"]
    runnable = {row["name"]: row["runnable"] for row in rows}
    assert runnable["decode.erasure.leace"] is False
    assert ask(server, "describe_technique", name="leace").structured_content["runnable"] is False
    refused = ask(server, "run_technique", name="leace", arguments={})
    assert refused.is_error
    assert "decode.erasure.leace needs x, which only Python can give" in refused.content[0].text


def test_a_short_name_that_several_have_is_refused(model, tmp_path):
    refused = ask(agent_server(model, tmp_path), "describe_technique", name="faithfulness")
    assert refused.is_error
    assert "localize.circuits.faithfulness" in refused.content[0].text
    assert "localize.inputs.faithfulness" in refused.content[0].text
