"""The command line, run in the test's own process."""

from __future__ import annotations

import sys

import pytest
from running import Matrpo

from matrpo.launch import cli


@pytest.fixture
def matrpo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Matrpo:
    """Runs a command line; gives its exit status, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["matrpo", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, captured.out, captured.err

    return run
