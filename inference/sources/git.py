"""The only place that runs git.

Every run is in English, without a prompt, without the person's own credential helpers when we bring a token (they would
store it), tied to this process and killed with it. The token travels in the environment of the child alone, and
`askpass.sh` hands it to the host that is meant. What git says comes back without secrets.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from inference.accounts import redact
from inference.errors import SourceError
from inference.settings import child_environment
from inference.sources.child import run
from inference.sources.git_url import GitRemote
from inference.sources.reasons import Reason

ASKPASS = Path(__file__).with_name("askpass.sh")
ASKED_NAME = "internlm-asked"  # askpass.sh counts in it: git-lfs asks for ever while a server refuses what it gets
LOCAL_TIMEOUT_S = 120  # for commands that touch no network; a model's tree takes milliseconds
DEFAULT_USERNAME = "git"  # where only a token is known: most hosts look at nothing else

# Variables of a git that we were started by (a hook), and those that print what is sent, tokens too.
_DISTURBING = re.compile(
    r"GIT_(?:DIR|WORK_TREE|INDEX_FILE|OBJECT_DIRECTORY|ALTERNATE_\w+|NAMESPACE|PREFIX|TRACE\w*|CURL_VERBOSE)$"
)

# What git and git-lfs say, in the order in which to look. Lower case, taken from their own sources.
_REASONS: tuple[tuple[Reason, str], ...] = (
    ("disk", r"no space left on device|disk quota exceeded"),
    (
        "auth",
        r"authentication failed|authentication required|could not read (?:username|password)|authorization error"
        r"|the requested url returned error: (?:401|403)|http 40[13]|invalid credentials|permission denied"
        r"|access denied|not authorized|you are not allowed|forbidden|unauthorized|git credentials for .* not found",
    ),
    (
        "missing",
        r"repository .*not found|returned error: 404|does not appear to be a git repository|couldn't find remote ref"
        r"|object does not exist|remote branch .* not found|not our ref|does not exist on the server",
    ),
    (
        "network",
        r"could not resolve|failed to connect|couldn't connect|connection (?:refused|reset|timed out)|timed out|timeout"
        r"|early eof|unexpected eof|unexpected disconnect|hung up|rpc failed|returned error: (?:429|5\d\d)|tls|ssl"
        r"|http 5\d\d|http 429|http: |eof|expected oid|broken pipe|server error|network is unreachable|curl \d+",
    ),
)


class GitFailed(Exception):
    """git ended with an error: `reason` in one word, and what it said last. Becomes an error of ours at once."""

    def __init__(self, reason: Reason, said: str) -> None:
        super().__init__(said)
        self.reason = reason
        self.said = said


@dataclass
class Git:
    """git for one repository on this machine and its remote. `said` keeps the last lines, for tests and messages."""

    folder: Path
    remote: GitRemote
    stop: threading.Event
    said: deque[str] = field(default_factory=lambda: deque(maxlen=60))

    def network(
        self,
        *arguments: str,
        environ: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
        on_tick: Callable[[], None] | None = None,
    ) -> list[str]:
        """Run a command that talks to the remote; returns its output's last lines. Raises GitFailed or Cancelled."""
        self.said.clear()
        (self.folder / ".git" / ASKED_NAME).unlink(missing_ok=True)

        def keep(line: str) -> None:
            if line:
                self.said.append(redact(line, [self.remote.account.token]))
                if on_line:
                    on_line(self.said[-1])

        # SIGTERM when we are killed, because git hands it on to git-lfs; SIGKILL would leave that one running.
        code = run(
            [*self._command(), *arguments],
            self._environment(environ or {}),
            keep,
            self.stop,
            cwd=self.folder,
            on_tick=on_tick,
            parent_signal=signal.SIGTERM,
        )
        if code != 0:
            raise failure(list(self.said), code)
        return list(self.said)

    def local(self, *arguments: str, given: bytes = b"", environ: Mapping[str, str] | None = None) -> bytes:
        """Run a command that touches only this machine; returns its output. Raises GitFailed."""
        try:
            done = subprocess.run(
                [*self._command(), *arguments],
                cwd=self.folder,
                input=given,
                capture_output=True,
                env=self._environment(environ or {}, with_token=False),
                timeout=LOCAL_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise GitFailed("other", f"git {arguments[0]} took longer than {LOCAL_TIMEOUT_S} s") from None
        if done.returncode != 0:
            raise failure(done.stderr.decode("utf-8", "replace").splitlines(), done.returncode)
        return done.stdout

    def _command(self) -> list[str]:
        options = [
            "safe.directory=*",  # the folder may lie on a volume of another user
            "gc.auto=0",
            "core.hooksPath=/dev/null",  # no hook of the person's own runs on a model
            "http.lowSpeedLimit=1000",  # a connection that brings less than this (bytes/s) …
            "http.lowSpeedTime=60",  # … for this long (s) is given up
            "lfs.activitytimeout=60",
            "lfs.dialtimeout=20",
            "lfs.transfer.maxretries=3",  # ours come on top, with what was said shown
            "lfs.transfer.maxretrydelay=2",
            "lfs.locksverify=false",
            "advice.detachedHead=false",
        ]
        if self.remote.account.token:
            options.append("credential.helper=")
        return [_git(), *(part for option in options for part in ("-c", option))]

    def _environment(self, extra: Mapping[str, str], *, with_token: bool = True) -> dict[str, str]:
        account = self.remote.account
        ours = {
            "LC_ALL": "C",
            "LANGUAGE": "",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": str(ASKPASS),
            "SSH_ASKPASS_REQUIRE": "never",
            "GCM_INTERACTIVE": "never",
            "GIT_LFS_SKIP_SMUDGE": "1",
            "GIT_DIR": str(self.folder / ".git"),
            "INTERNLM_GIT_ASKED": str(self.folder / ".git" / ASKED_NAME),
            "INTERNLM_GIT_ORIGIN": self.remote.origin,
            "INTERNLM_GIT_USERNAME": account.username or DEFAULT_USERNAME,
        }
        if with_token and account.token:
            ours["INTERNLM_GIT_TOKEN"] = account.token.value
        kept = {name: value for name, value in child_environment().items() if not _DISTURBING.match(name)}
        return {**kept, **ours, **extra}


def require_git() -> None:
    """Raises SourceError with the one command that mends it when git or git-lfs is missing."""
    _git()
    if not shutil.which("git-lfs"):
        raise SourceError(
            "git-lfs is missing, and without it only pointers come instead of weights. Install it: "
            "sudo apt-get install git-lfs (macOS: brew install git-lfs; Windows: https://git-lfs.com)."
        )
    if not os.access(ASKPASS, os.X_OK):
        raise SourceError(f"{ASKPASS} may not be run, so git cannot sign in. Mend it: chmod +x {ASKPASS}")


def failure(said: list[str], code: int) -> GitFailed:
    """What went wrong, and the line that tells it, from what git and git-lfs wrote."""
    for reason, form in _REASONS:
        for line in said:
            if re.search(form, line, re.IGNORECASE):
                return GitFailed(reason, line.strip())
    telling = [line for line in said if re.match(r"\s*(?:fatal|error|remote)\b", line)]
    return GitFailed("other", (telling or said or [f"git ended with code {code}"])[-1].strip())


def _git() -> str:
    found = shutil.which("git")
    if not found:
        raise SourceError(
            "git is missing. Install it: sudo apt-get install git git-lfs (Windows: https://git-scm.com)."
        )
    return found
