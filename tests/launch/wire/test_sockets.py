"""Sockets at the end of a process."""

from __future__ import annotations

import subprocess
import sys
import textwrap


def test_sockets_that_are_left_open_outlive_their_owner_and_not_their_process() -> None:
    program = """
        import zmq
        from matrpo.launch.wire.sockets import leave_open

        class Owner:
            def __init__(self):
                self.context = zmq.Context()
                self.sockets = [self.context.socket(zmq.DEALER) for _ in range(2)]
                self.sockets[0].bind("inproc://end")
                self.sockets[1].connect("inproc://end")

        left, dropped = Owner(), Owner()
        ends = left.sockets + dropped.sockets
        numbers = [end.underlying for end in ends]
        leave_open(left)
        del left, dropped, ends
        print([zmq.Socket.shadow(number).getsockopt(zmq.TYPE) == zmq.DEALER for number in numbers[:2]])
    """
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "[True, True]\n", "")
