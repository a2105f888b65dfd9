"""The HTTP service: FastAPI and uvicorn around the core's service."""
