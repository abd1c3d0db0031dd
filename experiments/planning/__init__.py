"""Cost prediction of a run before it is launched: `matrpo plan`."""
