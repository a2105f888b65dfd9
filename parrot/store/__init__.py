"""Durable stores (`ports.store`)."""
