"""OpenXLab's model centre, by git. (Its Python package cannot resume, checks nothing and pins packages of 2022.)"""

from __future__ import annotations

from inference.accounts import Hubs
from inference.sources.git_repository import GitRepository
from inference.sources.git_url import git_remote


def openxlab_repository(repository: str, revision: str, hubs: Hubs) -> GitRepository:
    remote = git_remote(f"{hubs.openxlab_url}/{repository}.git", hubs.openxlab)
    return GitRepository(remote, revision, token_name="OPENXLAB_TOKEN (with OPENXLAB_USERNAME)")
