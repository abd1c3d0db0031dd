"""Faults on purpose: what a script does to messages and to processes."""
