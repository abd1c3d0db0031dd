"""The report of a run with faults, from what its processes wrote."""

import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from matrpo.experiments.pages.report import fault_rows, link_rows, report
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings.config import resolve
from matrpo.training import InProcessTraining, make_training

CHROMIUM = shutil.which("chromium")


def end(give_ups=0, skips=0, states=None, **rejected):
    counts = {"commits": 5, "give_ups": give_ups, "skips": skips, "resends": 1}
    return {**counts, "rejected": rejected, "states": states or {"4": 17, "5": 18}}


def entry(event, fault, iteration, do="drop"):
    return {"event": event, "fault": fault, "iteration": iteration, "do": do}


def test_faults_are_gathered_over_processes():
    rows = fault_rows(
        {
            "agent 0": [entry("begins", 1, 3), entry("ceases", 1, 5), entry("begins", 1, 7)],
            "agent 1": [entry("begins", 0, 2, "kill"), entry("begins", 1, 4)],
            "env-server": [],
        }
    )
    assert rows == [
        {"fault": 1, "do": "kill", "began": 1, "iterations": [2, 2], "processes": ["agent 1"]},
        {"fault": 2, "do": "drop", "began": 3, "iterations": [3, 7], "processes": ["agent 0", "agent 1"]},
    ]


def test_links_say_when_they_were_whole_again():
    lines = [
        [
            {"iteration": 1, "links": {"1": end(), "2": end()}},
            {"iteration": 2, "links": {"1": end(give_ups=1, late=2), "2": end()}},
            {"iteration": 3, "links": {"1": end(), "2": end(skips=4)}},
        ]
    ]
    first, second = link_rows(lines)
    assert first == {
        "end": "0 to 1",
        "commits": 15,
        "give_ups": 1,
        "skips": 0,
        "resends": 3,
        "rejected": 2,
        "disagreements": 0,
        "disturbed_iterations": 1,
        "whole_from": 3,
    }
    assert (second["skips"], second["whole_from"]) == (4, None)


def test_ends_that_share_no_state_or_a_different_one_disagree():
    states = [{"4": 17, "5": 18}, {"3": 16, "4": 17}, {"5": 19}, {"6": 20}]
    lines = [
        [{"iteration": i, "links": {"1": end()}} for i in range(5)],
        [{"iteration": i, "links": {"0": end(states=each)}} for i, each in enumerate(states)],
    ]
    assert [row["disagreements"] for row in link_rows(lines)] == [2, 2]


def test_the_command_reports_a_run(tmp_path):
    settings = {"agents": 3, "num_envs": 2, "rollout_length": 5, "steps": 20, "hidden_sizes": 4, "tensorboard": False}
    run = RunDirectory.create(tmp_path / "run", resolve(("test", settings)), {})
    InProcessTraining(run).run(lambda: False, lambda _: None)
    (run.agent(1).path / "faults.jsonl").write_text(json.dumps(entry("begins", 0, 1)) + "\n")
    shown = CliRunner().invoke(report, [str(run.path)])
    assert shown.exit_code == 0
    assert "drop" in shown.output
    printed = CliRunner().invoke(report, [str(run.path), "--json"])
    content = json.loads(printed.output)[str(run.path)]
    assert content["faults"][0]["processes"] == ["agent 1"]
    assert len(content["links"]) == 6
    assert all(row["whole_from"] == 1 and row["disagreements"] == 0 for row in content["links"])


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """The page of a MATRPO run and of a central one."""
    folder = tmp_path_factory.mktemp("page")
    common = {"agents": 3, "num_envs": 2, "rollout_length": 100, "steps": 600, "hidden_sizes": [4], "seed": 7}
    paths = []
    for algo, settings in (("matrpo", {"admm_iterations": 3}), ("happo", {})):
        run = RunDirectory.create(folder / f"<{algo}>", resolve(("test", {**common, **settings, "algo": algo})), {})
        make_training(run).run(lambda: False, lambda _: None)
        paths.append(str(run.path))
    out = folder / "page.html"
    finished = CliRunner().invoke(report, [*paths, "--html", str(out)])
    assert finished.exit_code == 0, finished.output
    return out


def test_a_page_shows_runs_of_both_kinds_and_needs_nothing_else(page_file):
    page = Page(page_file.read_text())
    assert page.sources
    assert all(source.startswith("data:") for source in page.sources)
    assert {"<matrpo>", "<happo>", "team return of an episode", "consensus residual", "links"} <= page.texts
    assert {"ring: 3 links, connectivity 3.000", "an episode of 100 steps, most probable actions"} <= page.texts
    assert "seed" in page.texts
    assert "7" in page.texts


def browse(page: Path, log: Path) -> tuple[list[str], list[str]]:
    """Open a page in a browser that reaches no network; the lines of its console, and what the page asked of others."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    logs = ["--enable-logging=stderr", f"--log-net-log={log}", "--dump-dom"]
    done = subprocess.run([CHROMIUM, *options, *logs, page.as_uri()], capture_output=True, text=True, timeout=120)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    requests = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    return console, [request["url"] for request in requests if request.get("initiator") == "null"]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_browser_has_nothing_to_say_of_the_page_and_asks_nobody(page_file, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text('<script>console.error("no")</script><img src="https://example.org/a.png">')
    console, requests = browse(bad, tmp_path / "bad.json")
    assert len(console) == 1
    assert requests == ["https://example.org/a.png"]
    assert browse(page_file, tmp_path / "page.json") == ([], [])


class Page(HTMLParser):
    """The texts of a page, and what it refers to."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.texts: set[str] = set()
        self.sources: list[str] = []
        self.feed(content)

    def handle_data(self, data: str) -> None:
        self.texts.add(data.strip())

    def handle_starttag(self, _tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.sources += [value for name, value in attributes if name in ("src", "href") and value]
