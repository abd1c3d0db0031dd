"""Multi-agent trust region policy optimisation with nobody in charge (Li & He)."""

from matrpo.version import __version__ as __version__
