"""The trackers that `--tracker` may name."""

from __future__ import annotations

import importlib.metadata

from matrpo.errors import ConfigError
from matrpo.launch.tracking.ledger import Ledger
from matrpo.launch.tracking.tracker import Tracker
from matrpo.runs.run_directory import RunDirectory

_PACKAGES = {"wandb": ("wandb",), "mlflow": ("mlflow-skinny", "sqlalchemy", "alembic")}
"""What each needs, which is what the extra of its name installs."""

TRACKERS = tuple(_PACKAGES)
"""The trackers' names."""


def check_tracker(name: str) -> None:
    """Check that what a tracker needs is installed; `none` needs nothing.

    Raises:
        ConfigError: it is not.
    """
    for package in _PACKAGES.get(name, ()):
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise ConfigError(
                f"--tracker {name} needs the package {package}: run pip install 'matrpo[{name}]'"
            ) from None


def make_tracker(name: str, run: RunDirectory, ledger: Ledger) -> Tracker:
    """The tracker of that name; the other arguments are those of its class."""
    if name == "wandb":
        from matrpo.launch.tracking.wandb_tracker import WandbTracker

        return WandbTracker(run, ledger)
    from matrpo.launch.tracking.mlflow_tracker import MlflowTracker

    return MlflowTracker(run, ledger)
