"""The reliability campaign: what is promised, tried with faults, counted and written down."""
