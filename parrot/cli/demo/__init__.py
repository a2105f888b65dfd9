"""The demo: three applications inside the service, and the same calls one by one from a client."""
