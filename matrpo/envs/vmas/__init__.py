"""Tasks of VMAS, the vectorised multi-robot simulator."""
