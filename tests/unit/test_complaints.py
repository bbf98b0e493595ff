"""What users of other gateways complain about in issue trackers, each with the tests that it cannot happen here."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit
TESTS = Path(__file__).resolve().parents[1]
GATEWAY = "contract/gateway"
MANY, FAULTS, REDIS = "chaos/test_many_callers.py", "chaos/test_gateway.py", f"{GATEWAY}/test_redis_limits.py"
LIMITS, TOKENS = "unit/gateway/test_gateway_limits.py", f"{GATEWAY}/test_token_limits.py"

COMPLAINTS = {
    "the upstream keeps generating after the client left": [
        (f"{GATEWAY}/test_departure.py", "test_leaving"),
        (f"{GATEWAY}/test_departure.py", "test_leaving_at_any_moment_leaves_nothing_open"),
        (f"{GATEWAY}/test_departure.py", "test_leaving_the_waiting_room"),
        (f"{GATEWAY}/test_openai_sdk.py", "test_closing_a_stream_frees_the_engine"),
    ],
    "memory grows until the kernel kills it": [
        (FAULTS, "test_nothing_grows"),
        (LIMITS, "test_memory_follows_the_active_callers"),
        (LIMITS, "test_memory_of_one_busy_caller_follows_what_it_has_open"),
        (REDIS, "test_nothing_stays_in_redis"),
    ],
    "streaming costs CPU by the token": [
        ("unit/gateway/test_gateway_plain.py", "test_all_events_of_a_form_are_counted_and_half_of_one_is_left"),
        ("unit/gateway/test_gateway_plain.py", "test_a_clock_that_moves_on_in_a_large_read_costs_a_few_looks_only"),
    ],
    "chunks arrive in one lump": [
        (MANY, "test_tokens_come_one_by_one_as_they_are_made"),
        (f"{GATEWAY}/test_chat_completions.py", "test_words_come_as_they_are_generated"),
    ],
    "limits are wrong": [
        (LIMITS, "test_any_schedule_is_held_to_the_definition"),
        (LIMITS, "test_the_wait_that_is_told_is_the_real_one"),
        (LIMITS, "test_the_headers_say_what_is_left"),
        (TOKENS, "test_what_was_used_in_truth_is_taken"),
        (TOKENS, "test_the_wait_is_the_true_one"),
    ],
    "concurrency defeats the limits": [
        (LIMITS, "test_two_hundred_concurrent_callers_of_one_key"),
        (TOKENS, "test_many_at_once_never_use_more_than_there_is"),
        (REDIS, "test_exactly_n_of_a_thousand_at_once_in_several_places"),
        (REDIS, "test_several_gateways_admit_exactly_n_of_a_thousand"),
    ],
    "a bare 429 in place of a queue that is fair": [
        ("unit/gateway/test_gateway_admission.py", "test_the_next_slot_goes_to_the_next_caller_in_turn"),
        (f"{GATEWAY}/test_queue.py", "test_a_chat_that_waits_is_told_its_place_in_comments"),
        (f"{GATEWAY}/test_queue.py", "test_a_full_waiting_room_says_when_to_come_back"),
    ],
    "history is not there yet, or lost at a restart": [
        (f"{GATEWAY}/test_responses.py", "test_the_answer_is_stored_when_the_closing_event_comes"),
        (FAULTS, "test_a_killed_gateway_keeps_what_was_checkpointed"),
    ],
    "the database takes the data plane down": [
        (FAULTS, "test_a_database_that_is_gone_for_a_while"),
        ("database/test_faults.py", "test_a_database_that_is_away_for_a_while"),
        ("database/test_faults.py", "test_the_start_waits_for_a_database_that_is_starting"),
    ],
    "the router falls over at a thousand streams": [
        (MANY, "test_a_thousand_streams_at_once_and_the_gateway_answers_its_probes"),
    ],
    "a broken stream is passed off as complete": [
        (MANY, "test_a_thousand_streams_cut_at_any_place_and_none_looks_whole"),
        (FAULTS, "test_a_cut_answer_never_passes_as_whole"),
    ],
    "slow clients and aborted uploads eat memory": [
        (MANY, "test_a_thousand_callers_who_do_not_read_fill_no_memory"),
        (MANY, "test_uploads_that_break_off_leave_nothing_behind"),
        (FAULTS, "test_a_slow_reader_pauses_the_engine_and_fills_no_memory"),
        (FAULTS, "test_callers_who_never_read_do_not_hold_their_slots_for_ever"),
    ],
}


@cache
def functions_in(file: str) -> set[str]:
    return {node.name for node in ast.parse((TESTS / file).read_text()).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("complaint", COMPLAINTS)
def test_a_complaint_has_its_tests(complaint: str) -> None:
    missing = [(file, name) for file, name in COMPLAINTS[complaint] if name not in functions_in(file)]
    assert COMPLAINTS[complaint]
    assert not missing, complaint
