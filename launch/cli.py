"""The command line. Exit status: 0 done, 1 the run failed, 2 the user's mistake, 130 interrupted.

Progress and logs go to standard error; `--json` prints one JSON document, and nothing else, to standard output.
Nothing here imports torch: only the commands that need it do, when they run.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import entry_points
from typing import NoReturn

import click

from matrpo.errors import ConfigError, TaskError, lack_of_memory
from matrpo.runs.storage import StorageError
from matrpo.standard_streams import drop_unwritable
from matrpo.version import __version__

_COMMANDS = {
    "launch": "matrpo.launch.commands.launch:launch",
    "agent": "matrpo.launch.commands.process:agent",
    "env-server": "matrpo.launch.commands.process:env_server",
    "probe": "matrpo.launch.commands.process:probe",
    "cluster": "matrpo.launch.commands.cluster:cluster",
    "keys": "matrpo.launch.commands.cluster:keys",
    "check-task": "matrpo.launch.commands.check_task:check_task",
    "doctor": "matrpo.launch.commands.doctor:doctor",
    "eval": "matrpo.launch.commands.read:evaluate_run",
    "status": "matrpo.launch.commands.read:status",
    "track": "matrpo.launch.commands.track:track",
    "topology": "matrpo.launch.commands.read:topology",
    "list": "matrpo.launch.commands.read:list_things",
    "simulate": "matrpo.launch.commands.simulate:simulate_histories",
}
_PLUGINS = "matrpo.commands"
"""Entry points of this group are further commands."""


class LazyGroup(click.Group):
    """A click group that imports the module of a command only when that is asked for."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """All names, the packaged ones first."""
        return [*_COMMANDS, *sorted(plugin.name for plugin in entry_points(group=_PLUGINS))]

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        """The command called `name`; None if there is none."""
        if name in _COMMANDS:
            module, _, attribute = _COMMANDS[name].partition(":")
            command = getattr(import_module(module), attribute)
        else:
            plugin = next(iter(entry_points(group=_PLUGINS, name=name)), None)
            command = plugin.load() if plugin else None
        return command if isinstance(command, click.Command) else None


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="matrpo", message="%(prog)s %(version)s")
def cli() -> None:
    """Agents that learn together with nobody in charge."""


def main() -> NoReturn:
    """Run the command line and exit."""
    drop_unwritable("stderr")
    sys.exit(_run())


def _run() -> int:
    try:
        status = cli.main(prog_name="matrpo", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.ClickException as error:
        return _fail(error.format_message(), 2)
    except ConfigError as error:
        return _fail(str(error), 2)
    except (KeyboardInterrupt, click.exceptions.Abort):
        return 130
    except (StorageError, TaskError) as error:
        return _fail(str(error), 1)
    except (MemoryError, RuntimeError) as error:
        if not (reason := lack_of_memory(error)):
            raise
        return _fail(reason, 1)
    return status if isinstance(status, int) else 0


def _fail(message: str, status: int) -> int:
    print(f"matrpo: error: {' '.join(message.split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
