"""A model's folder becomes a repository on Hugging Face, through its own package, against a hub on loopback."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inference.accounts import Account, Hubs, Secret
from inference.errors import UploadError
from inference.publish import publish
from inference.publishing.create import create_repository
from inference.publishing.target import parse_target
from tests.fakes.model_hub import model_hub

pytestmark = pytest.mark.chaos
NAME = "camper/my-finetune"


@pytest.fixture
def hub(home):
    with model_hub() as running:
        running.token = "right-token"
        running.repositories[NAME] = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}
        yield running


@pytest.fixture
def send(hub, settings, reports):
    def run(folder, token="right-token", to=f"hf:{NAME}", **options):
        hubs = Hubs(huggingface_url=hub.url, huggingface=Account("", Secret(token)))
        known = replace(settings, hubs=hubs, download_attempts=1)
        return publish(folder, parse_target(to, hubs), known, reports, **options)

    return run


def puts(hub):
    return [asked for asked in hub.asked if asked.method == "PUT"]


def test_a_folder_is_published_whole(hub, model, send):
    done = send(model)
    for path in model.iterdir():
        assert hub.repositories[NAME][path.name] == path.read_bytes(), path.name
    assert "对话模型" in hub.repositories[NAME]["README.md"].decode()
    assert done.sent
    assert hub.commits == ["Publish my-finetune"]
    assert len(puts(hub)) == 3


def test_a_second_run_sends_nothing(hub, model, send):
    send(model)
    hub.asked.clear()
    assert not send(model).sent
    assert {asked.method for asked in hub.asked} == {"GET"}


def test_a_dry_run_sends_nothing(hub, model, send):
    done = send(model, is_dry_run=True)
    assert "model-00001-of-00003.safetensors" in done.added
    assert {asked.method for asked in hub.asked} == {"GET"}


def test_old_weights_are_removed(hub, model, send):
    hub.repositories[NAME]["pytorch_model.bin"] = b"old"
    hub.repositories[NAME]["notes.md"] = b"stays"
    assert send(model).removed == ("pytorch_model.bin",)
    assert "pytorch_model.bin" not in hub.repositories[NAME]
    assert hub.repositories[NAME]["notes.md"] == b"stays"


def test_what_an_interrupted_run_sent_is_not_sent_again(hub, model, send):
    """The first file of three is there when the storage fails; no commit was made."""
    hub.put_limit = 1
    with pytest.raises(UploadError, match="could not be published to"):
        send(model)
    assert hub.commits == []
    assert "config.json" not in hub.repositories[NAME]
    there = len(hub.objects)
    assert there == 1
    hub.put_limit = None
    hub.asked.clear()
    send(model)
    assert len(puts(hub)) == 2
    assert hub.commits == ["Publish my-finetune"]


def test_a_wrong_token_names_the_variable(model, send):
    with pytest.raises(UploadError, match=r"HF_TOKEN|may not see it") as caught:
        send(model, token="wrong-token")
    assert "wrong-token" not in caught.value.message


def test_a_repository_that_is_not_there_is_named(model, send):
    with pytest.raises(UploadError, match="Create it first"):
        send(model, to="hf:camper/none")


def test_a_repository_is_made_when_asked_for_once_and_private(hub, model, send):
    assert send(model, to="hf:camper/new", create=True).sent
    assert [wanted["name"] for wanted in hub.made] == ["new"]
    assert "private" in (hub.made[0].get("visibility"), "private" if hub.made[0].get("private") else "")
    assert not send(model, to="hf:camper/new", create=True).sent
    assert len(hub.made) == 1


def test_a_repository_on_modelscope_is_made_through_its_package(hub, stop):
    pytest.importorskip("modelscope_hub")
    hubs = Hubs(modelscope_url=hub.url, modelscope=Account("oauth2", Secret("right-token")))
    target = parse_target("modelscope:camper/new", hubs)
    create_repository(target, hubs, stop)
    create_repository(target, hubs, stop)
    assert [(wanted["Path"], wanted["Name"]) for wanted in hub.made] == [("camper", "new")]
    wrong = Hubs(modelscope_url=hub.url, modelscope=Account("oauth2", Secret("wrong-token")))
    with pytest.raises(UploadError, match="MODELSCOPE_API_TOKEN"):
        create_repository(parse_target("modelscope:camper/other", wrong), wrong, stop)


def test_openxlab_makes_repositories_on_its_page_only(hub, stop):
    with pytest.raises(UploadError, match="web page"):
        create_repository(parse_target("openxlab:camper/new", Hubs()), Hubs(), stop)


def test_progress_is_told_in_bytes(hub, model, send, reports):
    send(model)
    told = [news for news in reports if news.stage == "publish" and news.total]
    assert told
    assert told[-1].total > 500_000
