"""Protocols for what lies outside: engines, the store, the clock. Implementations live in layers above."""
