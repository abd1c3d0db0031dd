"""Public import path of run directories, for users' code; they are defined in `matrpo.runs`."""

from matrpo.runs.run_directory import RunDirectory as RunDirectory
