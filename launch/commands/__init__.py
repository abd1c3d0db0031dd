"""The commands of `matrpo`, one module each."""
