"""The worker: threads that claim tasks, assess them and store the results."""
