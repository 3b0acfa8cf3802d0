"""Users of this machine, as the operating system has them: nobody can claim to be another one."""

from __future__ import annotations

import os
import pwd


def user_of(number: int) -> str:
    """The name of the user with this id; the id where it has none."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def own_user() -> str:
    """The user of this process."""
    return user_of(os.getuid())
