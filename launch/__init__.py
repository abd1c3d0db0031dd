"""Processes: command line, wire format, transport, environment server, agent processes, supervision."""
