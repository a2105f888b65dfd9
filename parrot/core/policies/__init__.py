"""Scheduling policies: each is a function from a snapshot to a schedule.

| policy | sees | admits | goes to |
|---|---|---|---|
| `fifo` | requests | all | the engine with the fewest calls |
| `longest-prefix` | requests | all | the engine with the longest prefix |
| `request-level` | requests | small batches, as if someone waited for each | the engine with the fewest calls
| | `throughput` | requests | full batches | the engine with the fewest calls |
| `priority-hints` | requests and their priorities | full batches | the engine with the fewest calls |
| `cache-aware` | requests | full batches | the engine with the longest prefix, while loads are balanced |
| `app-centric` | applications | by the strictest objective on the engine | where the work is done first |
"""

from collections.abc import Callable, Collection, Mapping
from typing import get_args

from parrot.core.policies.app_centric import AppCentric
from parrot.core.policies.request_level import (
    ANY_PREFIX,
    BALANCED,
    RequestLevel,
    full_batch,
    small_batch,
    without_bound,
)
from parrot.core.scheduler import Schedule, Snapshot
from parrot.core.service_config import Ingredient, PolicyName

Policy = Callable[[Snapshot], Schedule]


def make_policy(name: PolicyName, without: Collection[Ingredient] = ()) -> Policy:
    """A policy by its name; `app-centric` heeds which ingredients are off."""
    match name:
        case "fifo":
            return RequestLevel(bound=without_bound)
        case "longest-prefix":
            return RequestLevel(bound=without_bound, routing=ANY_PREFIX)
        case "request-level":
            return RequestLevel(bound=small_batch)
        case "throughput":
            return RequestLevel(bound=full_batch)
        case "cache-aware":
            return RequestLevel(bound=full_batch, routing=BALANCED)
        case "priority-hints":
            return RequestLevel(bound=full_batch, hints=True)
        case "app-centric":
            return AppCentric(groups="groups" not in without, affinity="affinity" not in without)


POLICIES: Mapping[PolicyName, Policy] = {name: make_policy(name) for name in get_args(PolicyName)}
"""Every policy by its name, with all ingredients."""
