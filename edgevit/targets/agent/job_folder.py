"""The folder of a job.

jobs/<id>/files/        the current folder of the program: its input files until it ends, and what it writes
jobs/<id>/lock          is locked by the agent and by the program as long as the job runs
jobs/<id>/started.json  the program's process, for other agents
jobs/<id>/stopped       another agent has killed the program
jobs/<id>/done.json     how it ended; a job without it that does not run is unknown
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
from typing import IO, Collection, Iterator

from edgevit.targets.agent.carried import Carried
from edgevit.targets.agent.folders import JOBS, json_in, make_private, write_json
from edgevit.targets.agent.probe import text_of_file
from edgevit.targets.agent.processes import kill_group
from edgevit.targets.agent.protocol import FILE_NAME, MOST_OUTPUTS, Json, RequestError
from edgevit.targets.agent.store import Store, hash_of_file

LOCK_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


class JobFolder:
    """A job on the disk, for the agent that runs it and for others.

    Attributes:
        name: 64 hexadecimal digits.
        files: the current folder of its program.
    """

    def __init__(self, work_folder: str, name: str) -> None:
        self.name = name
        self.path = os.path.join(work_folder, JOBS, name)
        self.files = os.path.join(self.path, "files")
        self._lock = os.path.join(self.path, "lock")
        self._started = os.path.join(self.path, "started.json")
        self._stopped = os.path.join(self.path, "stopped")
        self._done = os.path.join(self.path, "done.json")

    def locked(self) -> int | None:
        """The job's lock, which is free once it is closed here and by the program; None if the job runs."""
        while True:
            make_private(self.path)
            lock = os.open(self._lock, LOCK_FLAGS | os.O_CREAT, 0o600)
            if not is_free(lock):
                os.close(lock)
                return None
            with contextlib.suppress(FileNotFoundError):
                if os.stat(self._lock).st_ino == os.fstat(lock).st_ino:
                    return lock
            os.close(lock)  # the folder was removed meanwhile

    def is_running(self) -> bool:
        """Whether an agent or the program holds the job's lock."""
        try:
            lock = os.open(self._lock, LOCK_FLAGS)
        except OSError:
            return False
        try:
            return not is_free(lock)
        finally:
            os.close(lock)

    def ask(self) -> None:
        """Tell the agent that runs the job that somebody waits for it."""
        with contextlib.suppress(OSError):
            os.utime(self._lock)

    def asked(self) -> int | None:
        """A number that changes whenever another agent asks for the job."""
        try:
            return os.stat(self._lock).st_mtime_ns
        except OSError:
            return None

    def fill(self, files: dict[str, str], store: Store) -> None:
        """Make the program's folder anew, with its input files.

        Args:
            files: the hash of each file in the store, by its name here.
        """
        shutil.rmtree(self.files, ignore_errors=True)  # of an agent that was killed
        os.mkdir(self.files, 0o700)
        for name, file in files.items():
            source, path = store.path(file), os.path.join(self.files, name)
            try:
                os.link(source, path)
            except OSError:  # the disk's file system knows no second names
                shutil.copyfile(source, path)

    def take_carried(self, carries: dict[str, str], carried: Carried) -> Json:
        """Copy carried files into the program's folder. Gives their SHA-256 by name here; None for one that is new.

        Args:
            carries: the name of each file among the carried ones, by its name here.
        """
        return {name: carried.take(kept, os.path.join(self.files, name)) for name, kept in carries.items()}

    def keep_carried(self, carries: dict[str, str], carried: Carried) -> Json:
        """Keep files of the program's folder for later jobs. Gives their SHA-256; None for one that is not kept.

        A file that the program has removed is not carried any more.
        """
        kept: Json = dict.fromkeys(carries)
        for name in carries:
            if not os.path.lexists(os.path.join(self.files, name)):
                carried.drop(carries[name])
                continue
            with contextlib.suppress(RequestError, OSError), self.opened(name) as file:
                kept[name] = carried.keep(carries[name], file)
        return kept

    def remove_inputs(self, names: Collection[str]) -> None:
        """Remove the input files. They stay in the store, whose bytes are free once it removes them."""
        for name in names:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self.files, name))

    def write_started(self, leader: int, uses: Collection[str]) -> None:
        """Say which process runs, and which packages and files of the store it uses."""
        write_json(self._started, {"leader": leader, "birth": birth_of(leader), "uses": sorted(uses)})

    def uses(self) -> list[str]:
        """The names of the packages and files of the store that the job uses."""
        uses = (json_in(self._started) or {}).get("uses")
        return uses if isinstance(uses, list) else []

    def kill(self) -> bool:
        """Kill the program that another agent has started. Tells whether a file says which one it is."""
        started = json_in(self._started) or {}
        leader, birth = started.get("leader"), started.get("birth")
        if isinstance(leader, int) and birth and birth == birth_of(leader):
            with contextlib.suppress(OSError):
                write_json(self._stopped, {})
            kill_group(leader)
        return leader is not None

    def is_stopped(self) -> bool:
        """Whether another agent has killed the program."""
        return os.path.exists(self._stopped)

    def write_done(self, ended: Json) -> None:
        """Say how the job ended."""
        write_json(self._done, ended)

    def done(self) -> Json | None:
        """How the job ended; None if it has not."""
        return json_in(self._done)

    def outputs(self, inputs: Collection[str]) -> list[Json]:
        """The name, size and hash of the plain files that the program has written."""
        outputs: list[Json] = []
        with contextlib.suppress(OSError):  # the folder was removed
            for name in sorted(os.listdir(self.files)):
                if FILE_NAME.match(name) and name not in inputs and len(outputs) < MOST_OUTPUTS:
                    with contextlib.suppress(RequestError, OSError), self.opened(name) as file:
                        outputs.append({"name": name, "sha256": hash_of_file(file), "bytes": file.tell()})
        return outputs

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[IO[bytes]]:
        """A plain file of the program's folder. Refuses a link."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            number = os.open(os.path.join(self.files, name), flags)
        except OSError as error:
            raise RequestError("system", f"{name}: {error.strerror}") from None
        with os.fdopen(number, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(number).st_mode):
                raise RequestError("bad_request", f"{name} is no plain file")
            yield file


def is_free(lock: int) -> bool:
    """Whether an open lock file could be locked. It is locked then."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def birth_of(process: int) -> str:
    """The start of the machine and of a process: a later process of the same number has another; empty if unknown."""
    boot = text_of_file("/proc/sys/kernel/random/boot_id")
    state = text_of_file(f"/proc/{process}/stat")
    fields = (state or "").rpartition(")")[2].split()
    return f"{boot.strip()} {fields[19]}" if boot and len(fields) > 19 else ""
