"""A page in a browser."""

from pathlib import Path
from typing import Any


class Opened:
    """A page that is open, all that its console has said, and the addresses that it asked for."""

    def __init__(self, browser: Any, file: Path, width: int) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.said: list[str] = []
        self.requested: list[str] = []
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.goto(file.resolve().as_uri())
        self.page.wait_for_load_state("load")

    def scroll(self) -> None:
        """To the end and back, so that all that is made when it comes into view is made."""
        height = self.page.evaluate("document.documentElement.scrollHeight")
        for place in range(0, height, 800):
            self.page.evaluate(f"window.scrollTo(0, {place})")
            self.page.wait_for_timeout(30)
        self.page.wait_for_timeout(200)

    @property
    def overflow(self) -> int:
        """How far the page is wider than the window, in pixels."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))

    def count(self, selector: str) -> int:
        """How many elements there are."""
        return int(self.page.locator(selector).count())
