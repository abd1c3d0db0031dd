"""Consensus between neighbours: closed-form ADMM updates and the link protocol, as state machines without I/O."""
