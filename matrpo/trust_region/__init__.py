"""Trust-region updates: natural-gradient solvers of the local step, step length, line search, preconditioner."""
