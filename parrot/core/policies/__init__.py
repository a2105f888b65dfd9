"""Scheduling policies: each is a function from a snapshot to a schedule."""

from collections.abc import Callable, Mapping

from parrot.core.policies.fifo import fifo
from parrot.core.policies.longest_prefix import longest_prefix
from parrot.core.scheduler import Schedule, Snapshot
from parrot.core.service_config import PolicyName

Policy = Callable[[Snapshot], Schedule]

POLICIES: Mapping[PolicyName, Policy] = {"fifo": fifo, "longest-prefix": longest_prefix}
"""Every policy by its name."""
