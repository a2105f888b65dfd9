"""The OpenAI-compatible face: requests of clients that know nothing of applications, on the same core."""
