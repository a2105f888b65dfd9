"""Measurements: what runs, how long it takes, and how far that is from what the machine allows."""
