"""MATRPO's decentralised training (Algorithm 1 of Li & He): the agent and its part of an iteration."""
