"""What a run will take, before it is launched: `matrpo plan`."""
