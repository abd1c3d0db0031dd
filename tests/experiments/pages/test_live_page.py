"""`matrpo report --serve`: the page over HTTP, while a run goes on."""

from __future__ import annotations

import html
import http.client
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from matrpo.errors import ConfigError
from matrpo.experiments.pages.live_page import LivePage, PageServer
from matrpo.experiments.pages.report import report
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings.config import Config

MATRPO = [sys.executable, "-P", "-m", "matrpo.launch.cli"]


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "metrics.jsonl").write_text("one")
    return tmp_path / "metrics.jsonl"


def get(port: int, path: str = "/", **headers: str) -> tuple[int, str, str | None]:
    """Status, text and ETag of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60.0)
    connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text, answer.headers["ETag"]


@contextmanager
def serving(page: LivePage) -> Iterator[PageServer]:
    with PageServer(page, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_the_page_is_rendered_when_its_files_have_changed_and_not_without_rest(file: Path) -> None:
    clock, rendered = Clock(), list[str]()

    def render(version: str) -> str:
        rendered.append(version)
        clock.now += 2.0
        return file.read_text()

    page = LivePage(lambda: [file, file.with_name("missing")], render, clock, clock)
    first = page.take()
    assert page.take() == first == (rendered[0], "one")
    file.write_text("three")
    clock.now += 5.9
    assert page.take() == first
    clock.now += 0.2
    assert page.take() == (rendered[1], "three") != first
    assert len(rendered) == 2


def test_a_browser_is_told_whether_its_page_is_the_newest(file: Path) -> None:
    clock = Clock()
    with serving(LivePage(lambda: [file], lambda _: file.read_text(), clock, clock)) as server:
        status, text, version = get(server.server_port)
        assert (status, text) == (200, "one")
        assert version
        assert get(server.server_port, If_None_Match=version)[:2] == (304, "")
        file.write_text("three")
        assert get(server.server_port, If_None_Match=version)[:2] == (200, "three")


def test_nothing_else_is_served_and_to_no_other_name(file: Path) -> None:
    with serving(LivePage(lambda: [file], lambda _: "page")) as server:
        assert server.server_address[0] == "127.0.0.1"
        assert get(server.server_port, "/metrics.jsonl")[0] == 404
        assert get(server.server_port, Host="example.org")[0] == 403
        assert get(server.server_port, Host=f"localhost:{server.server_port}")[0] == 200


def test_a_damaged_file_is_named(file: Path) -> None:
    def render(_: str) -> str:
        raise ConfigError("metrics.jsonl is damaged")

    with serving(LivePage(lambda: [file], render)) as server:
        assert get(server.server_port)[:2] == (500, "metrics.jsonl is damaged")


def test_a_port_that_is_taken_is_named(file: Path) -> None:
    page = LivePage(lambda: [file], lambda _: "")
    with (
        PageServer(page, 0) as server,
        pytest.raises(ConfigError, match=rf"port {server.server_port} .* another --port"),
    ):
        PageServer(page, server.server_port)


@pytest.mark.parametrize("options", [["--port", "8000"], ["--serve", "--json"], ["--serve", "--html", "page.html"]])
def test_options_that_do_not_go_together_are_named(tmp_path: Path, options: list[str]) -> None:
    result = CliRunner().invoke(report, [str(tmp_path), *options])
    assert isinstance(result.exception, ConfigError)
    assert "--serve" in str(result.exception)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`matrpo report --serve` of a run that has written nothing yet."""
    run = RunDirectory.create(tmp_path / "run", Config(agents=2, topology="line", steps=20_000), {})
    command = [*MATRPO, "report", str(run.path), "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_the_page_of_a_run_grows_with_it_until_ctrl_c(served: subprocess.Popen[str], tmp_path: Path) -> None:
    assert served.stdout is not None
    assert served.stderr is not None
    port = int(served.stdout.readline().removeprefix("http://127.0.0.1:").removesuffix("/\n"))
    status, text, version = get(port)
    assert (status, version) == (200, html.unescape(re.findall(r'data-version="([^"]*)"', text)[0]))
    assert re.findall(r"setInterval\(renew, \d+\)|\d of \d</li>", text) == ["setInterval(renew, 2000)"]
    RunDirectory.open(tmp_path / "run").env.log_metrics({"iteration": 1, "steps": 10_000, "team_return_mean": -3.5})
    while (answer := get(port, If_None_Match=str(version)))[0] == 304:
        time.sleep(0.1)
    assert re.findall(r"\d of \d</li>|-3\.5</li>", answer[1]) == ["1 of 2</li>", "-3.5</li>", "-3.5</li>"]
    served.send_signal(signal.SIGINT)
    assert served.wait(60.0) == 130
    assert served.stderr.read().strip() == ""
