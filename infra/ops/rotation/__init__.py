"""Rotate passwords and certificates while the stack serves."""
