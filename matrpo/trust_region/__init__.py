"""The trust region: solvers of the local step, step rule, line search, preconditioner."""
