"""Jobs: programs that run in a folder of their own, and whose results stay there until they are fetched."""

from __future__ import annotations

import base64
import contextlib
import os
import subprocess
import threading
import time
from typing import Callable, NamedTuple

from edgevit.targets.agent.carried import Carried
from edgevit.targets.agent.folders import remove_folder
from edgevit.targets.agent.job_folder import JobFolder
from edgevit.targets.agent.packages import use
from edgevit.targets.agent.processes import KILL_S, Output, Processes, kill_group
from edgevit.targets.agent.protocol import (
    FILE_NAME,
    LARGEST_CHUNK,
    LARGEST_FILE,
    LONGEST_JOB_S,
    LONGEST_WAIT_S,
    MOST_ARGUMENTS,
    MOST_CARRIED,
    MOST_INPUTS,
    VARIABLE,
    Json,
    RequestError,
    arguments_in,
    hash_of,
    number_in,
    packages_of,
    seconds_in,
    text_in,
    texts_in,
)
from edgevit.targets.agent.store import Store

LOOK_S = 0.25  # between two looks at the job of another agent
RUNNING: Json = {
    "state": "running",
    "status": None,
    "timed_out": False,
    "stopped": False,
    "seconds": 0.0,
    "stdout": "",
    "stderr": "",
    "outputs": [],
    "carried": {},
}
UNKNOWN: Json = {**RUNNING, "state": "unknown"}


class Jobs:
    """The jobs of a work folder: those of this agent, and those that other agents have left.

    Args:
        changed: is notified when a job ends, and by whoever makes `is_called` true.
        is_called: whether a wait has to end, since there is another request.
    """

    def __init__(self, work_folder: str, changed: threading.Condition, is_called: Callable[[], bool]) -> None:
        self._work_folder, self._changed, self._is_called = work_folder, changed, is_called
        self._processes = Processes()
        self._running: dict[str, Running] = {}
        self._is_over = False
        self._unwritten: dict[str, Json] = {}  # how jobs ended for which the disk had no room

    def start(self, request: Json) -> Json:
        """Start a program. If the job runs or has ended, nothing is done.

        Args:
            request: `job`, the name; `files`, the hashes of the input files by name; `carries`, the names of the
                carried files, by their names in the program's folder; `arguments`, the program and its arguments,
                where ~/ at the beginning is the home; `environment`, more variables; `limit_s`, its time.
        """
        folder, program = self._folder(request), program_from(request)
        with self._changed:  # `wait_for_all` waits for a job that is being started, too
            lock = folder.locked()
            if lock is None:
                return {"is_new": False}
            if self._done(folder) is not None:
                os.close(lock)
                return {"is_new": False}
            try:
                use(program.packages, self._work_folder)
                folder.fill(program.files, Store(self._work_folder))
                before = folder.take_carried(program.carries, Carried(self._work_folder))
                process = self._started(folder, program, lock)
            except BaseException:
                remove_folder(folder.path)
                os.close(lock)
                raise
            running = self._running[folder.name] = Running(folder, program, before, process, lock, self._end)
            running.watch()
            return {"is_new": True}

    def state(self, request: Json) -> Json:
        """Whether a job is running, done or unknown; and how it ended.

        Args:
            request: `job`; `wait_s`, how long to wait for its end. The next request ends the wait.
        """
        folder = self._folder(request)
        end = time.monotonic() + number_in(request, "wait_s", LONGEST_WAIT_S)
        if folder.name not in self._running:
            folder.ask()
        return self._state_until(folder, lambda: self._is_called() or time.monotonic() > end, end)

    def get(self, request: Json) -> Json:
        """A chunk of a file that a job has written."""
        folder = self._folder(request)
        name, offset = text_in(request, "name"), number_in(request, "offset", LARGEST_FILE)
        if name not in [output["name"] for output in self._state(folder)["outputs"]]:
            raise RequestError("bad_request", f"the job has not written {name!r}")
        with contextlib.suppress(OSError):
            os.utime(folder.path)
        with folder.opened(name) as file:
            return {"data": base64.b64encode(os.pread(file.fileno(), LARGEST_CHUNK, offset)).decode("ascii")}

    def stop(self, request: Json) -> Json:
        """Kill a job, and wait until it has ended."""
        folder = self._folder(request)
        running, end = self._running.get(folder.name), time.monotonic() + 2 * KILL_S
        if running is not None:
            running.is_stopped = True
            running.kill()
        else:  # another agent may have begun to start it just now
            while folder.is_running() and not folder.kill() and time.monotonic() < end:
                time.sleep(LOOK_S)
        self._state_until(folder, lambda: time.monotonic() > end, end)
        return {}

    def forget(self, request: Json) -> Json:
        """Remove the folder of a job that does not run."""
        folder = self._folder(request)
        if self._state(folder)["state"] == "running":
            raise RequestError("running", "the job runs")
        self._unwritten.pop(folder.name, None)
        remove_folder(folder.path)
        return {}

    def wait_for_all(self, longest_s: float) -> None:
        """Wait until no job of this agent runs, or nobody has asked for one for so long."""
        with self._changed:
            while self._running:
                asked = self._asked()
                has_ended = self._changed.wait_for(lambda: not self._running, longest_s)
                if not has_ended and self._asked() == asked:
                    return

    def stop_all(self) -> None:
        """Stop the jobs of this agent, and start no other."""
        self._is_over = True
        self._processes.stop_all()

    def _folder(self, request: Json) -> JobFolder:
        return JobFolder(self._work_folder, hash_of(request.get("job")))

    def _state(self, folder: JobFolder) -> Json:
        if folder.name in self._running:
            return RUNNING
        done = self._done(folder)
        if done is None and folder.is_running():
            return RUNNING
        done = done or self._done(folder)  # it may have ended just now
        return UNKNOWN if done is None else {**RUNNING, "state": "done", **done}

    def _asked(self) -> list[int | None]:
        return [running.folder.asked() for running in self._running.values()]

    def _done(self, folder: JobFolder) -> Json | None:
        return self._unwritten.get(folder.name) or folder.done()

    def _state_until(self, folder: JobFolder, is_over: Callable[[], bool], end: float) -> Json:
        """The state of a job as soon as it does not run, or `is_over`."""
        with self._changed:
            while True:
                state = self._state(folder)
                if state["state"] != "running" or is_over():
                    return state
                left_s = max(0.0, end - time.monotonic())
                self._changed.wait(left_s if folder.name in self._running else min(left_s, LOOK_S))

    def _started(self, folder: JobFolder, program: Program, lock: int) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **program.variables}
        try:
            process = self._processes.start(program.arguments, environment, folder.files, [lock])
        except OSError as error:
            raise RequestError("no_program", f"{program.arguments[0]}: {error.strerror}") from None
        try:
            folder.write_started(process.pid, program.packages | set(program.files.values()))
        except BaseException:
            self._processes.stop(process)
            raise
        return process

    def _end(self, running: Running, ended: Json) -> None:
        """A program has ended: kill what it has left, and keep the result."""
        self._processes.stop(running.process)
        is_stopped = (self._is_over or running.is_stopped or running.folder.is_stopped()) and ended["status"] != 0
        carried = running.carried(ended["status"] == 0, Carried(self._work_folder))
        ended = {**ended, "stopped": is_stopped, "carried": carried, **running.results()}
        try:
            running.folder.write_done(ended)
        except OSError:
            self._unwritten[running.folder.name] = ended
        with self._changed:
            del self._running[running.folder.name]
            os.close(running.lock)
            self._changed.notify_all()


class Program(NamedTuple):
    """What a job runs: the hashes of its input files and the names of its carried files, by name; and its time."""

    files: dict[str, str]
    carries: dict[str, str]
    arguments: list[str]
    variables: dict[str, str]
    limit_s: float

    @property
    def packages(self) -> set[str]:
        """The names of the packages that it imports from."""
        return packages_of(self.variables)


def program_from(request: Json) -> Program:
    """The program of a request."""
    files = texts_in(request, "files", MOST_INPUTS, FILE_NAME)
    carries = texts_in(request, "carries", MOST_CARRIED, FILE_NAME)
    if set(files) & set(carries):
        raise RequestError("bad_request", "a file is an input or carried, not both")
    return Program(
        {name: hash_of(file) for name, file in files.items()},
        {name: hash_of(kept) for name, kept in carries.items()},
        [os.path.expanduser(word) if word.startswith("~/") else word for word in arguments_in(request)],
        texts_in(request, "environment", MOST_ARGUMENTS, VARIABLE),
        seconds_in(request, "limit_s", LONGEST_JOB_S),
    )


class Running:
    """A job of this agent, from its start to its end.

    Args:
        before: the SHA-256 of the carried files at the start; None for a new one.
        lock: the job's locked file.
        end: is called in a thread as soon as the program has ended, or its time is over.

    Attributes:
        is_stopped: whether its client stops it. What it leaves then is no result.
    """

    def __init__(
        self,
        folder: JobFolder,
        program: Program,
        before: Json,
        process: subprocess.Popen[bytes],
        lock: int,
        end: Callable[[Running, Json], None],
    ) -> None:
        self.folder, self.process, self.lock = folder, process, lock
        self._program, self._before, self._end = program, before, end
        self._stdout, self._stderr = Output(process.stdout, keeps_end=True), Output(process.stderr, keeps_end=True)
        self._began, self._timed_out = time.monotonic(), False
        self.is_stopped = False

    def watch(self) -> None:
        """Begin to wait for the end."""
        threading.Thread(target=self._wait, daemon=True).start()

    def kill(self) -> None:
        """Kill the program, and what it has started."""
        if self.process.poll() is None:
            kill_group(self.process.pid)

    def carried(self, has_succeeded: bool, carried: Carried) -> Json:
        """The SHA-256 of each carried file before and after the job, which keeps them if it has succeeded."""
        after = self.folder.keep_carried(self._program.carries, carried) if has_succeeded else self._before
        return {name: {"before": self._before[name], "after": after[name]} for name in self._before}

    def results(self) -> Json:
        """What the program has printed and written. Its input files are removed."""
        outputs = self.folder.outputs(self._program.files)
        self.folder.remove_inputs(self._program.files)
        return {"stdout": self._stdout.text(), "stderr": self._stderr.text(), "outputs": outputs}

    def _wait(self) -> None:
        # `wait` with a time limit would look at the process all the time, and disturb what it measures.
        timer = threading.Timer(self._program.limit_s, self._time_out)
        timer.daemon = True
        timer.start()
        status = self.process.wait()
        timer.cancel()
        seconds = time.monotonic() - self._began
        self._end(
            self, {"status": None if self._timed_out else status, "timed_out": self._timed_out, "seconds": seconds}
        )

    def _time_out(self) -> None:
        self._timed_out = True
        self.kill()
