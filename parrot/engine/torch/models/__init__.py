"""The model families that have code of their own."""
