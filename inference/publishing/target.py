"""Where a model is published: `openxlab:USER/REPO`, `hf:USER/REPO`, `modelscope:USER/REPO`, or the address of a git
repository. OpenXLab and ModelScope are git hosts; Hugging Face takes large files through its own package only."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from inference.accounts import Account, Hubs, Secret
from inference.catalogue import Hub
from inference.errors import SettingsError
from inference.sources.git_url import GitRemote, git_remote

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Target:
    """`title` names it for people, `token_name` the variable with the token. `git` is where to push; None: to `hub`.

    `hub` is the one that can make the repository, whose name there is `repository`.
    """

    title: str
    token_name: str
    account: Account
    git: GitRemote | None = None
    hub: Hub | None = None
    repository: str = ""

    def with_token(self, token: Secret) -> Target:
        """The same place, with a token that a person has typed."""
        account = replace(self.account, token=token)
        return replace(self, account=account, git=replace(self.git, account=account) if self.git else None)

    @property
    def wants_token(self) -> bool:
        """Whether somebody could type one that helps: not for ssh and for folders."""
        return self.account.token is None and (self.git is None or bool(self.git.origin))


def parse_target(text: str, hubs: Hubs) -> Target:
    """Raises SettingsError with the forms that there are."""
    place, _, name = text.strip().partition(":")
    if place in ("openxlab", "hf", "modelscope"):
        if not _NAME.fullmatch(name):
            raise SettingsError(f"--to {text!r}: after {place}: comes USER/REPOSITORY, such as {place}:me/my-model.")
        if place == "hf":
            title = f"{hubs.huggingface_url}/{name}"
            return Target(title, "HF_TOKEN", hubs.huggingface, hub="huggingface", repository=name)
        base = hubs.openxlab_url if place == "openxlab" else hubs.modelscope_url
        found = _git_target(f"{base}/{name}.git", hubs)
        return replace(found, hub="modelscope", repository=name) if place == "modelscope" else found
    if not re.match(r"(?:https?|ssh|file)://.|[\w.-]+@[\w.-]+:.|/.", text.strip()):
        raise SettingsError(
            "--to takes openxlab:USER/REPO, hf:USER/REPO, modelscope:USER/REPO, or the address of a git repository "
            "(https://…, ssh://…, git@…)."
        )
    return _git_target(text, hubs)


def _git_target(address: str, hubs: Hubs) -> Target:
    """With the account that belongs to the address's host."""
    origin = git_remote(address).origin
    known = {
        git_remote(hubs.openxlab_url).origin: (hubs.openxlab, "OPENXLAB_TOKEN (with OPENXLAB_USERNAME)"),
        git_remote(hubs.modelscope_url).origin: (hubs.modelscope, "MODELSCOPE_API_TOKEN"),
    }
    account, token_name = known.get(origin, (hubs.git, "INFERENCE_GIT_TOKEN (with INFERENCE_GIT_USERNAME)"))
    remote = git_remote(address, account)
    return Target(remote.url, token_name, remote.account, git=remote)
