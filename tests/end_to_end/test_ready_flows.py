"""The ready flows `translate` and `summarize` as an analyst calls them: what they send and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest
from prefect import Flow

from parquill.flows.complete_prompts import complete_prompts
from parquill.flows.estimate_cost import estimate_cost
from parquill.flows.summarize import summarize
from parquill.flows.translate import translate
from parquill.tasks.errors import BadJob
from tests.end_to_end.test_prefect import Api
from tests.tools.jobs import Jobs, read_results


def _given(jobs: Jobs, name: str, **parameters: Any) -> dict[str, Any]:
    """Return the parameters of a ready flow over the input that the test has written."""
    settings = {"endpoint": {"base_url": jobs.service.url}, **parameters.pop("settings", {})}
    paths = {"input": str(jobs.folder / "prompts.parquet"), "output": str(jobs.folder / name)}
    return {**paths, "name": name, "settings": settings, **parameters}


def _systems(jobs: Jobs) -> set[str]:
    """Return the instructions that were sent."""
    return {orjson.loads(entry["body"])["messages"][0]["content"] for entry in jobs.service.log()}


def test_a_budget_is_not_put_aside(jobs: Jobs, prefect_server: str) -> None:
    """A budget in `settings` does not replace `run_usd`: the flow sends nothing, and its state says which counts."""
    jobs.write(["good morning"])
    given = _given(jobs, "aside", settings={"budget": {"run_usd": 5}}, run_usd=0.0000001)
    calls: list[tuple[Flow[..., Any], dict[str, Any]]] = [
        (translate, {**given, "languages": ["fr"]}),
        (summarize, given),
    ]
    for flow, parameters in calls:
        with pytest.raises(BadJob, match=r"`settings\.budget\.run_usd` is the parameter `run_usd` of this flow"):
            flow(**parameters)
        run = Api(prefect_server, "aside").flow_runs()[-1]
        assert (run["state_type"], run["state_name"]) == ("FAILED", "Refused: bad job")
    assert jobs.service.stats()["requests"] == 0


@pytest.mark.usefixtures("prefect_server")
def test_an_input_may_have_a_column_language(jobs: Jobs) -> None:
    """If the input has a column `language`, `language_column` can give the new column another name, and the refusal
    names this parameter. A column `vars` causes no conflict.
    """
    jobs.service.configure(log=200, log_bodies=True)
    jobs.write(pa.table({"text": ["good morning"], "language": ["en"], "vars": ["of the input"]}))
    for name, column in (("other", "to"), ("word", "not")):  # `not` is a keyword of templates
        given = _given(jobs, name, languages=["fr"], glossary={"fr": {"morning": name}})
        with pytest.raises(BadJob, match=r"'language', which is already a column of the input.*`language_column`"):
            translate(**given)
        translate(**given, language_column=column)
        table = read_results(jobs.folder / name)
        assert (table.column("language").to_pylist(), table.column(column).to_pylist()) == (["en"], ["fr"])
        assert table.column("vars").to_pylist() == ["of the input"]
        assert any("into fr;" in sent and name in sent for sent in _systems(jobs))
    assert jobs.service.stats()["requests"] == 2


@pytest.mark.usefixtures("prefect_server")
def test_a_glossary_file_is_used(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Terms from a file, relative to the working directory, go only to the languages that have terms."""
    jobs.service.configure(log=200, log_bodies=True)
    monkeypatch.chdir(jobs.folder)
    Path("terms.yaml").write_text("fr: {morning: matin}\nja: Be polite.\nno: {}\n", encoding="utf-8")
    jobs.write(["good morning"])
    translate(**_given(jobs, "terms", languages=["fr", "ja", "no", "de"], glossary="terms.yaml"))
    start = "You are a translator. Translate the user's text into"
    alone = "answer with the translation alone."
    assert _systems(jobs) == {
        f'{start} fr; {alone} Use these terms: {{"morning": "matin"}}.',
        f'{start} ja; {alone} Use these terms: "Be polite.".',
        f"{start} no; {alone}",
        f"{start} de; {alone}",
    }


@pytest.mark.usefixtures("prefect_server")
def test_texts_of_a_form_are_no_files(jobs: Jobs) -> None:
    """A text that a person enters in a form is sent unchanged, even if it ends like a file name."""
    jobs.service.configure(log=200, log_bodies=True)
    jobs.write(["good morning"])
    translate(**_given(jobs, "tone", languages=["en.yaml"], tone="as in package.json"))
    summarize(**_given(jobs, "texts", length="one line of a.yml", style="as b.yaml", language="as in c.json"))
    translated, summarized = sorted(_systems(jobs), reverse=True)
    assert translated.endswith("into en.yaml; answer with the translation alone. Tone: as in package.json.")
    assert summarized.startswith("Summarize the user's text in one line of a.yml;")
    assert summarized.endswith(" Style: as b.yaml. Write in as in c.json.")


def test_a_bad_job_is_refused_by_its_state(jobs: Jobs, prefect_server: str) -> None:
    """If a flow gets a bad job or parameter, its run has the job's name and a state with the error in one sentence."""
    settings: Any = jobs.job(["a"], name="bad-job")
    ready = _given(jobs, "bad-job")
    form = "set either `prompt` or `messages_column`"
    calls: list[tuple[Flow[..., Any], dict[str, Any], str, str]] = [
        (complete_prompts, {"job": {**settings, "messages_column": "m"}}, "bad-job · gpt-4o-mini", form),
        (estimate_cost, {"job": {**settings, "messages_column": "m"}}, "bad-job · estimate · gpt-4o-mini", form),
        (complete_prompts, {"job": {**settings, "modell": "x"}}, "bad-job · gpt-4o-mini", "did you mean `model`?"),
        (complete_prompts, {"job": settings, "date": "yesterday"}, "bad-job · gpt-4o-mini", "`date`: input should be"),
        (complete_prompts, {"job": {"name": "bad-job"}}, "bad-job · no model", "the setting `model` is missing"),
        (translate, {**ready, "languages": ["fr"], "run_usd": 1e-12}, "bad-job · gpt-6-luna", "`run_usd`: decimal"),
        (summarize, {**ready, "model": ["bad"]}, "bad-job · no model", "`model`: input should be a valid string"),
    ]
    for flow, parameters, name, words in calls:
        with pytest.raises(BadJob):
            flow(**parameters)
        run = Api(prefect_server, "bad-job").flow_runs()[-1]
        assert run["name"] == name
        assert (run["state_type"], run["state_name"]) == ("FAILED", "Refused: bad job")
        assert words in run["state"]["message"]
        assert "\n" not in run["state"]["message"]
    with pytest.raises(BadJob, match="a job is a mapping of settings"):
        complete_prompts(job=["bad-job"])  # type: ignore[arg-type]  # a wrong type is the point
    assert Api(prefect_server, "a job without a name").flow_runs()
    assert jobs.service.stats()["requests"] == 0
