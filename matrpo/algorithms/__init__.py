"""The algorithms to compare with, one file each: all but `dnamarl`, which is decentralised, train in one process."""
