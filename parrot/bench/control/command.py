"""From a plan to a report: a service is started, driven, and ended."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from os import getloadavg

from parrot.bench.control.report import SCHEMA, ControlReport
from parrot.bench.control.suite import ControlPlan, ControlSuite, Section
from parrot.bench.origin import commit, machine, versions
from parrot.bench.processes import parrot_service
from parrot.ports.clock import Clock

SETTINGS = """\
[engines.main]
kind = "scripted"
num_blocks = 4194304

[limits]
max_sessions = 10000
max_pending_calls = 200000
max_session_calls = 1000000
max_session_variables = 2000000
max_queued_calls_total = 1000000
"""
"""An engine without cost, and limits that are not what is measured."""


async def run_control(plan: ControlPlan, *, clock: Clock, tell: Callable[[str], None]) -> ControlReport:
    """Measure the control plane.

    Raises:
        UnreachableError: the service did not start, or a call was lost.
    """
    started_at, began_s = datetime.now(UTC).isoformat(timespec="seconds"), clock.now_s()
    load = getloadavg()[0]

    def wanted(section: Section) -> bool:
        if section in plan.sections:
            tell(section)
        return section in plan.sections

    async with parrot_service(SETTINGS) as server:
        suite = ControlSuite(server.url, server.pid, plan, clock=clock)
        await suite.warm_up()
        # Memory first: what other sections leave behind would hide what calls need.
        memory = await suite.memory() if wanted("memory") else None
        batches = await suite.batches() if wanted("batches") else None
        single = await suite.single() if wanted("single") else None
        chain = await suite.chain() if wanted("chain") else None
        session = await suite.session() if wanted("session") else None
        growth = await suite.growth() if wanted("growth") else ()
    return ControlReport(
        schema=SCHEMA,
        started_at=started_at,
        duration_s=clock.now_s() - began_s,
        machine=machine(),
        load_average=load,
        versions=versions(("fastapi", "pydantic", "sqlalchemy", "uvicorn", "httptools", "uvloop")),
        source=commit(),
        settings={**asdict(plan), "service": SETTINGS},
        batches=batches,
        single=single,
        chain=chain,
        session=session,
        growth=growth,
        memory=memory,
        command="parrot bench control",
    )
