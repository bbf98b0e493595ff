"""What fits which card, compared with figures that were worked out by hand from the engines' sources.

They stand in docs/models.md, "What fits where".
"""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from inference.budget import lmdeploy_budget, tgi_budget
from inference.cards import Card, wanted_card
from inference.catalogue import load_catalogue
from inference.errors import DoesNotFit, SettingsError
from inference.machine import DockerState, Machine
from inference.plan import make_plan
from inference.tables import list_table, plan_table, plan_text

pytestmark = pytest.mark.unit
GIB = 1 << 30
MODELS = load_catalogue()
SMALL, SEVEN, TWENTY = (MODELS[f"internlm2-chat-{size}"] for size in ("1_8b", "7b", "20b"))


def machine(*cards, **changes):
    every = {"docker": DockerState(True, True), "launcher": "/bin/tgi", "lmdeploy": "/bin/lmdeploy"}
    return Machine(8, 32 * GIB, tuple(wanted_card(card) for card in cards), **{**every, **changes})


@pytest.mark.parametrize(
    ("model", "card", "quantize", "weights_gib", "tokens"),
    [
        (SEVEN, "A10", "none", 14.41, 32_000),
        (SEVEN, "A10", "eetq", 7.9, 85_000),
        (SEVEN, "A10", "fp8", 9.5, 72_000),
        (SEVEN, "A100-40", "none", 14.41, 160_000),
        (TWENTY, "A100-40", "none", 36.99, 0),
        (TWENTY, "A100-40", "eetq", 19.6, 78_000),
        (TWENTY, "A100-40", "fp8", 24.1, 54_000),
        (TWENTY, "A100-40", "bitsandbytes-nf4", 10.8, 126_000),
        (TWENTY, "A100-80", "none", 36.99, 178_000),
        (SMALL, "A10", "eetq", 2.1, 177_000),
    ],
)
def test_what_tgi_has_room_for(model, card, quantize, weights_gib, tokens):
    budget = tgi_budget(model, model.shape, wanted_card(card), quantize=quantize)
    assert budget.weight_bytes / GIB == pytest.approx(weights_gib, abs=0.06)
    assert budget.cache_tokens == pytest.approx(tokens, rel=0.02)
    assert budget.fits == (tokens > 0)


@pytest.mark.parametrize(
    ("model", "card", "options", "tokens", "fits"),
    [
        (SEVEN, "A10", {}, 46_200, True),
        (SEVEN, "A10", {"kv_bits": 8}, 89_600, True),
        (SEVEN, "A10", {"kv_bits": 4}, 173_900, True),
        (SEVEN, "A10", {"quantize": "awq"}, 109_800, True),
        (SEVEN, "A100-40", {}, 159_800, True),
        (TWENTY, "A100-40", {}, 7_900, False),
        (TWENTY, "A100-40", {"kv_bits": 8, "cache_ratio": 0.6, "prefill_tokens": 1024}, 11_500, True),
        (TWENTY, "A100-40", {"quantize": "awq"}, 122_300, True),
        (TWENTY, "A10", {"quantize": "awq"}, 46_500, True),
        (TWENTY, "A100-80", {}, 181_800, True),
        (TWENTY, "A100-40", {"cards": 2}, 177_000, True),
        (SMALL, "A10", {}, 156_700, True),
    ],
)
def test_what_lmdeploy_has_room_for(model, card, options, tokens, fits):
    budget = lmdeploy_budget(model, model.shape, wanted_card(card), **options)
    assert budget.cache_tokens == pytest.approx(tokens, rel=0.01)
    assert budget.fits is fits


def test_seven_billion_on_an_a10_take_the_settings_of_the_catalogue(settings):
    plan = make_plan(SEVEN, settings, machine("A10"))
    gpu = plan.gpu
    assert (plan.engine, plan.form, gpu.quantize, gpu.dtype) == ("tgi", "llama", "none", "bfloat16")
    assert (gpu.context_tokens, gpu.input_tokens, gpu.prefill_tokens, plan.slots) == (8192, 7168, 8192, 64)
    assert gpu.is_listed


def test_twenty_billion_on_an_a100_of_40_gb_are_quantized_on_tgi_and_barely_fit_on_lmdeploy(settings):
    assert make_plan(TWENTY, settings, machine("A100-40")).gpu.quantize == "eetq"
    tight = make_plan(TWENTY, replace(settings, engine="lmdeploy"), machine("A100-40")).gpu
    assert (tight.quantize, tight.kv_bits, tight.cache_ratio, tight.requests) == ("none", 8, 0.6, 4)


def test_a_plan_that_does_not_fit_names_the_nearest_that_does(settings):
    full = replace(settings, engine="tgi-container", quantize="none")
    with pytest.raises(DoesNotFit) as caught:
        make_plan(TWENTY, full, machine("A100-40"))
    message = caught.value.message
    assert "does not fit A100-40 with tgi: the weights take 37.0 GiB of 39.4 GiB" in message
    assert "The nearest that fits: tgi with INFERENCE_QUANTIZE=eetq (19.6 GiB of weights, 78660 tokens" in message


def test_where_no_precision_fits_a_smaller_model_is_named(settings):
    tiny = machine("T4:10")
    with pytest.raises(DoesNotFit, match=r"another model, MODEL=internlm2.*1_8b"):
        make_plan(TWENTY, replace(settings, engine="lmdeploy"), tiny, MODELS.values())
    with pytest.raises(DoesNotFit, match="take a larger card, or llamacpp"):
        make_plan(TWENTY, replace(settings, engine="lmdeploy"), tiny)


def test_a_wish_for_more_context_than_the_card_has_is_refused_with_the_numbers(settings):
    asked = replace(settings, engine="tgi", context_tokens=32768, quantize="none")
    with pytest.raises(DoesNotFit, match=r"and so \d+ tokens of context fit instead of 32768 or more"):
        make_plan(SEVEN, asked, machine("A10"))
    assert make_plan(SEVEN, replace(asked, quantize="auto"), machine("A10")).gpu.quantize == "eetq"


def test_the_longest_prompt_can_always_be_read_at_once_by_tgi(settings):
    for model in (SMALL, SEVEN, TWENTY):
        for card in ("A10", "A100-40", "A100-80", "L40S:48"):
            for context in (None, 2048, 16384):
                gpu = make_plan(model, replace(settings, engine="tgi", context_tokens=context), machine(card)).gpu
                assert gpu.input_tokens < gpu.context_tokens <= model.context_tokens
                assert gpu.input_tokens <= gpu.prefill_tokens
                assert gpu.context_tokens <= gpu.budget.cache_tokens


def test_all_settings_of_the_catalogue_fit_their_cards(settings):
    for model in MODELS.values():
        for listed in model.gpus:
            wish = replace(settings, engine=listed.engine, quantize=listed.quantize)
            gpu = make_plan(model, wish, machine(listed.card)).gpu
            assert gpu.is_listed, (model.name, listed)
            assert gpu.quantize == listed.quantize


def test_cards_share_a_model_where_its_heads_can_be_divided(settings):
    two = machine("A100-40", "A100-40")
    gpu = make_plan(TWENTY, replace(settings, engine="tgi", gpus=2), two).gpu
    assert (gpu.cards, gpu.quantize) == (2, "none")
    assert gpu.budget.weight_bytes == TWENTY.size_bytes // 2
    with pytest.raises(SettingsError, match="8 key and value heads cannot be shared"):
        make_plan(TWENTY, replace(settings, engine="tgi", gpus=3), machine("A10", "A10", "A10"))
    with pytest.raises(DoesNotFit, match="INFERENCE_GPUS is 4, but this machine has 2"):
        make_plan(TWENTY, replace(settings, engine="tgi", gpus=4), two)


def test_an_older_card_gets_float16(settings):
    old = replace(machine("A10"), cards=(Card("Tesla V100", 32 * GIB, (7, 0)),))
    assert make_plan(SEVEN, settings, old).gpu.dtype == "float16"


@pytest.mark.parametrize(
    ("changes", "engine", "why"),
    [
        ({}, "tgi", "tgi, the first that can run it here"),
        ({"launcher": None}, "tgi-container", "not tgi: text-generation-launcher is not on the PATH"),
        ({"launcher": None, "docker": DockerState(True, False)}, "lmdeploy", "Docker cannot give containers a GPU"),
        ({"launcher": None, "docker": DockerState(), "lmdeploy": None}, "llamacpp", "lmdeploy is not installed"),
        ({"cards": ()}, "llamacpp", "not tgi, tgi-container, lmdeploy: there is no NVIDIA card"),
    ],
)
def test_the_best_engine_is_chosen_and_the_choice_explained(settings, changes, engine, why):
    plan = make_plan(MODELS["internlm2_5-7b-chat"], settings, replace(machine("A10"), **changes))
    assert (plan.engine, plan.form) == (engine, "gguf" if engine == "llamacpp" else "llama")
    assert why in plan.reason


def test_when_nothing_can_run_it_every_engine_has_its_reason(settings):
    nothing = replace(machine(), memory_bytes=GIB, has_llamacpp=False)
    with pytest.raises(DoesNotFit, match=r"lmdeploy: there is no NVIDIA card.*llamacpp: xllamacpp is not installed"):
        make_plan(SEVEN, settings, nothing)


@pytest.mark.parametrize(
    ("engine", "changes", "why"),
    [
        ("tgi", {"launcher": None}, "text-generation-launcher is not on the PATH"),
        ("tgi-container", {"docker": DockerState()}, "no Docker engine answers"),
        ("lmdeploy", {"lmdeploy": None}, "pip install lmdeploy"),
        ("tgi", {"cards": ()}, "there is no NVIDIA card"),
        ("llamacpp", {"has_llamacpp": False}, "xllamacpp is not installed"),
    ],
)
def test_an_engine_that_is_asked_for_and_not_there_says_why(settings, engine, changes, why):
    with pytest.raises(DoesNotFit, match=re.escape(why)):
        make_plan(SEVEN, replace(settings, engine=engine), replace(machine("A10"), **changes))


def test_files_that_were_quantized_beforehand_are_counted_as_they_are(settings):
    small = replace(TWENTY, layout="llama", size_bytes=11 * GIB)
    gpu = make_plan(small, replace(settings, engine="lmdeploy"), machine("A10")).gpu
    assert (gpu.quantize, gpu.budget.weight_bytes) == ("none", 11 * GIB)


@pytest.mark.parametrize(("engine", "wish"), [("tgi", "awq"), ("lmdeploy", "awq"), ("lmdeploy", "eetq"), ("tgi", "x")])
def test_a_precision_that_the_engine_lacks_is_refused(settings, engine, wish):
    with pytest.raises(SettingsError, match=f"INFERENCE_QUANTIZE is {wish}, but {engine} has auto, none"):
        make_plan(SEVEN, replace(settings, engine=engine, quantize=wish), machine("A10"))


def test_the_table_shows_what_fits_and_by_how_much_the_rest_does_not(settings):
    rows = plan_table(TWENTY, settings, machine("A100-40")).splitlines()
    assert [row.split()[-1] for row in rows[1:]] == ["short", "yes", "yes", "short", "yes", "yes"]
    assert "no, 3.4 GiB short" in rows[1]
    assert plan_table(TWENTY, settings, machine()) == ""


def test_the_plan_is_printed_with_its_arithmetic(settings):
    text = plan_text(make_plan(SEVEN, settings, machine("A10")))
    for part in (
        "weights                -   14.4 GiB",
        "left for the cache     =    3.9 GiB",
        "131072 bytes",
        "15.5 GB",
    ):
        assert part in text


def test_the_list_says_where_each_model_would_run(settings):
    text = list_table(MODELS.values(), replace(settings, model="internlm2-chat-7b"), machine("A10"))
    assert re.search(r"^\* +internlm2-chat-7b .* tgi ", text, re.MULTILINE)
    assert re.search(r"^ +smollm2-135m-instruct .* llamacpp ", text, re.MULTILINE)


@pytest.mark.parametrize(("model", "card"), [(SEVEN, "A10"), (TWENTY, "A100-40")])
def test_the_plans_in_models_md_are_as_printed(settings, model, card):
    document = (Path(__file__).resolve().parents[3] / "docs" / "models.md").read_text()
    printed = plan_table(model, settings, machine(card)), plan_text(make_plan(model, settings, machine(card)))
    assert "\n\n".join(printed) in document
