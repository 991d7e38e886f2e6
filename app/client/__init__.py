"""A small client that submits the sample assessment and shows its progress.

Only the standard library: it runs on any Python 3.11 and in the api's container.
"""
