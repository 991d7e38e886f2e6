"""The HTTP service: `create_app` in `application`, `python -m app.api` to run it."""
