"""Communication graphs, the orientation of their links, and who activates which link when."""
