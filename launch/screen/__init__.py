"""What a user sees of a run: the live screen, progress, pictures."""
