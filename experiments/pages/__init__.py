"""Learning curves, figures and reports."""
