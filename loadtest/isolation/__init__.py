"""Requests while the batch pool is full."""
