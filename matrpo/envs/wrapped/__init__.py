"""Environments that others wrote, wrapped, and ours for others' code."""
