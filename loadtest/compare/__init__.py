"""The incident's access pattern, and the ways to serve it."""
