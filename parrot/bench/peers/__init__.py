"""Programs that run a peer for a measurement, in the peer's own virtual environment.

Parrot is not installed there, so nothing here imports it, and nothing in Parrot imports what is here.
"""
