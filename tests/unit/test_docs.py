"""The documents against the code: settings, routes, parameters, errors, pins, links, commands, names of functions.

Each test says in its failure what to write where. Nothing is started here, and nothing is read but the checkout.
"""

from __future__ import annotations

import ast
import importlib.metadata
import itertools
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from packaging.requirements import Requirement

import gateway.settings
import inference
import known_settings
import webui.settings
from gateway import errors, response_schemas, schemas
from gateway.routes import completions, conversations, history, keys, native, ops, responses
from scripts.space_requirements import render

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
ROUTES = (completions, conversations, history, keys, native, ops, responses)
API = ROOT / "docs" / "api.md"
READMES = (ROOT / "README.md", ROOT / "README_zh-CN.md")
VARIABLE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")
HAS_GIT = shutil.which("git") is not None and (ROOT / ".git").exists()
NOT_OURS = {".git", ".venv", "data", "models", "build", "dist", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
NOT_SETTINGS = {
    "HOME",  # the system's
    "PATH",  # the system's
    "PYENV_ROOT",  # pyenv's
    "SYSTEM",  # a mark of Hugging Face's
    "UV_DEFAULT_INDEX",  # uv's; made of PIP_INDEX_URL
    "INFERENCE_ENGINE_KEY",  # between our own processes
    "INTERNLM_HUB_TOKEN",  # between our own processes
    "LD_LIBRARY_PATH",  # the dynamic linker's; only lengthened
}


@cache
def committed() -> tuple[Path, ...]:
    """The files of the checkout that git knows; without git, those outside of what .gitignore names."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False) if HAS_GIT else None
    if listed is not None and listed.returncode == 0:
        return tuple(path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file())
    found = (path for path in ROOT.rglob("*") if not NOT_OURS & set(path.relative_to(ROOT).parts))
    return tuple(path for path in found if path.is_file() and path.suffix != ".pyc")


def markdown() -> list[Path]:
    return [path for path in committed() if path.suffix == ".md" and "tests" not in path.relative_to(ROOT).parts]


def section(text: str, heading: str) -> str:
    """What stands under a heading, to the next one of any level."""
    start = re.search(rf"^#+ {re.escape(heading)}\n", text, re.MULTILINE)
    assert start, f"no heading {heading!r}"
    return re.split(r"^#+ ", text[start.end() :], maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of all rows of the tables in `text`, without heads; a cell's first code comes without its ticks."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [row for row in cells if row[0].startswith("`") or row[0].isdigit()]


def code_of(cell: str) -> str:
    found = re.match(r"`([^`]+)`", cell)
    assert found, cell
    return found[1]


# --- settings


def _names_read(source: str) -> Iterator[str]:
    """Variables that Python code reads: the constant in `environ.get("X")`, `environ["X"]`, `read.whole("X", …)`,
    `_number(environ, "X", …)` and the like."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            receiver = node.func.value if isinstance(node.func, ast.Attribute) else None
            is_written = isinstance(node.func, ast.Attribute) and node.func.attr == "setdefault"
            parts = [receiver, *node.args[:2]] if receiver is not None else list(node.args[:2])
            if not is_written and any(_is_environment(part) for part in parts):
                yield from (
                    part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)
                )
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and _is_environment(node.value):
            if isinstance(node.slice, ast.Constant):
                yield str(node.slice.value)


def _is_environment(node: ast.AST | None) -> bool:
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return name in {"environ", "given", "read", "_environ"}


def variables_read() -> set[str]:
    read: set[str] = set()
    for path in committed():
        folder = path.relative_to(ROOT).parts[0]
        if path.suffix == ".py" and folder in {"app.py", "gateway", "hosting", "inference", "webui", "bench"}:
            read |= {name for name in _names_read(path.read_text()) if VARIABLE.fullmatch(name)}
        elif folder != "examples" and (
            path.suffix == ".sh" or path.name.startswith("docker-compose") or path.name == "swarm.yml"
        ):
            read |= set(re.findall(r"\$\{([A-Z][A-Z0-9_]*):-", path.read_text()))
    return read - NOT_SETTINGS


def test_settings_are_found_in_code_in_the_ways_that_we_write_them() -> None:
    ways = (
        'environ.get("A_1")\nos.environ["B"]\nread.whole("C", 0)\n_number(environ, "D", 1)\n_url("E", given.get("E"))'
    )
    assert set(_names_read(ways)) == {"A_1", "B", "C", "D", "E"}
    assert set(_names_read('os.environ["A"] = "x"\nos.environ.setdefault("B", "1")\nmessages.get("C")')) == set()


def test_every_variable_that_is_read_stands_in_env_example_and_no_other() -> None:
    named = re.findall(r"^#([A-Z][A-Z0-9_]*)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert len(named) == len(set(named)), "a variable stands twice in .env.example"
    assert variables_read() == set(named)
    assert known_settings.NAMES == set(named), "known_settings.py tells misspelt names by its list"


def test_every_variable_in_env_example_has_a_line_of_meaning_above_it() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        if re.match(r"#[A-Z][A-Z0-9_]*=", line):
            assert re.match(r"# [^-]", before), f"{line}: say what it means"


def test_env_example_shows_the_defaults_and_a_shell_can_read_it(tmp_path: Path) -> None:
    lines = re.findall(r"^#([A-Z][A-Z0-9_]*=.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    (tmp_path / ".env").write_text("\n".join(lines))
    command = ["bash", "-euc", "set -a; . ./.env; exec env -0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    told = dict(entry.split("=", 1) for entry in done.stdout.split("\0") if entry)
    shown = {name: told[name] for name in (line.split("=")[0] for line in lines) if told[name]}
    upstream = {"GATEWAY_UPSTREAMS": "llamacpp=http://127.0.0.1:8080"}
    gateway_shown = {**shown, **upstream, "PORT": ""}  # the gateway alone has another one
    assert gateway.settings.Settings.from_env(gateway_shown, ROOT) == gateway.settings.Settings.from_env(upstream, ROOT)
    assert inference.Settings.from_env(shown, ROOT) == inference.Settings.from_env({}, ROOT)
    assert webui.settings.Settings.from_env(shown, ROOT) == webui.settings.Settings.from_env({}, ROOT)


# --- the API


@cache
def schema() -> dict[str, dict[str, object]]:
    app = FastAPI()
    for part in ROUTES:
        app.include_router(part.router)
    paths: dict[str, dict[str, object]] = app.openapi()["paths"]
    return paths


def test_every_file_of_routes_is_looked_at_here() -> None:
    files = {path.stem for path in (ROOT / "gateway" / "routes").glob("*.py")} - {"__init__"}
    assert files == {part.__name__.rpartition(".")[2] for part in ROUTES}


def test_api_md_names_every_route_and_no_other() -> None:
    documented = [code_of(row[0]) for row in rows(section(API.read_text(), "Routes"))]
    routes = {f"{method.upper()} {path}" for path, methods in schema().items() for method in methods}
    assert set(documented) == routes
    assert len(documented) == len(set(documented))


WITH_TABLES_OF_THEIR_OWN = {"POST /v1/chat/completions", "POST /v1/completions", "POST /v1/responses"}


def _parameters(operation: dict[str, Any], components: dict[str, Any]) -> set[str]:
    """What can be said in the query and in the body of an operation."""
    names = {entry["name"] for entry in operation.get("parameters", ()) if entry["in"] == "query"}
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    for part in (body, *body.get("anyOf", ())):
        names |= set(components.get(part.get("$ref", "").rpartition("/")[2], {}).get("properties", {}))
    return names


def test_api_md_names_the_parameters_of_every_other_route_and_no_others() -> None:
    document = json.loads((ROOT / "docs" / "openapi.json").read_text())  # a contract test keeps it as the app has it
    said: dict[str, str] = {}
    told = ""
    for row in rows(section(API.read_text(), "Routes")):
        told = f"{row[1]} {told}" if row[1].startswith("the same") else row[1]
        said[code_of(row[0])] = told
    components = document["components"]["schemas"]
    every = [operation for operations in document["paths"].values() for operation in operations.values()]
    anywhere = set().union(*(_parameters(operation, components) for operation in every))
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            route = f"{method.upper()} {path}"
            if route in WITH_TABLES_OF_THEIR_OWN:
                continue
            parameters = _parameters(operation, components)
            words = {
                word for code in re.findall(r"`([^`]+)`", said[route]) for word in re.findall(r"\w+(?:\[\])?", code)
            }
            assert parameters <= words, f"docs/api.md, {route}: say what {parameters - words} mean"
            in_brackets = re.findall(r"`(\w+)`", " ".join(re.findall(r"\(([^()]*`[^()]*)\)", said[route])))
            assert anywhere & set(in_brackets) <= parameters, f"docs/api.md, {route}: it does not take {in_brackets}"
            placeholders = {entry["name"] for entry in operation.get("parameters", ()) if entry["in"] == "path"}
            assert placeholders == set(re.findall(r"{(\w+)}", path)), route


def test_api_md_lists_the_parameters_that_are_honoured() -> None:
    table = rows(section(API.read_text(), "Honoured"))
    assert {code_of(row[0]) for row in table if row[1] == "✓"} == set(schemas.ChatRequest.model_fields)
    assert {code_of(row[0]) for row in table if row[2] == "✓"} == set(schemas.CompletionRequest.model_fields)
    assert {code_of(row[0]) for row in table if row[3] == "✓"} == set(response_schemas.ResponseRequest.model_fields)


def _in_words(neutral: object) -> str:
    if neutral is schemas.ACCEPTED:
        return "accepted without effect"
    assert isinstance(neutral, tuple)
    values = " or ".join(f"`{json.dumps(value)}`" for value in neutral)
    return f"refused unless {values}" if values else "refused"


def test_api_md_lists_the_parameters_without_effect_and_the_refused_ones() -> None:
    table = rows(section(API.read_text(), "Without effect, and refused"))
    assert {code_of(row[0]): row[1] for row in table} == {
        name: _in_words(neutral) for name, neutral in schemas.PARAMETERS.items()
    }


def _classes(base: type[errors.GatewayError]) -> Iterator[type[errors.GatewayError]]:
    yield base
    for child in base.__subclasses__():
        yield from _classes(child)


def test_api_md_lists_every_error() -> None:
    table = rows(section(API.read_text(), "Errors"))
    documented = {(int(row[0]), code_of(row[1])) for row in table}
    ours = {kind for kind in _classes(errors.GatewayError) if kind.__module__ == "gateway.errors"}
    assert documented == {(kind.status, kind.default_code) for kind in ours} | {
        (404, "model_not_found"),
        (503, "upstream_start_failed"),
    }


def test_architecture_names_functions_that_exist() -> None:
    missing = []
    for path in markdown():
        for file, name in re.findall(r"`([\w/]+\.py): ([\w.]+)`", path.read_text()):
            if not (ROOT / file).is_file() or name not in _definitions((ROOT / file).read_text()):
                missing.append(f"{path.name}: {file}: {name}")
    assert missing == []


def _definitions(source: str) -> set[str]:
    """Functions and classes, with methods as `Class.method`."""
    found: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found.add(node.name)
            found |= {f"{node.name}.{child.name}" for child in node.body if hasattr(child, "name")}
    return found


# --- what gets installed


def _pins(text: str) -> dict[str, str]:
    """Name to version and marker, of a requirements file with or without hashes."""
    lines = [line.split(" \\")[0].strip() for line in text.splitlines() if re.match(r"[A-Za-z0-9]", line)]
    return {line.partition("==")[0]: line.partition("==")[2] for line in lines}


def test_the_lock_files_agree() -> None:
    app = _pins((ROOT / "requirements.lock").read_text())
    dev = _pins((ROOT / "requirements-dev.lock").read_text())
    assert app
    made = render((ROOT / "requirements.lock").read_text(), (ROOT / "requirements-dev.lock").read_text())
    assert (ROOT / "requirements.txt").read_text() == made, "run `make lock`"
    assert {name: dev.get(name) for name in app} == app, "run `make lock`"


def test_lmdeploy_and_its_torch_have_one_version_everywhere() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    pins = dict(one.split("==") for one in groups["lmdeploy"])
    named = re.compile(r"lmdeploy==([\d.]+\d)\s+torch==([\d.]+\d)")
    where = [
        path for folder in ("inference", "docs") for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md")
    ]
    found = [pair for path in [*where, ROOT / ".env.example"] for pair in named.findall(path.read_text())]
    assert len(found) > 10
    assert set(found) == {(pins["lmdeploy"], pins["torch"])}


def test_packages_txt_holds_names_of_debian_packages() -> None:
    names = (ROOT / "packages.txt").read_text().split("\n")
    assert names.pop() == "", "the file ends with a line break"
    assert names
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.+-]+", name) for name in names)  # Debian policy 5.6.1


def test_the_space_gets_the_gradio_that_is_locked() -> None:
    front = READMES[0].read_text().split("---\n")[1]
    settings = dict(re.findall(r"^(\w+): (.+)$", front, re.MULTILINE))
    assert settings["sdk_version"] == _pins((ROOT / "requirements.lock").read_text())["gradio"]
    assert (ROOT / settings["app_file"]).is_file()


def test_a_space_can_install_our_pins_beside_its_own() -> None:
    """Hugging Face installs requirements.txt together with `gradio[oauth,mcp]`; what those extras want must fit."""
    pins = {Requirement(line).name: Requirement(line) for line in _requirement_lines()}
    for wanted in map(Requirement, importlib.metadata.requires("gradio") or []):
        is_extra = wanted.marker and any(wanted.marker.evaluate({"extra": extra}) for extra in ("oauth", "mcp"))
        if is_extra and wanted.name in pins:
            version = str(pins[wanted.name].specifier).removeprefix("==")
            assert wanted.specifier.contains(version), f"{wanted.name} {version}, but a Space wants {wanted}"


def _requirement_lines() -> list[str]:
    return [line for line in (ROOT / "requirements.txt").read_text().splitlines() if re.match(r"[A-Za-z0-9]", line)]


# --- links and commands


def _anchor(heading: str) -> str:
    """As GitHub makes them."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_links_and_images_lead_somewhere() -> None:
    broken = []
    for path in markdown():
        text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:", link):
                continue
            file, _, anchor = link.partition("#")
            target = path.parent / file if file else path
            anchors = set()
            if target.suffix == ".md" and target.is_file():
                anchors = {_anchor(h) for h in re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)}
            if not target.exists() or (anchor and anchor not in anchors):
                broken.append(f"{path.name}: {link}")
    assert broken == []


def test_a_chinese_page_leads_to_chinese_pages_where_there_are_some() -> None:
    english = []
    for path in markdown():
        if path.name.endswith("zh-CN.md"):
            links = re.findall(r"(?<!\[English\])\(([^)\s:#]+)\.md[#)]", path.read_text())
            english += [f"{path.name}: {link}.md" for link in links if (path.parent / f"{link}.zh-CN.md").exists()]
    assert english == []


def test_make_targets_in_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    unknown = []
    for path in markdown():
        text = re.sub(r"apt-get install .*", "", path.read_text())  # which installs the program make
        in_code = "\n".join([*re.findall(r"`([^`\n]+)`", text), *re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)])
        unknown += [
            f"{path.name}: make {name}" for name in re.findall(r"\bmake ([a-z-]+)", in_code) if name not in targets
        ]
    assert unknown == []


def test_python_modules_in_documents_can_be_run() -> None:
    for path in markdown():
        for module in re.findall(r"python -m (\w+(?:\.\w+)*)", path.read_text()):
            place = ROOT.joinpath(*module.split("."))
            runs = (
                module in ("pip", "pytest") or (place / "__main__.py").is_file() or place.with_suffix(".py").is_file()
            )
            assert runs, f"{path.name}: python -m {module}"


def _subcommands(module: str) -> set[str]:
    """All words that a command line of ours takes as a command, of whatever level."""
    source = "".join(file.read_text() for file in (ROOT / module).glob("*.py"))
    return set(re.findall(r"add_parser\(\s*\"([a-z]+)\"", source)) | ({"users"} if module == "webui" else set())


def test_subcommands_in_documents_exist() -> None:
    command = re.compile(r"python -m (gateway|inference|webui) ([a-z]+)(?:(?<=keys|sers) ([a-z]+)\b)?")
    found = [(path, *words) for path in markdown() for words in command.findall(path.read_text())]
    assert len(found) > 30
    for path, module, *words in found:
        unknown = {word for word in words if word} - _subcommands(module)
        assert not unknown, f"{path.name}: python -m {module} has no {unknown}"


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    ours = re.compile(rb"(?<![\w.~-])/(?:%s)/" % b"|".join((b"wo" + b"rk", b"fa" + b"rm")))
    found = [str(path.relative_to(ROOT)) for path in committed() if ours.search(path.read_bytes())]
    assert found == []
