"""Who may import whom, and who may touch what: each rule is a sentence, and a breach fails with it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit
ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("gateway", "hosting", "inference", "webui")
FILES = [
    *sorted(str(f.relative_to(ROOT)) for p in PACKAGES for f in (ROOT / p).rglob("*.py")),
    "app.py",
    "known_settings.py",
]
PURE = tuple(f"gateway/{name}.py" for name in ("errors", "sse", "prompt", "limits", "gcra", "markers"))
WEBUI_FORMS = tuple(
    f"webui/{name}.py"
    for name in ("door", "entrance", "entrance_pages", "forms", "identity", "oidc", "tickets", "users")
)
PROCESSES = {"subprocess.Popen", "subprocess.run", "os.fork", "os.execv", "os.execve", "asyncio.create_subprocess_exec"}

# (sentence, files it is about, what they must not name, files that may)
RULES: list[tuple[str, tuple[str, ...], set[str], tuple[str, ...]]] = [
    ("gateway imports neither webui nor inference nor app", ("gateway/",), {"webui", "inference", "app"}, ()),
    ("webui reaches the gateway over HTTP only", ("webui/",), {"gateway", "inference", "app"}, ()),
    (
        "hosting runs before anything is installed: the standard library, and nothing else of ours",
        ("hosting/",),
        {"gateway", "webui", "inference", "app", "huggingface_hub", "gradio", "requests"},
        (),
    ),
    (
        "known_settings.py holds names: it knows no program, and reads nothing",
        ("known_settings.py",),
        {"gateway", "webui", "inference", "hosting", "app", "os"},
        (),
    ),
    (
        "only command lines and app.py tell misspelt settings, so that each start does it once",
        ("",),
        {"known_settings"},
        ("app.py", *(f"{package}/__main__.py" for package in PACKAGES)),
    ),
    ("inference knows nothing of who uses it", ("inference/",), {"gateway", "webui", "app"}, ()),
    ("only gateway/wire.py parses HTTP of inference servers", ("",), {"httptools"}, ("gateway/wire.py",)),
    ("only gateway/upstream.py speaks to inference servers", ("",), {"gateway.wire"}, ("gateway/upstream.py",)),
    (
        "only the gateway's store, database, keys and migrations speak SQL",
        ("",),
        {"sqlalchemy", "alembic", "sqlite3", "psycopg"},
        (
            *(
                f"gateway/{name}.py"
                for name in (
                    "store",
                    "stored_turns",
                    "forks",
                    "records",
                    "tables",
                    "database",
                    "heartbeat",
                    "retention",
                    "search",
                    "auth",
                )
            ),
            "gateway/databases/",
            "gateway/migrations/",
        ),
    ),
    ("only gateway/tracing.py knows OpenTelemetry", ("",), {"opentelemetry"}, ("gateway/tracing.py",)),
    (
        "only gateway/metrics.py and gateway/scrape.py know Prometheus",
        ("",),
        {"prometheus_client"},
        ("gateway/metrics.py", "gateway/scrape.py"),
    ),
    (
        "only gateway/redis_line.py and gateway/redis_inbox.py speak to Redis",
        ("",),
        {"redis"},
        ("gateway/redis_line.py", "gateway/redis_inbox.py"),
    ),
    (
        "only what is put together in gateway/shared_in_redis.py goes over the line to Redis",
        ("gateway/",),
        {"gateway.redis_line", "gateway.redis_inbox", "gateway.redis_limits", "gateway.shared_slots"},
        ("gateway/shared_in_redis.py", "gateway/redis_", "gateway/shared_slots.py", "gateway/shared_answers.py"),
    ),
    (
        "only webui/client.py imports the HTTP client; Docker's and Authlib's fail with theirs",
        ("",),
        {"httpx", "httpx2", "requests"},
        ("webui/client.py", "webui/oidc.py", "inference/docker_engine.py"),
    ),
    ("only webui/oidc.py speaks OpenID Connect", ("",), {"authlib", "joserfc"}, ("webui/oidc.py",)),
    ("only webui/tickets.py encrypts", ("",), {"cryptography"}, ("webui/tickets.py",)),
    ("the pages of plain HTML know nothing of Gradio", WEBUI_FORMS, {"gradio"}, ()),
    (
        "only the container runner and its engine's door know Docker's client",
        ("",),
        {"docker"},
        ("inference/containers.py", "inference/docker_engine.py"),
    ),
    (
        "only settings, command lines, app.py, hosting, engines, hubs' child and webui/main.py touch the environment",
        ("",),
        {"os.environ", "os.getenv", "os.putenv"},
        (
            *(f"{package}/{name}.py" for package in PACKAGES for name in ("settings", "__main__")),
            "app.py",
            "hosting/entry.py",
            "hosting/listening.py",
            "inference/engines/",
            "inference/sources/hub_child.py",
            "webui/main.py",
        ),
    ),
    (
        "only engines' processes, their guard, the look for cards, the hook, sources and hosting start processes",
        ("",),
        PROCESSES | {"subprocess", "multiprocessing", "os.system", "os.popen", "os.posix_spawn", "asyncio.subprocess"},
        (
            "inference/processes.py",
            "inference/guard.py",
            "inference/cards.py",
            "inference/prestart.py",
            "inference/sources/",
            "hosting/processes.py",
            "hosting/interpreters.py",
            "hosting/entry.py",
        ),
    ),
    (
        "only the hubs' child imports the hubs' packages, and smoke Hugging Face's client of deployments",
        ("inference/",),
        {"huggingface_hub", "modelscope_hub", "modelscope"},
        ("inference/sources/hub_child.py", "inference/smoke_chat.py"),
    ),
    (
        "only what makes GGUF files computes with numbers; conversions move bytes",
        ("inference/",),
        {"numpy", "gguf"},
        ("inference/gguf_weights.py", "inference/to_gguf.py"),
    ),
    ("nothing is unpickled, and no model's framework is needed", ("",), {"pickle", "torch", "transformers"}, ()),
    ("only the check of a template parses one", ("inference/",), {"jinja2"}, ("inference/checks/tokenizer.py",)),
    ("routes do not reach past store and turn", ("gateway/routes/",), {"gateway.upstream", "gateway.database"}, ()),
    ("pure modules of the gateway know no web framework", PURE, {"fastapi", "starlette", "asyncio", "uvicorn"}, ()),
    ("no test is imported by what it tests", ("",), {"tests", "pytest"}, ()),
]


@cache
def names_in(file: str) -> tuple[tuple[int, str], ...]:
    """Every module that a file imports and every name that it takes from `os` and `asyncio`, with the line."""
    return tuple(_names(ast.parse((ROOT / file).read_text()), package=".".join(Path(file).parent.parts)))


def _names(tree: ast.Module, package: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = f"{package}.{node.module or ''}".rstrip(".") if node.level else node.module or ""
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif (
            isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("os", "asyncio")
        ):
            yield node.lineno, f"{node.value.id}.{node.attr}"


def breaches(about: tuple[str, ...], forbidden: set[str], allowed: tuple[str, ...]) -> list[str]:
    return [
        f"{file}:{line} names {name}"
        for file in FILES
        if file.startswith(about) and not file.startswith(allowed or ("//",))
        for line, name in names_in(file)
        if any(name == bad or name.startswith(bad + ".") for bad in forbidden)
    ]


@pytest.mark.parametrize(("sentence", "about", "forbidden", "allowed"), RULES, ids=[rule[0] for rule in RULES])
def test_rule(sentence: str, about: tuple[str, ...], forbidden: set[str], allowed: tuple[str, ...]) -> None:
    found = breaches(about, forbidden, allowed)
    assert not found, f"{sentence}:\n" + "\n".join(found)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule[3]], ids=lambda rule: rule[0])
def test_who_is_excepted_needs_it(rule: tuple[str, tuple[str, ...], set[str], tuple[str, ...]]) -> None:
    """A rule that nobody could break says nothing: at least one excepted file does what the others must not."""
    assert breaches(rule[3], rule[2], ()), rule[0]


def test_errors_and_sse_import_nothing_of_ours() -> None:
    for file in ("gateway/errors.py", "gateway/sse.py"):
        assert not [name for _, name in names_in(file) if name.startswith("gateway")], file


def test_hosting_imports_the_standard_library_and_itself_only() -> None:
    """It runs on a platform's old Python before anything is installed."""
    for file in FILES:
        if file.startswith("hosting/"):
            for line, name in names_in(file):
                top = name.split(".")[0]
                assert top in sys.stdlib_module_names or top == "hosting", f"{file}:{line} imports {name}"
