"""Three PostgreSQL instances: a stack of their own, made from one server and taken down again."""
