"""Where users' code imports run directories from; they are defined in `matrpo.runs`."""

from matrpo.runs.run_directory import RunDirectory as RunDirectory
