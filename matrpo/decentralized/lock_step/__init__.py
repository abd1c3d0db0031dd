"""The lock step of agents and environment servers: messages, membership, and agreement on the next iteration."""
