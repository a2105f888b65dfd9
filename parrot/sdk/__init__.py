"""The Python client: semantic functions, variables, sessions.

Everything that an application needs is exported by `parrot` itself. The client speaks HTTP schema v1 to a
service, or the same through an ASGI application when the service is embedded in the process.
"""
