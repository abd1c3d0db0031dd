"""Where users' code imports settings from; they are defined in `matrpo.settings`."""

from matrpo.errors import ConfigError as ConfigError
from matrpo.settings.config import Config as Config
from matrpo.settings.config import resolve as resolve
