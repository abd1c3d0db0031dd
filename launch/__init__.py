"""Processes: command line, wire format, transport, environment server, agent processes, supervision."""

import time

STARTED_AT = time.time()
"""When this process began to be one of matrpo's, in seconds of the system's wall clock.

A process may be older: a shell's last command takes the place of the shell.
"""
