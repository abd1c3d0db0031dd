"""Settings of a run: sections, algorithms' names, presets and tuned values."""
