"""Pool sizes found by measuring."""
