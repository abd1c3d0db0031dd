"""Simulation of the lock step: the real sides of agents and environment servers, as processes that fail."""
