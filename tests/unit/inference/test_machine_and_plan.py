"""What the machine may use, and what is planned with it."""

from dataclasses import replace

import pytest

from inference.catalogue import load_catalogue
from inference.errors import DoesNotFit, SettingsError
from inference.machine import Machine, usable_cores_and_memory
from inference.plan import make_plan
from inference.settings import DEFAULT_MODEL

pytestmark = pytest.mark.unit
GIB = 1 << 30


@pytest.fixture
def model():
    return load_catalogue()[DEFAULT_MODEL]


def test_without_control_groups_the_machine_is_itself(tmp_path):
    cores, memory = usable_cores_and_memory(tmp_path, tmp_path / "none")
    assert cores >= 1
    assert memory > 100_000_000


@pytest.mark.parametrize(
    ("files", "cores", "memory"),
    [
        ({"cpu.max": "50000 100000", "memory.max": "1000000"}, 1, 1_000_000),
        ({"slice/cpu.max": "100000 100000", "slice/memory.max": "max", "memory.max": "2000000"}, 1, 2_000_000),
        ({"slice/own/cpu.max": "max 100000", "slice/own/memory.max": "3000000"}, None, 3_000_000),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1, None),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None, None),
        ({"memory/memory.limit_in_bytes": "9223372036854771712"}, None, None),
        ({"memory/memory.limit_in_bytes": "4000000"}, None, 4_000_000),
        ({"cpu.max": "nonsense", "memory.max": "nonsense"}, None, None),
    ],
)
def test_limits_of_control_groups_count(tmp_path, write, files, cores, memory):
    for name, content in files.items():
        write(f"cgroup/{name}", content + "\n")
    own = write("own", "0::/slice/own\n")
    bare_cores, bare_memory = usable_cores_and_memory(tmp_path / "none", own)
    found = usable_cores_and_memory(tmp_path / "cgroup", own)
    assert found == (cores or bare_cores, memory or bare_memory)


def test_one_core_stays_free(model, settings):
    assert make_plan(model, settings, Machine(8, 16 * GIB)).threads == 7
    assert make_plan(model, settings, Machine(1, 16 * GIB)).threads == 1
    assert make_plan(model, replace(settings, threads=3), Machine(8, 16 * GIB)).threads == 3


def test_memory_counts_weights_and_all_slots(model, settings):
    plan = make_plan(model, replace(settings, context_tokens=8192, slots=4), Machine(2, 16 * GIB))
    assert plan.memory_bytes - plan.prompt_cache_bytes > model.size_bytes + 23_040 * 8192 * 4
    assert plan.prompt_cache_bytes == 512 << 20


def test_too_little_memory_is_refused_with_what_to_change(model, settings):
    with pytest.raises(DoesNotFit, match="INFERENCE_SLOTS") as caught:
        make_plan(model, replace(settings, slots=4), Machine(2, 400_000_000))
    assert "0.4 GiB" in caught.value.message


def test_the_prompt_cache_shrinks_with_the_memory(model, settings):
    plan = make_plan(model, settings, Machine(2, 1 * GIB))
    assert 0 < plan.prompt_cache_bytes < 128 << 20
    assert plan.memory_bytes <= 1 * GIB


def test_the_context_follows_what_the_model_was_trained_for(model, settings):
    short = replace(model, context_tokens=2048)
    assert make_plan(model, settings, Machine(2, 8 * GIB)).context_tokens == 4096
    assert make_plan(short, settings, Machine(2, 8 * GIB)).context_tokens == 2048
    with pytest.raises(SettingsError, match=r"INFERENCE_CONTEXT is 4096.*trained for 2048"):
        make_plan(short, replace(settings, context_tokens=4096), Machine(2, 8 * GIB))


def test_an_unknown_engine_is_refused(model, settings):
    with pytest.raises(SettingsError, match="engine 'vllm' is not there"):
        make_plan(model, replace(settings, engine="vllm"), Machine(2, 8 * GIB))


def test_slots_and_context_become_smaller_where_the_memory_is_small_unless_they_are_asked_for(settings):
    model = load_catalogue()["internlm2_5-1_8b-chat"]
    sizes = [make_plan(model, settings, Machine(2, int(size * GIB))) for size in (8, 3, 2.5, 2.3)]
    assert [(plan.slots, plan.context_tokens) for plan in sizes] == [(4, 4096), (2, 4096), (1, 4096), (1, 2048)]
    with pytest.raises(DoesNotFit, match="4 slots of 4096 tokens"):
        make_plan(model, replace(settings, slots=4, context_tokens=4096), Machine(2, 3 * GIB))
