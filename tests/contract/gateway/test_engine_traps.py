"""Every known trap of an engine has a test, which fails when the dialect forgets it. This is the list of them.

What an engine does stands on the left, as seen or read; on the right the test, by file and name.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.contract
TESTS = Path(__file__).resolve().parents[2]
TGI, TOOLS, NATIVE = (
    "contract/gateway/test_tgi.py",
    "contract/gateway/test_tgi_tools.py",
    "contract/gateway/test_tgi_native.py",
)
LMDEPLOY, OPENAI = "contract/gateway/test_lmdeploy.py", "contract/gateway/test_openai_upstream.py"
LLAMACPP, CHAT = "unit/gateway/test_gateway_llamacpp.py", "contract/gateway/test_chat_completions.py"
BAD, INTERNLM2 = "contract/gateway/test_bad_input.py", "contract/gateway/test_internlm2_tools.py"

TRAPS: list[tuple[str, str, str, str]] = [
    ("TGI", "top_p 1 is refused", TGI, "test_neutral_values_that_tgi_refuses_or_misreads_are_not_sent"),
    (
        "TGI",
        "presence_penalty 0 is a repetition penalty of 2",
        TGI,
        "test_neutral_values_that_tgi_refuses_or_misreads_are_not_sent",
    ),
    ("TGI", "presence_penalty otherwise is another penalty", TGI, "test_what_tgi_cannot_do_is_refused_by_name"),
    ("TGI", "stop as a plain text is refused", TGI, "test_what_tgi_is_asked"),
    ("TGI", "both max_tokens and max_completion_tokens are a duplicate", TGI, "test_what_tgi_is_asked"),
    ("TGI", "negative seeds are refused", TGI, "test_what_tgi_is_asked"),
    (
        "TGI",
        "stream_options null and stream null are refused",
        TGI,
        "test_neutral_values_that_tgi_refuses_or_misreads_are_not_sent",
    ),
    ("TGI", "logit_bias as a map is refused", TGI, "test_neutral_values_that_tgi_refuses_or_misreads_are_not_sent"),
    (
        "TGI",
        "max_tokens of the whole context is refused or cut",
        TGI,
        "test_all_that_the_context_leaves_is_tgis_own_default",
    ),
    ("TGI", "max_tokens 1025 gives 2048 tokens", TGI, "test_no_more_tokens_come_than_were_asked_for"),
    ("TGI", "max_new_tokens 1025 gives 2048 tokens", NATIVE, "test_no_more_tokens_come_than_were_asked_for"),
    ("TGI", "OpenAI's response_format is refused", TOOLS, "test_answer_formats_in_both_dialects"),
    ("TGI", "json_object needs a schema", TOOLS, "test_any_json_object_is_a_regular_expression"),
    ("TGI", "a schema without properties is refused", TOOLS, "test_what_tgi_has_not_is_refused_by_name"),
    ("TGI", "response_format and tools exclude each other", TOOLS, "test_what_tgi_has_not_is_refused_by_name"),
    ("TGI", "tools without parameters are refused", TOOLS, "test_tools_without_parameters_get_some"),
    ("TGI", "tools: [] ends in a stream that is [DONE]", TOOLS, "test_no_tools_are_left_out"),
    ("TGI", "tools with references lose their definitions", TOOLS, "test_references_in_a_tools_schema_are_written_out"),
    ("TGI", "a tool named no_tool is taken for none", TOOLS, "test_what_tgi_has_not_is_refused_by_name"),
    ("TGI", "no_tool: words come in place of a call", TOOLS, "test_words_in_place_of_a_call"),
    ("TGI", "content beside tool_calls loses the calls", TOOLS, "test_a_message_with_words_and_calls_is_sent_as_two"),
    ("TGI", "streamed calls have no finish_reason", TOOLS, "test_a_streamed_call_in_openais_form"),
    ("TGI", "every call has the id 0, in every piece", TOOLS, "test_ids_of_calls_are_unique"),
    ("TGI", "name is null in later pieces", TOOLS, "test_a_streamed_call_in_openais_form"),
    ("TGI", "finish_reason of a call is stop", TOOLS, "test_the_same_call_not_streamed"),
    (
        "TGI",
        "the whole stream of a cut call is [DONE]",
        TOOLS,
        "test_a_call_that_was_cut_before_it_began_is_an_honest_error",
    ),
    ("TGI", "a call that is cut inside ends without a word", TOOLS, "test_a_call_that_is_cut_inside_says_length"),
    ("TGI", "more than five top_logprobs are refused", TOOLS, "test_what_tgi_has_not_is_refused_by_name"),
    ("TGI", "logprobs have no bytes, and too many alternatives", TOOLS, "test_log_probabilities_in_openais_form"),
    (
        "TGI",
        "ids are empty, dates differ, the model is a path",
        TGI,
        "test_a_stream_gets_an_id_a_date_and_the_public_model",
    ),
    ("TGI", "every delta has a role", TGI, "test_the_sdks_stream_helper_understands_it"),
    ("TGI", "finish_reason stop_sequence", TGI, "test_stop_sequence_is_told_as_stop"),
    ("TGI", "the stop text is in the answer", TGI, "test_the_stop_text_is_cut_from_the_answer"),
    (
        "TGI",
        "a stop text that ends inside a token is missed",
        TGI,
        "test_a_stop_text_that_ends_inside_a_token_is_found_and_ends_the_generation",
    ),
    ("TGI", "tokens end inside characters", TGI, "test_characters_that_tokens_split_come_whole"),
    ("TGI", "a 422 in plain text", TGI, "test_errors_before_the_first_token_have_honest_codes"),
    (
        "TGI",
        "HTTP 200 with an error whose code is always 422",
        TGI,
        "test_errors_before_the_first_token_have_honest_codes",
    ),
    (
        "TGI",
        "an error in mid-stream is followed by [DONE]",
        TGI,
        "test_a_shard_that_dies_in_mid_stream_is_an_error_without_done",
    ),
    ("TGI", "the connection breaks inside the body", TGI, "test_a_router_that_dies_breaks_the_stream_off"),
    ("TGI", "a connection ends without [DONE]", TGI, "test_a_stream_without_done_is_cut_even_when_http_ends_well"),
    ("TGI", "native streams end without [DONE]", NATIVE, "test_a_stream_that_breaks_off_ends_in_tgis_form_of_an_error"),
    ("TGI", "keep-alive comments", TGI, "test_keep_alive_comments_are_no_part_of_the_answer"),
    ("TGI", "comments keep coming while the shard hangs", TGI, "test_comments_do_not_keep_a_hanging_shard_alive"),
    ("TGI", "connections are refused until it is ready", TGI, "test_nobody_listens_until_tgi_is_ready"),
    ("TGI", "/health hangs with the shard", TGI, "test_a_health_check_that_hangs_means_not_ready"),
    ("TGI", "images and invented roles are taken in silence", TGI, "test_what_tgi_takes_in_silence_is_refused"),
    ("TGI", "typed markers become control tokens", TGI, "test_markers_that_people_type_reach_tgi_broken_up"),
    ("TGI", "typed markers in tools do so too", TOOLS, "test_markers_in_tools_and_results_reach_tgi_broken_up"),
    ("TGI", "completions have other finish reasons and penalties", TOOLS, "test_a_completion_in_openais_form"),
    ("TGI", "completions ignore presence_penalty", TOOLS, "test_a_completion_as_tgi_takes_it"),
    ("TGI", "completions ignore echo, best_of, logprobs", TOOLS, "test_what_completions_have_not_is_refused_by_name"),
    ("TGI", "/info tells the model's path", NATIVE, "test_tokenize_and_info"),
    ("LMDeploy", "error bodies are flat", LMDEPLOY, "test_flat_errors_have_honest_codes"),
    ("LMDeploy", "an error is followed by [DONE]", LMDEPLOY, "test_a_cut_answer_never_passes_as_a_whole_one"),
    ("LMDeploy", "penalties are taken and ignored", LMDEPLOY, "test_penalties_that_lmdeploy_ignores_are_refused"),
    ("LMDeploy", "stop texts work only as single tokens", LMDEPLOY, "test_stop_texts_are_cut_here_and_free_the_engine"),
    (
        "LMDeploy",
        "top_k is 50 by default, temperature 0.8",
        LMDEPLOY,
        "test_openais_defaults_are_said_since_lmdeploys_are_others",
    ),
    ("LMDeploy", "negative seeds are a 500", LMDEPLOY, "test_openais_defaults_are_said_since_lmdeploys_are_others"),
    ("LMDeploy", "no body limit", BAD, "test_a_body_over_the_limit"),
    ("LMDeploy", "plain requests run on", LMDEPLOY, "test_openais_defaults_are_said_since_lmdeploys_are_others"),
    ("LMDeploy", "each piece of a call has an id of its own", LMDEPLOY, "test_calls_have_one_id_each"),
    ("LMDeploy", "completions have no logprobs, and no 16 tokens", LMDEPLOY, "test_legacy_completions"),
    ("LMDeploy", "a server that sleeps is healthy", LMDEPLOY, "test_a_server_that_sleeps_is_not_ready"),
    ("llama.cpp", "plain requests run on", CHAT, "test_what_the_engine_is_asked"),
    ("llama.cpp", "without max_tokens it fills the context", CHAT, "test_absent_parameters_mean_openais_defaults"),
    ("llama.cpp", "its own defaults for sampling", CHAT, "test_absent_parameters_mean_openais_defaults"),
    ("llama.cpp", "bad values and roles are swallowed", BAD, "test_a_chat_that_is_refused_by_name"),
    ("llama.cpp", "a huge prompt is tokenized for a minute", BAD, "test_a_body_over_the_limit"),
    ("llama.cpp", "a prompt that is too long", LLAMACPP, "test_numbers_of_a_context_that_was_exceeded"),
    ("llama.cpp", "one seed means random", LLAMACPP, "test_a_seed_never_means_random"),
    ("llama.cpp", "an error comes as an error: line", LLAMACPP, "test_an_error_event_is_raised"),
    (
        "llama.cpp",
        "without an alias it tells the path",
        LLAMACPP,
        "test_the_recorded_stream_needs_no_repair_and_one_without_an_alias_does",
    ),
    (
        "llama.cpp",
        "tool_choice required is answered in words",
        INTERNLM2,
        "test_llamacpp_is_forced_since_it_would_answer_in_words",
    ),
    ("llama.cpp", "one call at a time by default", INTERNLM2, "test_llamacpps_own_tools"),
    (
        "llama.cpp",
        "completions: chat's logprobs, usage in the last event",
        INTERNLM2,
        "test_llamacpps_completions_with_log_probabilities",
    ),
    (
        "openai",
        "an empty id, another name of the model",
        OPENAI,
        "test_an_empty_id_and_another_name_of_the_model_are_repaired",
    ),
    ("openai", "a role with every delta", OPENAI, "test_a_role_with_every_delta_is_kept_in_the_first_only"),
    ("openai", "no [DONE]", OPENAI, "test_a_whole_answer_may_end_without_done"),
    ("openai", "no finish_reason", OPENAI, "test_one_without_a_finish_reason_is_cut"),
    ("openai", "429 and 503 with Retry-After", OPENAI, "test_the_engines_retry_after_is_told"),
]


@cache
def functions_in(file: str) -> set[str]:
    return {node.name for node in ast.parse((TESTS / file).read_text()).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(
    ("engine", "trap", "file", "name"), TRAPS, ids=[f"{engine}: {trap}" for engine, trap, _, _ in TRAPS]
)
def test_a_trap_has_its_test(engine: str, trap: str, file: str, name: str) -> None:
    assert name in functions_in(file), f"{engine}, {trap}: {file} has no {name}"


def test_no_trap_is_listed_twice() -> None:
    listed = [(engine, trap) for engine, trap, _, _ in TRAPS]
    assert len(listed) == len(set(listed))
