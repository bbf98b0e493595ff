"""Where app.py runs: the platform and what it wants, and a Python that is new enough.

Everything here is the standard library alone and runs on Python 3.9, because a platform's image may have nothing else.
In the order of use:

    hosting.outlast_readers()                 # what is printed may find no reader
    hosting.enter(environ, root)              # returns on a Python that can serve; elsewhere it finds or makes one
    profile = hosting.make_profile(environ, root)
    listener = hosting.open_port(environ, profile)
"""

from hosting.entry import enter
from hosting.errors import CannotStart
from hosting.listening import is_on_all_addresses, open_port, url_of
from hosting.output import outlast_readers
from hosting.platforms import Platform, find_platform
from hosting.profile import Profile, make_profile

__all__ = [
    "CannotStart",
    "Platform",
    "Profile",
    "enter",
    "find_platform",
    "is_on_all_addresses",
    "make_profile",
    "open_port",
    "outlast_readers",
    "url_of",
]
