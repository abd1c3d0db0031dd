"""Decentralised multi-agent trust region policy optimisation (MATRPO, Li & He), and baselines."""

from matrpo.version import __version__ as __version__
