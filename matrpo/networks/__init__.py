"""Networks: policies, critics, action distributions, advantage estimation, and the optimiser."""
