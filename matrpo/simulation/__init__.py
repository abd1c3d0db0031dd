"""Deterministic simulation of the link protocol under injected faults, and the invariants that it checks."""
