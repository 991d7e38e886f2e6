"""Load tests of the deployed stack: generators, measurements and reports."""

# Here, and not in api.py: what imports that one has imported ssl, too early for gevent.
API_URL = "http://api:8000"
