"""Public import path of the settings, for users' code; they are defined in `matrpo.settings`."""

from matrpo.errors import ConfigError as ConfigError
from matrpo.settings.config import Config as Config
from matrpo.settings.config import resolve as resolve
