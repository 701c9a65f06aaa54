"""Headless Chromium, driven through its debugging pipe, and a plain web server for a folder."""

from __future__ import annotations

import base64
import functools
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-sync",
    "--disable-component-update",
    "--disable-background-networking",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost",  # no network but this machine
    "--remote-debugging-pipe",
)


class Tab:
    """One page of a browser, by the Chrome DevTools Protocol: JSON messages that end with a zero byte."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._write, self._read = to_browser, from_browser
        self._buffer, self._asked, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._asked += 1
        message = {"id": self._asked, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._asked:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        answer = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 120) -> Any:
        """The value of an expression as soon as it is true."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < end, f"{expression} stayed false: {self.evaluate('document.body.innerText')}"
            time.sleep(0.2)
        return value

    def choose_files(self, selector: str, files: list[Path]) -> None:
        root = self("DOM.getDocument")["root"]["nodeId"]
        node = self("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def set_width(self, width: int, height: int = 800) -> None:
        mobile = width < 500
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self("Page.captureScreenshot")["data"]))

    def complaints(self) -> list[str]:
        """Errors and warnings of the console, and violations of the page's Content-Security-Policy."""
        self.evaluate("0")
        entries = [event["params"]["entry"] for event in self.events if event.get("method") == "Log.entryAdded"]
        calls = [event["params"] for event in self.events if event.get("method") == "Runtime.consoleAPICalled"]
        thrown = [event for event in self.events if event.get("method") == "Runtime.exceptionThrown"]
        loud = [entry["text"] for entry in entries if entry["level"] in ("error", "warning")]
        return (
            loud
            + [str(call["args"]) for call in calls if call["type"] in ("error", "warning")]
            + list(map(str, thrown))
        )

    def requested(self) -> set[str]:
        """The addresses that the page asked for."""
        asked = (event for event in self.events if event.get("method") == "Network.requestWillBeSent")
        return {event["params"]["request"]["url"] for event in asked}

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            block = os.read(self._read, 1 << 20)
            assert block, "the browser ended"
            self._buffer += block
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))


@contextmanager
def open_browser(folder: Path) -> Iterator[Tab]:
    """A browser whose profile is in `folder`."""
    to_browser, from_browser = os.pipe(), os.pipe()
    # The protocol needs the descriptors 3 and 4.
    script = f'exec 3<&{to_browser[0]} 4>&{from_browser[1]}; exec "$@"'
    command = ["bash", "-c", script, "bash", str(CHROMIUM), *OPTIONS, f"--user-data-dir={folder / 'profile'}"]
    running = subprocess.Popen(
        command, pass_fds=(to_browser[0], from_browser[1]), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    os.close(to_browser[0])
    os.close(from_browser[1])
    try:
        yield Tab(to_browser[1], from_browser[0])
        os.write(to_browser[1], b'{"id": 0, "method": "Browser.close"}\0')
        running.wait(timeout=30)
    finally:
        running.kill()
        running.wait()
        os.close(to_browser[1])
        os.close(from_browser[0])


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder, served as `python -m http.server` serves it."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://localhost:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
