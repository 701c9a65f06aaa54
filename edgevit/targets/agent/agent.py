"""The agent: answers edgevit on the machine where a model is to run. Python 3.8 or later, the standard library alone.

edgevit sends this file through the SSH channel and starts it there; nothing is installed. The agent reads requests from
stdin and writes replies to stdout, one JSON object a line:

    {"id": 1, "do": "hello", "work_folder": "~/.cache/edgevit"}
    {"id": 1, "result": {"version": 1, "python": "3.10.12", "work_folder": "/home/user/.cache/edgevit"}}
    {"id": 2, "error": {"kind": "disk_full", "what": "No space left on device"}}

The agent ends when its input ends, when it is sent SIGTERM or SIGHUP, and after `IDLE_S` seconds without a request. It
stops every process that it started. It writes only below the work folder, and the lock file of the machine.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import fcntl
import glob
import hashlib
import itertools
import json
import os
import platform
import pwd
import queue
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from importlib import metadata
from typing import IO, Any, Callable, Dict, Iterator

Json = Dict[str, Any]

VERSION = 1  # of the protocol
IDLE_S = 600
LONGEST_REQUEST = 2 * 2**20  # bytes of a line
LONGEST_NAME = 1_000  # characters of a path, an argument, a name
LONGEST_TEXT = 2**16  # bytes of a file, of a command's stdout and of its stderr; the rest is cut off
MOST_TEXT = 2**21  # bytes of all files and outputs of one probe; further files and commands are left out
MOST_FILES = 2_000
MOST_COMMANDS = 100
MOST_PACKAGES = 100
MOST_HASHES = 10_000
LONGEST_COMMAND_S = 600
KILL_S = 5
LARGEST_CHUNK = 2**20  # bytes
LARGEST_FILE = 2**40  # bytes
PART = ".part"  # ends the name of a file that is not whole yet
ABANDONED_S = 86_400  # after so long a part is removed
READ_BLOCK = 2**20
LOCK = "/tmp/edgevit.lock"  # one for all users of the machine
ROOT = "EDGEVIT_ROOT"  # a variable of a stand-in for a machine: the folder below which its files lie
IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MORE_PROGRAMS = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # a command over SSH often lacks them in its PATH
HASH = re.compile(r"[0-9a-f]{64}\Z")


class Refused(Exception):
    """A request that cannot be done.

    Args:
        kind: for the client: bad_request, disk_full, wrong_offset, wrong_hash, work_folder, system.
        what: for people.
        more: further values of the reply.
    """

    def __init__(self, kind: str, what: str, **more: Any) -> None:
        super().__init__(what)
        self.error = {"kind": kind, "what": what[:LONGEST_NAME], **more}


class Agent:
    """Answers requests, one after another."""

    def __init__(self) -> None:
        self.processes = Processes()
        self._work_folder: str | None = None
        self._lock: int | None = None

    def reply(self, line: bytes) -> Json:
        """The reply to one line. It never raises."""
        number = None
        try:
            request = request_from(line)
            number = request["id"]
            return {"id": number, "result": self._result(request)}
        except Refused as refused:
            return {"id": number, "error": refused.error}
        except OSError as error:
            kind = "disk_full" if error.errno in IS_FULL else "system"
            return {"id": number, "error": {"kind": kind, "what": str(error)[:LONGEST_NAME]}}
        except Exception as error:  # noqa: BLE001 - the client says that the agent has a bug
            return {"id": number, "error": {"kind": "bug", "what": repr(error)[:LONGEST_NAME]}}

    def end(self) -> None:
        """Stop what was started, and end the process at once. The system frees the lock."""
        self.processes.stop_all()
        os._exit(0)

    def _result(self, request: Json) -> Json:
        if request["do"] == "hello":
            self._work_folder = work_folder_from(text_in(request, "work_folder"))
            return {"version": VERSION, "python": platform.python_version(), "work_folder": self._work_folder}
        if self._work_folder is None:
            raise Refused("bad_request", "the first request is hello")
        store = Store(self._work_folder)
        actions: dict[str, Callable[[], Json]] = {
            "probe": lambda: probe(request, self._work_folder or "", self.processes),
            "missing": lambda: store.missing(request),
            "put": lambda: store.put(request),
            "evict": lambda: store.evict(request),
            "clean": store.clean,
            "lock": lambda: self._locked(request),
            "unlock": self._unlocked,
        }
        if request["do"] not in actions:
            raise Refused("bad_request", f"there is no request {request['do']!r}")
        return actions[request["do"]]()

    def _locked(self, request: Json) -> Json:
        """Take the machine's lock, or say who holds it. The lock is free again when this process ends."""
        holder = {"by": text_in(request, "by"), "since": time.time()}
        root = text_in(request, "root", os.environ.get(ROOT, ""))
        if self._lock is not None:
            return {"held": True, "holder": None}
        lock = open_lock(root + LOCK)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            try:
                return {"held": False, "holder": holder_from(os.pread(lock, LONGEST_NAME * 8, 0))}
            finally:
                os.close(lock)
        self._lock = lock
        try:
            os.ftruncate(lock, 0)
            os.pwrite(lock, json.dumps(holder).encode(), 0)
        except OSError:
            pass  # the file of another user is locked without a name in it
        return {"held": True, "holder": None}

    def _unlocked(self) -> Json:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        return {}


class Processes:
    """The processes that the agent has started. Each leads a group of its own, which is stopped as a whole."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._running: list[subprocess.Popen[bytes]] = []
        self._is_over = False

    def run(self, arguments: list[str], timeout_s: float, environment: dict[str, str]) -> Json:
        """Run a program. `status` is None after a timeout; the outputs hold what was printed until then.

        Raises OSError if there is no such program.
        """
        process = self._start(arguments, environment)
        outputs = [Output(process.stdout), Output(process.stderr)]
        status: int | None = None
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._stop(process)
        stdout, stderr = (output.text() for output in outputs)
        return {"status": status, "stdout": stdout, "stderr": stderr}

    def stop_all(self) -> None:
        """Stop every process, and start no other."""
        with self._guard:
            self._is_over = True
            for process in self._running:
                kill_group(process.pid)

    def _start(self, arguments: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with self._guard:
            if self._is_over:
                raise Refused("bad_request", "the agent ends")
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
            self._running.append(process)
            return process

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        kill_group(process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):  # a program that hangs in a driver cannot be killed
            process.wait(KILL_S)
        with self._guard:
            self._running.remove(process)


class Output:
    """The beginning of what a process prints. The rest is read and thrown away."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        assert stream is not None
        self._stream = stream
        self._kept = bytearray()
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def text(self) -> str:
        """What was printed. A process of another group may hold the stream open: it is not waited for."""
        self._thread.join(1)
        return bytes(self._kept).decode("utf-8", "replace")

    def _drain(self) -> None:
        with self._stream:
            while True:
                block = os.read(self._stream.fileno(), READ_BLOCK)
                if not block:
                    return
                self._kept += block[: LONGEST_TEXT - len(self._kept)]


class Store:
    """Files by their SHA-256, in the folder `files` of the work folder. A file is whole, or its name ends in .part."""

    def __init__(self, work_folder: str) -> None:
        self._folder = os.path.join(work_folder, "files")

    def missing(self, request: Json) -> Json:
        """Those of the files that are not here, each with the bytes that a broken upload has left; and the room."""
        missing = []
        for wanted in list_in(request, "files", MOST_HASHES):
            name, size = hash_in(wanted), number_in(wanted, "bytes", LARGEST_FILE)
            if self._size(name) == size:
                os.utime(self._path(name))  # the time of its last use
            else:
                missing.append({"sha256": name, "have": min(self._size(name + PART) or 0, size)})
        return {"missing": missing, "stored_bytes": self._stored_bytes(), "free_bytes": free_bytes(self._folder)}

    def put(self, request: Json) -> Json:
        """Append a chunk to a file. With its last byte, the file gets its name, if its hash is right."""
        name, size = hash_in(request), number_in(request, "bytes", LARGEST_FILE)
        offset = number_in(request, "offset", size)
        chunk = chunk_in(request, size - offset)
        if self._size(name) == size:
            return {"have": size, "is_whole": True}
        self._make_folder()
        part = self._path(name + PART)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(part, flags, 0o600), "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # two clients may send one file
            have = file.seek(0, os.SEEK_END)
            if have != offset:
                raise Refused("wrong_offset", "the chunk does not follow the last one", have=have)
            try:
                write_all(file, chunk)
                os.fsync(file.fileno())
            except OSError as error:
                os.unlink(part)  # it would keep the disk full
                if error.errno in IS_FULL:
                    raise Refused("disk_full", str(error), free_bytes=free_bytes(self._folder)) from None
                raise
            if have + len(chunk) == size:
                self._give_name(file, part, name)
        return {"have": have + len(chunk), "is_whole": have + len(chunk) == size}

    def evict(self, request: Json) -> Json:
        """Remove the files that were not used for the longest time, until those left fit the limit; and old parts."""
        limit = number_in(request, "limit_bytes", LARGEST_FILE)
        kept = {hash_of(name) for name in list_in(request, "keep", MOST_HASHES)}
        before = stored = self._stored_bytes()
        for used, name, size in sorted(self._files()):
            is_part = name.endswith(PART)
            is_old = time.time() - used > ABANDONED_S
            if (is_part and is_old) or (not is_part and stored > limit and name not in kept):
                self._remove(name)
                stored -= size
        return {"removed_bytes": before - stored, "stored_bytes": stored}

    def clean(self) -> Json:
        """Remove every file. Folders go too, if nothing else is in them."""
        removed = self._stored_bytes()
        for _, name, _ in list(self._files()):
            self._remove(name)
        for folder in (self._folder, os.path.dirname(self._folder)):
            try:
                os.rmdir(folder)
            except OSError:
                break
        return {"removed_bytes": removed}

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # another client may remove it at the same time
            os.unlink(self._path(name))

    def _give_name(self, file: IO[bytes], part: str, name: str) -> None:
        digest = hashlib.sha256()
        file.seek(0)
        for block in iter(lambda: file.read(READ_BLOCK), b""):
            digest.update(block)
        if digest.hexdigest() != name:
            os.unlink(part)
            raise Refused("wrong_hash", "the file is not what its hash says")
        os.replace(part, self._path(name))

    def _make_folder(self) -> None:
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        for folder in (os.path.dirname(self._folder), self._folder):
            if os.stat(folder).st_uid != os.geteuid():
                raise Refused("work_folder", f"{folder} belongs to another user")

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name)

    def _size(self, name: str) -> int | None:
        try:
            info = os.lstat(self._path(name))
        except OSError:
            return None
        return info.st_size if stat.S_ISREG(info.st_mode) else None

    def _files(self) -> Iterator[tuple[float, str, int]]:
        """The time of the last use, the name and the size of each file and part."""
        try:
            names = os.listdir(self._folder)
        except OSError:
            return
        for name in names:
            if HASH.match(name[: -len(PART)] if name.endswith(PART) else name) and self._size(name) is not None:
                with contextlib.suppress(FileNotFoundError):
                    info = os.lstat(self._path(name))
                    yield info.st_mtime, name, info.st_size

    def _stored_bytes(self) -> int:
        return sum(size for _, _, size in self._files())


def probe(request: Json, work_folder: str, processes: Processes) -> Json:
    """The texts of files, the answers of commands, and facts that Python knows. What is not there is left out.

    Args:
        request: `files`, absolute patterns; `commands`, each with `arguments` and `timeout_s`; `packages`, names of
            distributions. For a stand-in of a machine: `root`, the folder below which files and absolute programs
            lie, and `path`, the PATH by which other programs are found.
    """
    root = text_in(request, "root", os.environ.get(ROOT, ""))
    path = text_in(request, "path", os.pathsep.join((os.environ.get("PATH", os.defpath), *MORE_PROGRAMS)))
    patterns = [text_of(one) for one in list_in(request, "files", MOST_FILES)]
    commands = [command_from(one) for one in list_in(request, "commands", MOST_COMMANDS)]
    packages = [text_of(one) for one in list_in(request, "packages", MOST_PACKAGES)]
    room = MOST_TEXT
    files: dict[str, str] = {}
    for name in itertools.islice(matching(root, patterns), MOST_FILES):
        text = text_of_file(root + name)
        if text is not None and len(text) <= room and len(name) <= LONGEST_NAME:
            files[name] = text
            room -= len(text)
    answers: dict[str, Json] = {}
    for arguments, timeout_s in commands:
        answer = answer_of(arguments, timeout_s, root, path, processes)
        if answer is not None and len(answer["stdout"]) + len(answer["stderr"]) <= room:
            answers[" ".join(arguments)] = answer
            room -= len(answer["stdout"]) + len(answer["stderr"])
    return {"files": files, "commands": answers, "system": system(work_folder, packages)}


def matching(root: str, patterns: list[str]) -> Iterator[str]:
    """The paths that fit absolute patterns, without the root before them."""
    for pattern in patterns:
        if not pattern.startswith("/"):
            raise Refused("bad_request", f"the pattern {pattern!r} is not absolute")
        for found in sorted(glob.iglob(glob.escape(root) + pattern)):
            yield found[len(root) :]


def text_of_file(path: str) -> str | None:
    """The beginning of a plain file; None if it cannot be read. It does not wait for a pipe or a device."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return None
        content = b""
        while len(content) < LONGEST_TEXT:
            block = os.read(file, LONGEST_TEXT - len(content))
            if not block:
                break
            content += block
        return content.decode("utf-8", "replace")
    except OSError:
        return None
    finally:
        os.close(file)


def answer_of(arguments: list[str], timeout_s: float, root: str, path: str, processes: Processes) -> Json | None:
    """The answer of a command; None if its program is not there, or may not be run."""
    program = root + arguments[0] if os.path.isabs(arguments[0]) else shutil.which(arguments[0], path=path)
    if program is None or not os.access(program, os.X_OK):
        return None
    try:
        return processes.run([program, *arguments[1:]], timeout_s, {**os.environ, "PATH": path, "LC_ALL": "C.UTF-8"})
    except OSError:
        return None


def system(work_folder: str, packages: list[str]) -> Json:
    """Facts of the machine and its Python. A number that the system does not say is None."""
    memory = memory_bytes()
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "release": platform.release(),
        "python": platform.python_version(),
        "executable": sys.executable or "",
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_bytes": memory.get("MemTotal"),
        "memory_free_bytes": memory.get("MemAvailable"),
        "disk_free_bytes": free_bytes(work_folder),
        "work_folder": work_folder,
        "packages": {name: version for name in packages for version in versions_of(name)},
        "libc": " ".join(platform.libc_ver()).strip(),
        "user": user(),
        "is_root": os.geteuid() == 0,
    }


def memory_bytes() -> dict[str, int]:
    """The numbers of /proc/meminfo, in bytes; empty where there is no such file."""
    rows = re.findall(r"^(\w+): +([0-9]+) kB$", text_of_file("/proc/meminfo") or "", re.MULTILINE)
    return {name: int(kib) * 1024 for name, kib in rows}


def free_bytes(folder: str) -> int | None:
    """The free bytes for this user on the disk of a folder, which need not be there yet."""
    while not os.path.isdir(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def versions_of(package: str) -> list[str]:
    """The version of a distribution, as a list; empty if it is not installed, or its record is damaged."""
    try:
        version: str | None = metadata.version(package)
    except Exception:  # noqa: BLE001 - a damaged installation is no installation
        return []
    return [version] if isinstance(version, str) else []


def user() -> str:
    """The user's name, or number where the system knows no name."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def work_folder_from(text: str) -> str:
    """The absolute work folder. ~ is the user's home."""
    folder = os.path.expanduser(text)
    if not os.path.isabs(folder) or ".." in folder.split("/") or "\0" in folder:
        raise Refused("work_folder", f"{text!r} is not an absolute folder")
    return os.path.normpath(folder)


def open_lock(path: str) -> int:
    """The open lock file, which any user of the machine may lock."""
    flags = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    for _ in range(10):
        try:
            lock = os.open(path, flags | os.O_RDWR)
        except FileNotFoundError:
            try:
                lock = os.open(path, flags | os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
                os.fchmod(lock, 0o666)
            except FileExistsError:
                continue  # another client was faster
        except PermissionError:
            lock = os.open(path, flags | os.O_RDONLY)
        if not stat.S_ISREG(os.fstat(lock).st_mode):
            os.close(lock)
            raise Refused("system", f"{path} is no plain file")
        return lock
    raise Refused("system", f"{path} comes and goes")


def holder_from(content: bytes) -> Json | None:
    """Who holds the lock and for how many seconds, as the holder wrote it; None if it wrote nothing readable."""
    try:
        holder = json.loads(content)
        since = min(time.time(), max(0.0, float(holder["since"])))
        return {"by": str(holder["by"])[:LONGEST_NAME], "for_s": time.time() - since}
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def kill_group(leader: int) -> None:
    """Kill a process and what it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def write_all(file: IO[bytes], content: bytes) -> None:
    """Write to a file without a buffer."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def request_from(line: bytes) -> Json:
    """A request with its number and its name. Raises Refused if the line is none."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise Refused("bad_request", "the line is no JSON") from None
    if not isinstance(request, dict) or not isinstance(request.get("id"), int):
        raise Refused("bad_request", "a request is an object with a number `id`")
    text_in(request, "do")
    return request


def text_of(value: Any) -> str:
    """The value, if it is a short text."""
    if not isinstance(value, str) or len(value) > LONGEST_NAME or "\0" in value:
        raise Refused("bad_request", f"a text of at most {LONGEST_NAME} characters is expected")
    return value


def hash_of(value: Any) -> str:
    """The value, if it is a SHA-256 in hexadecimal digits. So no name leads out of the folder."""
    if not HASH.match(text_of(value)):
        raise Refused("bad_request", "a SHA-256 is 64 hexadecimal digits")
    return str(value)


def text_in(request: Json, name: str, default: str | None = None) -> str:
    """A text in a request; the default where it is left out."""
    value = request.get(name)
    return default if value is None and default is not None else text_of(value)


def number_in(request: Json, name: str, most: int) -> int:
    """A whole number from 0 to `most` in a request."""
    value = request.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise Refused("bad_request", f"`{name}` is a whole number from 0 to {most}")
    return value


def list_in(request: Json, name: str, most: int) -> list[Any]:
    """A list in a request; empty where it is left out."""
    value = request.get(name, [])
    if not isinstance(value, list) or len(value) > most:
        raise Refused("bad_request", f"`{name}` is a list of at most {most} items")
    return value


def hash_in(request: Any) -> str:
    """The hash in a request, or in an item of one."""
    if not isinstance(request, dict):
        raise Refused("bad_request", "an object is expected")
    return hash_of(request.get("sha256"))


def chunk_in(request: Json, most: int) -> bytes:
    """The bytes of a chunk, which are at most `most`."""
    data = request.get("data")
    try:
        chunk = base64.b64decode(data if isinstance(data, str) else "!", validate=True)
    except (binascii.Error, ValueError):
        raise Refused("bad_request", "`data` is base64") from None
    if len(chunk) > min(most, LARGEST_CHUNK):
        raise Refused("bad_request", "the chunk is too long")
    return chunk


def command_from(value: Any) -> tuple[list[str], float]:
    """The arguments and the time limit of a command."""
    if not isinstance(value, dict):
        raise Refused("bad_request", "a command is an object")
    arguments = [text_of(one) for one in list_in(value, "arguments", MOST_COMMANDS)]
    timeout_s = value.get("timeout_s")
    if not arguments or isinstance(timeout_s, bool) or not isinstance(timeout_s, (int, float)):
        raise Refused("bad_request", "a command has arguments and a time limit")
    if not 0 < timeout_s <= LONGEST_COMMAND_S:
        raise Refused("bad_request", f"a time limit is above 0 and at most {LONGEST_COMMAND_S} s")
    return arguments, timeout_s


def read_requests(agent: Agent, requests: queue.Queue[bytes]) -> None:
    """Pass on every line of stdin. When there are no more, end the agent, whatever it is doing."""
    while True:
        line = sys.stdin.buffer.readline(LONGEST_REQUEST + 1)
        if not line.endswith(b"\n"):
            agent.end()  # the client has gone, or does not speak this protocol
        requests.put(line)


def main() -> None:
    """Answer requests until there are no more."""
    os.umask(0o077)
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing but replies comes between them
    agent = Agent()
    requests: queue.Queue[bytes] = queue.Queue(4)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=agent.end).start())
    threading.Thread(target=read_requests, args=(agent, requests), daemon=True).start()
    try:
        while True:
            reply = agent.reply(requests.get(timeout=IDLE_S))
            replies.write(json.dumps(reply).encode("ascii") + b"\n")
            replies.flush()
    except (queue.Empty, OSError):
        agent.end()


if __name__ == "__main__":
    main()
