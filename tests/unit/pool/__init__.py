"""The pool package, without a server."""
