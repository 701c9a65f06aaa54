"""The agent: answers edgevit on the machine where a model is to run. Python 3.8 or later, the standard library alone.

edgevit sends the files of this package through a channel and starts them there; nothing is installed. The channel goes
over SSH, or to a child process on this machine. The agent reads requests from stdin and writes replies to stdout, one
JSON object a line:

    {"id": 1, "do": "hello", "work_folder": "~/.cache/edgevit"}
    {"id": 1, "result": {"version": 1, "python": "3.10.12", "work_folder": "/home/user/.cache/edgevit"}}
    {"id": 2, "error": {"kind": "disk_full", "what": "No space left on device"}}

The agent ends when its input ends, when it is sent SIGTERM or SIGHUP, and after some time without a request. It stops
every process that it started. Only a job may end first after the input has ended, since the line may have dropped: the
agent waits for it `ORPHAN_S` seconds, and longer as long as another agent asks for the job. `hello` may name another
number: 0 for an agent on the client's machine, where no line drops. The agent writes below the work folder, and the
lock file of the machine, alone.
"""

from __future__ import annotations

import json
import os
import platform
import queue
import resource
import signal
import sys
import threading
from typing import Callable, NoReturn

from edgevit.targets.agent.cache import clean, evict, stored_bytes
from edgevit.targets.agent.folders import work_folder_from
from edgevit.targets.agent.jobs import Jobs
from edgevit.targets.agent.machine_lock import MachineLock
from edgevit.targets.agent.packages import unpack
from edgevit.targets.agent.probe import free_bytes, probe
from edgevit.targets.agent.processes import Processes
from edgevit.targets.agent.protocol import (
    IS_FULL,
    LONGEST_NAME,
    LONGEST_REQUEST,
    ORPHAN_S,
    VERSION,
    Json,
    RequestError,
    number_in,
    request_from,
    text_in,
)
from edgevit.targets.agent.store import Store

IDLE_S = 600  # without a request, before the agent ends
LOCKED_IDLE_S = 180  # the same with the machine's lock: others wait for it, and the line may be dead


class Agent:
    """Answers requests, one after another."""

    def __init__(self) -> None:
        self.requests: queue.Queue[bytes] = queue.Queue(4)
        self._changed = threading.Condition()  # a request has come, or a job has ended
        self._commands = Processes()
        self._lock = MachineLock()
        self._orphan_s = ORPHAN_S
        self._work_folder: str | None = None
        self._jobs: Jobs | None = None

    def serve(self) -> NoReturn:
        """Answer requests until there are no more."""
        replies = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)  # nothing but replies comes between them
        threading.Thread(target=self._read, daemon=True).start()
        try:
            while True:
                line = self.requests.get(timeout=LOCKED_IDLE_S if self._lock.is_held else IDLE_S)
                replies.write(json.dumps(self.reply(line)).encode("ascii") + b"\n")
                replies.flush()
        except (queue.Empty, OSError):
            self._leave()

    def reply(self, line: bytes) -> Json:
        """The reply to one line. It never raises."""
        number = None
        try:
            request = request_from(line)
            number = request["id"]
            return {"id": number, "result": self._result(request)}
        except RequestError as error:
            return {"id": number, "error": error.content}
        except OSError as error:
            kind = "disk_full" if error.errno in IS_FULL else "system"
            return {"id": number, "error": {"kind": kind, "what": str(error)[:LONGEST_NAME]}}
        except Exception as error:  # noqa: BLE001 - the client says that the agent has a bug
            return {"id": number, "error": {"kind": "bug", "what": repr(error)[:LONGEST_NAME]}}

    def end(self) -> NoReturn:
        """Stop what was started, and end the process at once. The system frees the locks."""
        self._commands.stop_all()
        if self._jobs is not None:
            self._jobs.stop_all()
        os._exit(0)

    def _leave(self) -> NoReturn:
        """End without a client. Jobs may end first: the client may come again and fetch their results."""
        self._commands.stop_all()
        if self._jobs is not None:
            self._jobs.wait_for_all(self._orphan_s)
        self.end()

    def _read(self) -> NoReturn:
        """Pass on every line of stdin. When there are no more, leave, whatever the agent is doing."""
        while True:
            line = sys.stdin.buffer.readline(LONGEST_REQUEST + 1)
            if not line.endswith(b"\n"):
                self._leave()  # the client has gone, or does not speak this protocol
            self.requests.put(line)
            with self._changed:
                self._changed.notify_all()

    def _result(self, request: Json) -> Json:
        if request["do"] == "hello":
            return self._hello(request)
        work_folder, jobs = self._work_folder, self._jobs
        if work_folder is None or jobs is None:
            raise RequestError("bad_request", "the first request is hello")
        store = Store(work_folder)
        actions: dict[str, Callable[[], Json]] = {
            "probe": lambda: probe(request, work_folder, self._commands),
            "missing": lambda: self._missing(request, store, work_folder),
            "put": lambda: store.put(request),
            "evict": lambda: evict(request, work_folder),
            "clean": lambda: clean(work_folder),
            "unpack": lambda: unpack(request, work_folder),
            "start": lambda: self._start(request, jobs),
            "job": lambda: jobs.state(request),
            "get": lambda: jobs.get(request),
            "stop": lambda: jobs.stop(request),
            "forget": lambda: jobs.forget(request),
            "lock": lambda: self._lock.take(request),
            "unlock": self._lock.release,
        }
        if request["do"] not in actions:
            raise RequestError("bad_request", f"there is no request {request['do']!r}")
        return actions[request["do"]]()

    def _hello(self, request: Json) -> Json:
        folder = work_folder_from(text_in(request, "work_folder"))
        if self._work_folder is not None:
            raise RequestError("bad_request", "there was a hello before")
        if "orphan_s" in request:
            self._orphan_s = number_in(request, "orphan_s", ORPHAN_S)
        self._work_folder = folder
        self._jobs = Jobs(folder, self._changed, lambda: not self.requests.empty())
        return {"version": VERSION, "python": platform.python_version(), "work_folder": folder}

    def _start(self, request: Json, jobs: Jobs) -> Json:
        """Start a job. None is started while an earlier agent of the client holds the lock: its job runs."""
        if self._lock.is_left and jobs.state({**request, "wait_s": 0})["state"] == "unknown":
            raise RequestError("lock_left", "an earlier agent of this client holds the lock")
        return jobs.start(request)

    def _missing(self, request: Json, store: Store, work_folder: str) -> Json:
        """The files that are not here, and the room for them."""
        missing = store.missing(request)
        return {
            "missing": missing,
            "stored_bytes": stored_bytes(work_folder),
            "free_bytes": free_bytes(work_folder),
        }


def main() -> NoReturn:
    """Answer requests until there are no more."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # no output of a job
    agent = Agent()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=agent.end).start())
    agent.serve()
