"""HTTP schema v1: what travels between client and service, and how errors are written."""
