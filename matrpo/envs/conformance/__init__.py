"""The conformance kit for tasks: what an environment does in random steps, and what becomes of it in training."""
