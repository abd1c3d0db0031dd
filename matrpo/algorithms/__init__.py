"""Algorithms that train centrally, in one process, one file each; MATRPO itself is in `matrpo.decentralized`."""
