"""Preloaded module of multiprocessing's fork server: the launcher's children are forked with torch already imported.

It imports torch once for all, and ignores SIGINT and SIGHUP, which the launcher handles. It dies with the launcher, and
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
