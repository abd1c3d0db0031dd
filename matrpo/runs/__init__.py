"""The files of a run: its directory, its processes' folders, metrics and checkpoints."""
