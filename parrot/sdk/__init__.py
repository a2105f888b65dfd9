"""The Python client: semantic functions, variables, sessions."""
