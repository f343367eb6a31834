"""The commit that runs."""

import pathlib
import subprocess


def commit() -> str | None:
    """Returns the commit of this checkout, "+changes" where files differ from it; None outside of one."""
    folder = pathlib.Path(__file__).resolve().parents[1]

    def git(*words: str) -> str:
        result = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True
        )
        return result.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
