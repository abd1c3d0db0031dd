"""Environments that change what another environment's agents see and do."""
