"""A headless Chromium, driven as its own developer tools drive it: over a pair of pipes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
# Codes of keys that have no character.
_CODES = {"ArrowLeft": 37, "ArrowRight": 39, "Enter": 13}


class Browser:
    """One window. Files that a page saves go into `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder
        reads, self._to = os.pipe()
        self._from, writes = os.pipe()
        command = [
            "bash", "-c", f'exec "$0" "$@" 3<&{reads} 4>&{writes}', CHROMIUM, "--headless",
            "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            f"--user-data-dir={folder / 'profile'}", "--remote-debugging-pipe", "about:blank",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command, pass_fds=(reads, writes), stderr=subprocess.DEVNULL, start_new_session=True
        )
        os.close(reads)
        os.close(writes)
        self._stream = os.fdopen(self._from, "rb")
        self._waiting, self._number, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        downloads = {"behavior": "allow", "downloadPath": str(folder), "eventsEnabled": True}
        self.call("Browser.setDownloadBehavior", **downloads)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._stream.close()
        os.close(self._to)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (reply := self._next()).get("id") != self._number:
            self.events.append(reply)
        assert "error" not in reply, reply
        return reply["result"]

    def wait(self, event: str) -> dict[str, Any]:
        """The next such event, or one that came before and was not waited for."""
        return self.wait_any(event)["params"]

    def wait_any(self, *names: str) -> dict[str, Any]:
        """The next event of one of these names, likewise."""
        while True:
            for index, known in enumerate(self.events):
                if known.get("method") in names:
                    return self.events.pop(index)
            self.events.append(self._next())

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._waiting:
            block = os.read(self._from, 1 << 16)
            assert block, "the browser has ended"
            self._waiting += block
        text, _, self._waiting = self._waiting.partition(b"\0")
        return json.loads(text)

    def open(self, path: Path) -> None:
        self._load("Page.navigate", url=path.resolve().as_uri())

    def reload(self) -> None:
        self._load("Page.reload")

    def _load(self, method: str, **parameters: Any) -> None:
        # A page before, the blank one too, may have been loaded without anybody waiting for it.
        self.events = [e for e in self.events if e.get("method") != "Page.loadEventFired"]
        self.call(method, **parameters)
        self.wait("Page.loadEventFired")

    def value(self, expression: str) -> Any:
        reply = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in reply, reply
        return reply["result"].get("value")

    def text(self, name: str) -> str:
        """Of the element of that id."""
        return self.value(f"document.getElementById({json.dumps(name)}).textContent")

    def saved(self) -> Path:
        """The file that the button `save` saves."""
        self.value("document.getElementById('save').click()")
        begun = self.wait("Browser.downloadWillBegin")
        while self.wait("Browser.downloadProgress")["state"] != "completed":
            pass
        return self.folder / begun["suggestedFilename"]

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def press(self, *keys: str) -> None:
        for key in keys:
            code = _CODES.get(key, ord(key[0].upper()))
            about = {"key": key, "windowsVirtualKeyCode": code}
            if len(key) == 1:
                about["text"] = key
            self.call("Input.dispatchKeyEvent", type="keyDown", **about)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key)
