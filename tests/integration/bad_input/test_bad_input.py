"""The bad-input catalogue over a real service: each row gets what it should, and nothing ends the service."""

import json
import time

import pytest
from corpus import OUTCOMES, RAW, REFUSALS, Outcome, Raw, Refusal
from http_harness import Harness, error_code

pytestmark = pytest.mark.asyncio(loop_scope="module")

MAX_ANSWER_S = 10.0
"""Generous: the machine that runs the tests may be busy."""


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.row)
async def test_a_bad_request_is_refused_as_the_catalogue_says(case: Refusal, http_service: Harness) -> None:
    sid = await http_service.session()
    path = case.path.replace("{sid}", sid)
    headers = [(name, value.encode("latin-1")) for name, value in case.headers.items()]
    began_s = time.perf_counter()
    answer = await http_service.client.request(
        case.method, path, content=case.body, headers=[(name.encode(), value) for name, value in headers]
    )
    took_s = time.perf_counter() - began_s
    assert (answer.status_code, error_code(answer)) == (case.status, case.code), answer.text
    assert took_s < MAX_ANSWER_S
    session = (await http_service.client.get(f"/v1/sessions/{sid}")).json()
    assert (sum(session["calls"].values()), session["num_variables"]) == (0, 0)


@pytest.mark.parametrize("case", RAW, ids=lambda case: case.row)
async def test_bad_bytes_are_refused_and_the_connection_closed(case: Raw, http_service: Harness) -> None:
    answer = await http_service.raw(case.data)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split(b" ")[1] == str(case.status).encode()
    assert json.loads(body)["error"]["code"] == case.code
    assert case.absent not in answer


@pytest.mark.parametrize("case", OUTCOMES, ids=lambda case: case.row)
async def test_odd_input_that_is_allowed_has_its_outcome(case: Outcome, http_service: Harness) -> None:
    view = await http_service.run(case.call)
    assert view["state"] == case.state, view
    if case.value is not None:
        assert view["value"] == case.value
    if case.code is not None:
        assert view["error"]["code"] == case.code


async def test_after_all_of_it_the_service_still_gives_its_values(http_service: Harness) -> None:
    await http_service.check_canary()
    assert http_service.service.health().status == "ok"


async def test_every_row_of_the_corpus_has_its_own_name() -> None:
    rows = [case.row for case in REFUSALS] + [case.row for case in RAW] + [case.row for case in OUTCOMES]
    assert len(rows) == len(set(rows))
