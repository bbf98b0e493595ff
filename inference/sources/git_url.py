"""Addresses of git repositories, as people paste them.

OpenXLab shows `https://code.openxlab.org.cn//USER/REPO.git`, with two slashes; notebooks paste `https://USER:TOKEN@…`.
Both become plain addresses; the token goes where all tokens go. `git@…` and `ssh://…` stay as they are: those sign in
with a key of the person's own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from inference.accounts import TOKEN_FORM, Account, Secret


@dataclass(frozen=True)
class GitRemote:
    """`url` holds no secret. `origin` is its scheme, host and port; empty where no name and token are asked for."""

    url: str
    origin: str
    account: Account


GUEST = Account()


def git_remote(pasted: str, account: Account = GUEST) -> GitRemote:
    """The remote of an address; a name or token in the address counts before those of `account`."""
    text = pasted.strip()
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https"):
        return GitRemote(text, "", GUEST)
    userinfo, _, host = parts.netloc.rpartition("@")
    path = re.sub("/{2,}", "/", parts.path).rstrip("/")
    origin = f"{parts.scheme}://{host}"
    return GitRemote(origin + path, origin, _pasted_account(userinfo, account))


def _pasted_account(userinfo: str, account: Account) -> Account:
    name, colon, password = (unquote(part) for part in userinfo.partition(":"))
    if not colon and TOKEN_FORM.fullmatch(name):
        return Account(account.username, Secret(name))
    return Account(name or account.username, Secret(password) if password else account.token)
