"""The only asynchronous part of the core: it waits, has decisions made, and drives the ports."""
