"""Growth over a long run."""
