"""Engines: what fills, generates and frees (`ports.engine`)."""
