"""A headless Chromium that runs a script on a page, over its DevTools protocol."""

import json
import re
import subprocess
from contextlib import ExitStack
from pathlib import Path
from shutil import which
from types import TracebackType
from typing import Any, Self

from websockets.sync.client import ClientConnection, connect

from testing.waiting import until

PROGRAM = which("chromium") or which("chromium-browser") or ""
OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions"),
    *("--disable-background-networking", "--disable-component-update", "--no-first-run", "--no-proxy-server"),
    *("--remote-debugging-port=0", "about:blank"),
)
ANSWER_SECONDS = 60.0
ADDRESS = re.compile(r"DevTools listening on (ws://\S+)")


class Browser:
    """One browser with one page, which has the address `url`."""

    def __init__(self, folder: Path, url: str) -> None:
        self._output = folder / "chromium.output"
        self._stack = ExitStack()
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [PROGRAM, f"--user-data-dir={folder / 'chromium'}", *OPTIONS], stdout=output, stderr=output
            )
        self._stack.callback(self._end)
        try:
            self._connect(url)
        except BaseException:
            self._stack.close()
            raise

    def _connect(self, url: str) -> None:
        found = until(lambda: ADDRESS.search(self._output.read_text()), "Chromium starts", seconds=ANSWER_SECONDS)
        self._devtools: ClientConnection = self._stack.enter_context(connect(found[1], proxy=None, max_size=None))
        self._calls = 0
        self._session = ""
        target = self._call("Target.createTarget", url=url)["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        until(lambda: self.run("location.href + document.readyState") == f"{url}complete", "the page is loaded")

    def run(self, script: str) -> Any:
        """The value of an expression on the page; of a promise, once it is fulfilled."""
        reply = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in reply, reply
        return reply["result"].get("value")

    def _call(self, method: str, **parameters: Any) -> Any:
        self._calls += 1
        call: dict[str, Any] = {"id": self._calls, "method": method, "params": parameters}
        if self._session:
            call["sessionId"] = self._session
        self._devtools.send(json.dumps(call))
        while True:
            reply = json.loads(self._devtools.recv(ANSWER_SECONDS))
            if reply.get("id") == self._calls:
                assert "result" in reply, reply
                return reply["result"]

    def _end(self) -> None:
        self._process.terminate()
        self._process.wait(ANSWER_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
