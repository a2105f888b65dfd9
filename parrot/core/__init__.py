"""Decisions: the application graph, deduction, sharing and scheduling. Pure, but for the executor."""
