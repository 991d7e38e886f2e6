"""Programs that the tests run in a container where the app runs; each prints one JSON document."""
