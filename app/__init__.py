"""The risk service: api, worker, their connection pool, the risk model and the schema."""
