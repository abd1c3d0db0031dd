"""Processes: command line, wire format, transport, environment server, agent processes, supervision, engines."""

import time

STARTED_AT = time.time()
"""Wall-clock time in seconds at which this process began to run matrpo.

A process may be older: a shell's last command takes the place of the shell.
"""
