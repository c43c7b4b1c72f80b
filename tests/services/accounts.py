"""The operating-system user that PostgreSQL and PgBouncer run as, since both refuse to be root.

No user is ever created: root borrows an existing unprivileged one, anybody else runs them as
themselves. Nothing of the installation is changed for that user's sake either: what it may not
reach is copied.
"""

import os
import pwd
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

_CANDIDATES = ("nobody", "daemon", "postgres")


@dataclass(frozen=True)
class Account:
    """User and group ids; `None` in their place means: stay who you are."""

    uid: int | None = None
    gid: int | None = None

    @property
    def groups(self) -> list[int] | None:
        """Supplementary groups for Popen: none at all for a borrowed user."""
        return None if self.uid is None else []

    def own(self, path: Path) -> None:
        """Give a file or directory to this user."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def reaches(self, path: Path) -> bool:
        """May this user read what lies at `path`?"""
        if self.uid is None:
            return os.access(path, os.R_OK | os.X_OK)
        path = path.resolve()
        return all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.parents))


def unprivileged() -> Account | str:
    """Return the account to run as, or the reason why there is none."""
    if os.geteuid() != 0:
        return Account()
    for name in _CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        account = Account(entry.pw_uid, entry.pw_gid)
        folder = tempfile.gettempdir()
        if not account.reaches(Path(folder)):
            return f"running as root, and the user {name} may not enter {folder}"
        return account
    return f"running as root, and none of the users {', '.join(_CANDIDATES)} exists"


def copy_for_all(folders: list[Path], target: Path) -> None:
    """Copy `folders` into `target`, for everybody to read."""
    for folder in folders:
        shutil.copytree(folder, target / folder.name, symlinks=True)
    target.chmod(0o755)
    for path in target.rglob("*"):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o044))
