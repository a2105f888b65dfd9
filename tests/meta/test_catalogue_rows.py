"""Every row of the bad-input catalogue has its test, or there is nothing that it could be sent to."""

import re

import pytest
from project_files import ROOT

NUM_ROWS = 140
ROW = re.compile(r"row_(\d+)|[Rr]ows? (\d+)|\b_\w+\(\s*(\d+)[,)]")
"""How tests name a row, and how the corpus does."""

ELSEWHERE = {
    8: ("unit/server/test_server_run.py", "test_a_body_that_never_comes_is_answered_and_closed"),
    9: ("unit/server/test_server_run.py", "test_headers_that_drip_in_are_cut_off"),
    23: ("unit/server/test_authentication.py", "test_anything_else_is_turned_away"),
    24: ("unit/server/test_request_parameters.py", "test_headers_that_can_be_read_in_two_ways_are_refused"),
    25: ("unit/server/test_authentication.py", "test_anything_else_is_turned_away"),
    29: ("integration/tenancy/test_two_tenants.py", "test_ids_of_another_in_a_body_are_unknown_ids"),
    30: ("unit/wire/test_validation.py", "test_unknown_fields_are_named"),
    31: ("integration/tenancy/test_prefix_isolation.py", "test_a_request_cannot_choose_its_salt"),
    33: ("unit/server/test_authentication.py", "test_anything_else_is_turned_away"),
    111: ("integration/test_prototype_holes.py", "test_r1_code_in_a_request_is_an_unknown_field"),
    118: ("integration/test_prototype_holes.py", "test_r6_nobody_registers_an_engine_or_names_an_address"),
    119: ("integration/test_prototype_holes.py", "test_r6_nobody_registers_an_engine_or_names_an_address"),
    123: ("unit/engine/test_engine_messages.py", "test_a_frame_that_is_no_message_closes_the_connection"),
    125: ("unit/sdk/test_semantic_function.py", "test_wrong_declarations_are_refused_when_decorated"),
    126: ("unit/sdk/test_semantic_function.py", "test_single_braces_around_a_parameter_are_taken"),
    127: ("unit/sdk/test_session.py", "test_input_that_is_no_text_is_a_type_error_before_the_network"),
    128: ("unit/sdk/test_session.py", "test_answer_that_is_not_parrots_is_bad_answer"),
    129: ("unit/sdk/test_session.py", "test_use_across_a_fork_is_refused"),
    130: ("unit/sdk/test_session.py", "test_session_is_deleted_at_the_end_also_when_the_body_raises"),
    131: ("unit/sdk/test_session.py", "test_key_is_sent_over_plain_http_only_when_told"),
}
"""Rows whose test says what it is about in words: file and beginning of the test's name."""

NOTHING_TO_SEND_IT_TO = {
    **dict.fromkeys(
        (34, *range(112, 118)), "functions of a program run in the program: no code or worker is sent"
    ),
    **dict.fromkeys(
        (120, 121, 122, 124), "engines are children of the service: none registers, or names its state"
    ),
}
"""Rows about interfaces that Parrot does not have; `test_r6` and `test_r1` see that they are not there."""


def named_rows() -> set[int]:
    found: set[int] = set()
    for path in (ROOT / "tests").rglob("*.py"):
        if path.name != "test_catalogue_rows.py":
            for numbers in ROW.findall(path.read_text(encoding="utf-8")):
                found.update(int(number) for number in numbers if number)
    return found


def test_every_row_is_tried_or_has_nothing_to_be_sent_to() -> None:
    known = named_rows() | ELSEWHERE.keys() | NOTHING_TO_SEND_IT_TO.keys()
    assert sorted(set(range(1, NUM_ROWS + 1)) - known) == []


@pytest.mark.parametrize("row", ELSEWHERE)
def test_a_test_that_is_named_for_a_row_is_there(row: int) -> None:
    file, name = ELSEWHERE[row]
    assert f"def {name}" in (ROOT / "tests" / file).read_text(encoding="utf-8")
