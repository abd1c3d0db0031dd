"""Deterministic simulation of the link protocol and of the lock step under injected faults, and their invariants."""
