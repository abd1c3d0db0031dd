"""Algorithms that train centrally, in one process, through the same harness; MATRPO itself is `matrpo.agent`."""
