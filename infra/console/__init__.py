"""`console`: a page that shows the path as it is, read-only."""
