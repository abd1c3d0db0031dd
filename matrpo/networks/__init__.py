"""Networks: policies, critics, distributions, advantages, and the optimiser."""
