"""Consensus between neighbours: closed-form ADMM updates and the link protocol, without any input or output."""
