"""A headless Chromium for tests of pages."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The browser, installed where tests run on a machine of their own (CI) and it is missing."""
    from playwright.sync_api import Error, sync_playwright

    where = _found()
    if where is None and os.environ.get("CI") and shutil.which("apt-get") and os.geteuid() == 0:
        for command in (["update", "-qq"], ["install", "-y", "-qq", "chromium"]):
            subprocess.run(["apt-get", *command], check=False, capture_output=True, timeout=600)
        where = _found()
    with sync_playwright() as started:
        try:
            opened = started.chromium.launch(executable_path=where, args=["--no-sandbox"])
        except Error as error:
            pytest.skip(f"there is no Chromium to open pages with: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


def _found() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)
