"""Preloaded module of multiprocessing's fork server: the launcher's children are forked with torch already imported.

It imports torch once for all, and ignores SIGINT, SIGTERM and SIGHUP, which the launcher handles: without it, children
end before their state is saved. It dies with the launcher, and so sends its children, if they are stopped, the signal
that lets them end too.
"""

import gc
import signal

_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
for _number in _IGNORED:
    signal.signal(_number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_UNBLOCK, _IGNORED)

from setproctitle import setproctitle  # noqa: E402

import matrpo.launch.cli  # noqa: E402
import matrpo.launch.processes.agent_process  # noqa: E402
import matrpo.launch.processes.env_server  # noqa: E402, F401
from matrpo.launch.processes.process import signal_at_parents_death  # noqa: E402

signal_at_parents_death(signal.SIGKILL)
setproctitle("matrpo warm parent")
gc.collect()
gc.freeze()  # A collection in a child would write to every object made here, and so copy the memory that all share.
