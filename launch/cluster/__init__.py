"""Who is where: the cluster file, and the keys of its processes."""
