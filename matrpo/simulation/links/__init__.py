"""Simulation of the links between agents: their real state machines on a network with faults."""
