"""The operators' control plane of a process: its state, a live reload, a drain of its pool.

It has a thread, an event loop and an address of its own, so that it answers while every
thread of the service waits, and only on the network that operators are on.
"""
