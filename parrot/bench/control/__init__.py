"""`parrot bench control`: the service by itself, over HTTP, with an engine that costs nothing."""
