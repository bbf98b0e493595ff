"""Which cards there are, from what NVIDIA's tool prints, and which may be asked about."""

import sys

import pytest

from inference.cards import Card, list_cards, wanted_card
from inference.errors import SettingsError

pytestmark = pytest.mark.unit
GIB = 1 << 30


def printing(text, code=0):
    return (sys.executable, "-c", f"import sys; sys.stdout.write({text!r}); sys.exit({code})")


def test_cards_are_read_with_what_others_have_taken():
    text = "NVIDIA A10, 23028, 0, 8.6\nTesla T4, 15360, 1024, 7.5\n"
    first, second = list_cards(printing(text))
    assert (first.name, first.kind, first.has_bfloat16) == ("NVIDIA A10", "A10", True)
    assert first.memory_bytes / GIB == pytest.approx(22.15, abs=0.1)  # torch sees 22.06
    assert (second.kind, second.has_bfloat16) == ("Tesla T4", False)
    assert second.memory_bytes / GIB == pytest.approx(15360 / 1024 * 0.985 - 1, abs=0.01)


@pytest.mark.parametrize(
    ("name", "memory_mib", "kind"),
    [
        ("NVIDIA A100-PCIE-40GB", 40960, "A100-40"),
        ("NVIDIA A100-SXM4-80GB", 81920, "A100-80"),
        ("NVIDIA A10G", 23028, "NVIDIA A10G"),
        ("NVIDIA H100 80GB HBM3", 81559, "NVIDIA H100 80GB HBM3"),
    ],
)
def test_known_cards_are_found_by_any_of_their_names(name, memory_mib, kind):
    (card,) = list_cards(printing(f"{name}, {memory_mib}, 0, 8.0\n"))
    assert card.kind == kind


@pytest.mark.parametrize(
    "query",
    [
        ("/no/such/program",),
        printing("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", 9),
        printing("No devices were found\n"),
        printing("NVIDIA A10, [N/A], 0, 8.6\n"),
        printing(""),
    ],
)
def test_a_machine_whose_driver_does_not_answer_has_no_card(query):
    assert list_cards(query) == ()


def test_a_card_may_be_asked_about_by_name_or_by_its_memory():
    assert wanted_card("a100-40") == Card("A100-40", int(39.4 * GIB))
    assert wanted_card("L40S:48").memory_bytes == int(48 * 0.985 * GIB)


@pytest.mark.parametrize("text", ["", "A11", "A10:", ":24", "A10:-3", "A10:0", "X:1e9"])
def test_another_card_is_refused_with_what_can_be_asked_about(text):
    with pytest.raises(SettingsError, match="A100-80, or any card as NAME:GIB"):
        wanted_card(text)
