"""The commands of `matrpo`, by what they are for, and their options."""
