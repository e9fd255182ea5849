"""Files from the network, kept in the user's cache."""

from __future__ import annotations

import sys
import urllib.request
from http.client import HTTPException
from pathlib import Path

from ..errors import FileError
from ..files import write_whole
from ..settings import cache_folder


def cached(url: str, name: str, hint: str | None = None) -> Path:
    """The path of a file in the user's cache; it is downloaded where it is not there yet, whole or not at all.

    Args:
        url: where it is.
        name: what it is called in the cache.
        hint: what else the user can do, for the error's message.

    Raises:
        FileError: where it cannot be downloaded or written.
    """
    path = cache_folder() / "data" / name
    if not path.exists():
        print(f"downloading {url}", file=sys.stderr)
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                content = answer.read()
            path.parent.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError, HTTPException) as trouble:
            raise FileError(f"download: cannot get {url}: {trouble}", hint=hint) from None
        write_whole(path, content)
    return path
