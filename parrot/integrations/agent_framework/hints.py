"""What a workflow's edges say of the requests that its executors will make."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from agent_framework import FanInEdgeGroup, Workflow


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHints:
    """What a request is a part of. `ParrotChatClient` sends it along."""

    application: str
    """Requests that name the same one are one application's."""
    agent: str | None = None
    """Requests of one agent follow each other: each has what was before in its prompt."""
    stage: int | None = None
    """How many steps after the application's beginning; a label for people."""
    group: str | None = None
    """Requests of an application that name the same one are wanted together: their joint completion
    counts."""

    def headers(self) -> dict[str, str]:
        """As headers of the request."""
        if self.agent is None:
            return {}
        return {
            "X-Dynamo-Session-ID": f"{self.application}/{self.agent}",
            "X-Dynamo-Parent-Session-ID": self.application,
        }

    def body(self) -> dict[str, object]:
        """As fields of the request's body."""
        parrot = {"application": self.application} | ({} if self.group is None else {"group": self.group})
        labels = {"framework": "agent-framework", "agent": self.agent, "stage": self.stage}
        return {
            "parrot": parrot,
            "metadata": {key: str(value) for key, value in labels.items() if value is not None},
        }


def hints(workflow: Workflow, *, application: str | None = None) -> dict[str, dict[str, RequestHints]]:
    """What the requests of one run of a workflow are a part of, for the argument `client_kwargs` of `run`.

    Executors whose messages are fanned in are one group, with those before them up to where the messages were
    fanned out.

    Args:
        workflow: The workflow.
        application: The run's name, when it goes on an application that had requests before; each run is an
            application of its own without it.
    """
    name = application or f"{workflow.name}-{secrets.token_hex(6)}"
    after = _successors(workflow)
    stages = _stages(workflow.start_executor_id, after)
    groups = _groups(workflow, after, stages)
    return {
        executor: {
            "parrot": RequestHints(
                application=name, agent=executor, stage=stages.get(executor), group=groups.get(executor)
            )
        }
        for executor in workflow.executors
    }


def _successors(workflow: Workflow) -> dict[str, set[str]]:
    after: dict[str, set[str]] = {executor: set() for executor in workflow.executors}
    for group in workflow.edge_groups:
        for edge in group.edges:
            if edge.source_id in after and edge.target_id in after:
                after[edge.source_id].add(edge.target_id)
    return after


def _predecessors(after: Mapping[str, set[str]]) -> dict[str, set[str]]:
    return {executor: {one for one in after if executor in after[one]} for executor in after}


def _stages(start: str, after: Mapping[str, set[str]]) -> dict[str, int]:
    """Steps from the start; the most there are, or the fewest where there are circles."""
    before = _predecessors(after)
    try:
        order = list(TopologicalSorter(before).static_order())
    except CycleError:
        return _distances(start, after)
    stages: dict[str, int] = {}
    for executor in order:
        stages[executor] = max((stages[one] + 1 for one in before[executor]), default=0)
    return stages


def _distances(start: str, after: Mapping[str, set[str]]) -> dict[str, int]:
    found = {start: 0}
    reached = [start]
    for executor in reached:
        for following in after[executor]:
            if following not in found:
                found[following] = found[executor] + 1
                reached.append(following)
    return found


def _groups(workflow: Workflow, after: Mapping[str, set[str]], stages: Mapping[str, int]) -> dict[str, str]:
    before = _predecessors(after)
    groups: dict[str, str] = {}
    for joined in workflow.edge_groups:
        if not isinstance(joined, FanInEdgeGroup):
            continue
        (join,) = joined.target_executor_ids
        for source in joined.source_executor_ids:
            executor = source
            while executor not in groups and len(after[executor]) == 1:
                groups[executor] = f"{join}/{stages.get(executor, 0)}"
                if len(before[executor]) != 1:
                    break
                (executor,) = before[executor]
    return groups
