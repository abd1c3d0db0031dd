"""The seeded simulator of the link protocol, and the invariants that it checks."""
