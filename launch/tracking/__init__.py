"""Curves of a run for Weights & Biases and MLflow: a process of its own follows the metrics files for them."""
