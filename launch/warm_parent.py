"""Imported by the process that the launcher's children are forked from, and by nobody else.

It pays for importing torch once. Signals of the terminal are the launcher's business. It dies with the launcher, and
so sends its children, if they are stopped, the signal that lets them end too.
"""

import gc
import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)

from setproctitle import setproctitle  # noqa: E402

import matrpo.launch.cli  # noqa: E402
import matrpo.launch.processes.agent_process  # noqa: E402
import matrpo.launch.processes.env_server  # noqa: E402, F401
from matrpo.launch.processes.process import signal_at_parents_death  # noqa: E402

signal_at_parents_death(signal.SIGKILL)
setproctitle("matrpo warm parent")
gc.collect()
gc.freeze()  # A collection in a child would write to every object made here, and so copy the memory that all share.
