"""Fault injection: scripted faults of messages and processes."""
