"""Worker processes that step environments which can only be stepped one after the other."""
