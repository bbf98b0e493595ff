"""Where the hubs are and who we are there; secrets that no log, message or command line shows.

A token comes from its variable or from the file that NAME_FILE names. It is handed on in the environment of the one
child process that needs it, and nowhere else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from inference.errors import SettingsError

# Variables with tokens of hubs, which no other child process gets (see settings.child_environment).
TOKEN_NAMES = frozenset({"OPENXLAB_TOKEN", "HF_TOKEN", "MODELSCOPE_API_TOKEN", "INFERENCE_GIT_TOKEN"})

# Tokens by their form: Hugging Face, GitHub, GitLab, OpenAI and ours, AWS key ids.
TOKEN_FORM = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,}|glpat-[A-Za-z0-9_-]{20,}"
    r"|sk-[A-Za-z0-9_-]{32,}|AKIA[0-9A-Z]{16})(?![A-Za-z0-9])"
)
_IN_URL = re.compile(r"(?<=://)[^/\s@'\"]+@")


@dataclass(frozen=True)
class Secret:
    """A text that is never shown by accident."""

    value: str = field(repr=False)

    def __str__(self) -> str:
        return "(secret)"


@dataclass(frozen=True)
class Account:
    """A name and a token at a host. Without a token the host's own rules for guests count."""

    username: str = ""
    token: Secret | None = None


@dataclass(frozen=True, kw_only=True)
class Hubs:
    """The addresses of the hubs, and our accounts there; `git` is for all other git hosts."""

    openxlab_url: str = "https://code.openxlab.org.cn"
    openxlab: Account = Account()
    huggingface_url: str = "https://huggingface.co"
    huggingface: Account = Account()
    modelscope_url: str = "https://www.modelscope.cn"
    modelscope: Account = Account()
    git: Account = Account()
    is_offline: bool = False

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Hubs:
        """Raises SettingsError naming the variable."""
        return cls(
            openxlab_url=_url("OPENXLAB_GIT_URL", environ.get("OPENXLAB_GIT_URL"), cls.openxlab_url),
            openxlab=Account(
                environ.get("OPENXLAB_USERNAME", "").strip(),
                _token("OPENXLAB_TOKEN", environ.get("OPENXLAB_TOKEN"), environ.get("OPENXLAB_TOKEN_FILE")),
            ),
            huggingface_url=_url("HF_ENDPOINT", environ.get("HF_ENDPOINT"), cls.huggingface_url),
            huggingface=Account("", _token("HF_TOKEN", environ.get("HF_TOKEN"), environ.get("HF_TOKEN_FILE"))),
            modelscope_url=_url("MODELSCOPE_ENDPOINT", environ.get("MODELSCOPE_ENDPOINT"), cls.modelscope_url),
            modelscope=Account(
                "oauth2",  # the name that ModelScope's git wants beside a token
                _token(
                    "MODELSCOPE_API_TOKEN",
                    environ.get("MODELSCOPE_API_TOKEN"),
                    environ.get("MODELSCOPE_API_TOKEN_FILE"),
                ),
            ),
            git=Account(
                environ.get("INFERENCE_GIT_USERNAME", "").strip(),
                _token(
                    "INFERENCE_GIT_TOKEN", environ.get("INFERENCE_GIT_TOKEN"), environ.get("INFERENCE_GIT_TOKEN_FILE")
                ),
            ),
            is_offline=_is_true("HF_HUB_OFFLINE", environ.get("HF_HUB_OFFLINE")),
        )

    def secrets(self) -> tuple[Secret, ...]:
        accounts = (self.openxlab, self.huggingface, self.modelscope, self.git)
        return tuple(account.token for account in accounts if account.token)


def redact(text: str, secrets: Iterable[Secret | None] = ()) -> str:
    """The text without these secrets, without anything of a token's form, and without credentials in addresses."""
    for secret in secrets:
        if secret and secret.value:
            text = text.replace(secret.value, "***")
    return _IN_URL.sub("***@", TOKEN_FORM.sub("***", text))


def _url(name: str, value: str | None, default: str) -> str:
    url = (value or "").strip().rstrip("/") or default
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"{name} must be an address such as {default}, but is {redact(url)[:80]!r}.")
    if parts.username or parts.password:
        raise SettingsError(f"{name} must not hold a name or a token; tokens have variables of their own.")
    return url


def _token(name: str, value: str | None, file: str | None) -> Secret | None:
    """From the variable, else from the file. Raises SettingsError; never with the token."""
    text = (value or "").strip()
    if not text and file and file.strip():
        path = Path(os.path.expanduser(file.strip()))
        try:
            text = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise SettingsError(f"{name}_FILE names {path}, which cannot be read: {reason}.") from None
        if not text:
            raise SettingsError(f"{name}_FILE names {path}, which is empty.")
    if not text:
        return None
    if not text.isprintable() or " " in text:
        raise SettingsError(f"{name} holds a space, a line break or a control character. Set it to the token alone.")
    return Secret(text)


def _is_true(name: str, value: str | None) -> bool:
    """Hugging Face's package has the same words for true, and takes all others for false. Raises SettingsError."""
    word = (value or "").strip().lower()
    if word not in ("", "0", "1", "no", "yes", "off", "on", "false", "true"):
        raise SettingsError(f"{name} must be true or false, but is {word[:40]!r}.")
    return word in ("1", "true", "yes", "on")
