"""The store: finished artifacts, addressed by content and published in one step.

    <runs>/.store/<key>/<digest>/manifest.json      its presence means finished
    <runs>/.store/<key>/current -> <digest>
    <runs>/.store/tmp/<key>/                        being written
    <runs>/.store/work/<key>/                       survives a kill (last.pt); removed when published
    <runs>/.store/lock/<key>                        held while a key is being made
    <runs>/.store/diverged/<key>.json               why the training of a key did not end
    <runs>/.store/cache/                            may be removed at any time (teacher outputs, embeddings)

A key is the sha256 of all that decides a result: stage, version, configuration, content of the inputs, target.

A store may come from another user. Nothing is written through a symbolic link in it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgevit.artifacts import (
    MANIFEST,
    MODEL_KINDS,
    Artifact,
    Contents,
    FileEntry,
    InputRef,
    Json,
    Manifest,
    ancestors,
    content_digest,
    in_store,
    manifest_text,
    sha256_of,
    sha256_of_file,
)
from edgevit.configs import Load, Select, Stage, added_at_default, input_files, known_folders, references
from edgevit.configs.renamed import with_current_names, with_former_names
from edgevit.disks import naming_the_full_disk, temporary_folders, write_synced
from edgevit.errors import ArtifactError, Diverged, RecipeError
from edgevit.models.bodies import body_of
from edgevit.terminal import printable_line

CURRENT = "current"
_KEPT_OF_DIVERGED = ("what", "where", "got", "next")


def ingredients(
    config: Stage,
    inputs: Mapping[str, Artifact],
    target: Json | None,
    budget: Json | None,
    recipe_name: str = "",
    dropped: Mapping[str, str] = MappingProxyType({}),
) -> Json:
    """All that decides the result of a stage. References are replaced by digests of content, paths by file hashes.

    Args:
        dropped: see `Context`.
    """
    left_out = {"id", "stage", *added_at_default(config), *known_folders(config)}
    fields = config.model_dump(mode="json", exclude=left_out)
    for path, _, _ in references(config):
        _replace(fields, path, f"content {inputs[dotted(path)].digest}")
    for name, file in input_files(config).items():
        if not file.is_file():
            raise RecipeError(f"there is no file for '{name}' of stage '{config.id}'", got=file, expected="a file")
        fields[name] = f"sha256 {sha256_of_file(file)}"
    if isinstance(config, Load) and (body := body_of(config)) is not None:
        fields["body"] = f"sha256 {body.sha256}"
    return {
        "stage": config.name(),
        "stage_version": config.version,
        "config": fields,
        "target": target,
        "budget": budget if config.reads_budget else None,
        "names": _names(config, inputs, recipe_name, dropped),
    }


def _names(
    config: Stage, inputs: Mapping[str, Artifact], recipe_name: str, dropped: Mapping[str, str]
) -> list[str] | None:
    """The names and reasons in the record of a stage that do not follow from the content of its inputs."""
    if isinstance(config, Select):
        return [config.data, *config.models, *(f"{name}: {reason}" for name, reason in dropped.items())]
    return [recipe_name, *_names_behind(inputs)] if config.reads_names else None


def _recorded_inputs(inputs: Mapping[str, Artifact], passed_on: str | None) -> dict[str, InputRef]:
    """The inputs of a result. Of several models of which one is passed on, the others are not behind the result."""
    refs = {name: artifact.ref() for name, artifact in inputs.items()}
    if passed_on is None:
        return refs
    others = {name: ref for name, ref in refs.items() if ref.kind not in MODEL_KINDS}
    return {"model": refs[passed_on], **others}


def _names_behind(inputs: Mapping[str, Artifact]) -> list[str]:
    return [ancestor.id for artifact in inputs.values() for ancestor in ancestors(artifact)]


def dotted(path: tuple[str | int, ...]) -> str:
    """The path of a field as text: "streams.0.data"."""
    return ".".join(map(str, path))


class Store:
    """The artifacts under one root folder. Raises ArtifactError if the folder is a symbolic link."""

    def __init__(self, root: Path) -> None:
        _check_no_link(root)
        self.root = root
        self.cache = root / "cache"

    def key(self, parts: Json) -> str:
        """The key of a result, from its ingredients."""
        return sha256_of(with_former_names(parts))[:40]

    def find(self, key: str, say: Callable[[str], None] | None = None) -> Artifact | None:
        """The current artifact of a key, if it is finished and its files have their recorded sizes.

        None if there is none, or it is damaged. A note tells `say` of a damaged artifact, which will be made again.
        """
        try:
            artifact = in_store(self.root, key, os.readlink(self.root / key / CURRENT))
            if artifact is not None:
                _check_sizes(artifact)
        except OSError:
            return None
        except ArtifactError as error:
            if say:
                say(f"note: {error.where}: {error.what}; it is made again")
            return None
        return artifact

    def make(
        self,
        config: Stage,
        inputs: Mapping[str, Artifact],
        parts: Json,
        write: Callable[[Path, Path], Contents],
        *,
        again: bool = False,
        say: Callable[[str], None] | None = None,
    ) -> Artifact:
        """Let `write(out, work)` fill a new folder, and publish it. Only one process makes a key; others wait.

        A training that diverges is kept as such under its key: it would diverge again.

        Raises:
            Diverged: the training diverges, or it did before and `again` is false.
        """
        key = self.key(parts)
        with self._locked(key, say):
            if again:
                self.forget_divergence(key)
            elif artifact := self.find(key):
                return artifact  # another process made it while this one waited
            if (diverged := self.kept_divergence(key, config.id)) is not None:
                raise diverged
            shutil.rmtree(self.root / "tmp" / key, ignore_errors=True)
            out, work = self._folder("tmp", key), self._folder("work", key)
            self._folder(key)  # checked before the work
            for folder in (work, self._folder("cache")):
                _check_no_links_below(folder)
            try:
                contents = write(out, work)
                artifact = self._publish(key, config, inputs, parts, contents, out)
            except OSError as error:
                raise naming_the_full_disk(error, [self.root, *temporary_folders()]) from None
            except Diverged as error:
                self._keep_divergence(key, error)
                raise
            shutil.rmtree(work, ignore_errors=True)
        return artifact

    def is_being_made(self, key: str) -> bool:
        """Whether a process is making this key now."""
        file = self._folder("lock") / key
        _check_no_link(file)
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        with os.fdopen(descriptor) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: others may ask at the same time
            except BlockingIOError:
                return True
        return False

    def kept_divergence(self, key: str, id: str) -> Diverged | None:
        """The error, with the words of that time, of a training of this key that diverged before; None without one."""
        try:
            kept = json.loads((self.root / "diverged" / f"{key}.json").read_text(encoding="utf-8"))
            what, where, got, advice = (printable_line(kept[name]) for name in _KEPT_OF_DIVERGED)
        except (OSError, ValueError, LookupError, TypeError):  # there is none, or it was cut off
            return None
        again = f"--fresh {id} trains it again as it is"
        return Diverged(what, where=f"{where}, in an earlier run", got=got, next=f"{advice}; {again}")

    def _keep_divergence(self, key: str, error: Diverged) -> None:
        kept = {name: str(getattr(error, name)) for name in _KEPT_OF_DIVERGED}
        write_synced(self._folder("diverged") / f"{key}.json", json.dumps(kept, indent=1).encode())

    def forget_divergence(self, key: str) -> None:
        """Let a training that diverged begin again."""
        file = self.root / "diverged" / f"{key}.json"
        if file.is_file():
            shutil.rmtree(self.root / "work" / key, ignore_errors=True)
            file.unlink()

    def _publish(
        self, key: str, config: Stage, inputs: Mapping[str, Artifact], parts: Json, contents: Contents, out: Path
    ) -> Artifact:
        files = {name: _entry(out / name, content=name not in contents.logs) for name in _files_below(out)}
        digest = content_digest(contents, files)[:40]
        manifest = Manifest(
            kind=contents.kind,
            id=config.id,
            key=key,
            digest=digest,
            stage=parts["stage"],
            stage_version=config.version,
            config=config.model_dump(mode="json"),
            ingredients=parts,
            inputs=_recorded_inputs(inputs, contents.passed_on),
            files=files,
            metrics={**contents.metrics, **contents.log_metrics},
            io=contents.io,
            model_file=contents.model_file,
            provenance=contents.provenance,
        )
        write_synced(out / MANIFEST, manifest_text(manifest).encode())
        home = self._folder(key) / digest
        old = self.root / "tmp" / f"{key}-{digest}-old"
        shutil.rmtree(old, ignore_errors=True)
        if home.exists():  # made before, with the same content; the new copy is known to be whole
            os.rename(home, old)
        os.rename(out, home)
        shutil.rmtree(old, ignore_errors=True)
        replace_link(home.parent / CURRENT, Path(digest))
        return Artifact.load(home)

    @contextmanager
    def _locked(self, key: str, say: Callable[[str], None] | None) -> Iterator[None]:
        file = self._folder("lock") / key
        _check_no_link(file)
        with os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if say:
                    say("    waiting for another run, which is making this")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _folder(self, *parts: str) -> Path:
        """A folder of the store, created if it is missing. Raises ArtifactError if a link is in its place."""
        folder = self.root
        folder.mkdir(parents=True, exist_ok=True)
        for part in parts:
            folder = folder / part
            _check_no_link(folder)
            folder.mkdir(exist_ok=True)
        return folder


def changed_fields(old: Json, new: Json) -> list[str]:
    """`name: old → new` for each field that differs between two sets of ingredients."""
    before, after = dict(_leaves(with_current_names(old))), dict(_leaves(new))
    lines = []
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) == after.get(name):
            continue
        was, now = before.get(name, "absent"), after.get(name, "absent")
        is_digest = any(str(value).startswith(("content ", "sha256 ")) for value in (was, now))
        change = "its content changed" if is_digest else f"{was} → {now}"
        lines.append(f"{name.removeprefix('config.')}: {change}")
    return lines


def replace_link(link: Path, to: Path) -> None:
    """Point the symbolic link `link` at `to`, in one step."""
    new = link.with_name(f".{link.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    new.symlink_to(to)
    os.replace(new, link)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _leaves(item, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}.{index}")
    else:
        yield path, value


def _replace(fields: Any, path: tuple[str | int, ...], value: str) -> None:
    for part in path[:-1]:
        fields = fields[part]
    fields[path[-1]] = value


def _check_no_links_below(folder: Path) -> None:
    for parent, folders, files in os.walk(folder):  # skips what another run removes meanwhile
        for name in (*folders, *files):
            _check_no_link(Path(parent, name))


def _check_no_link(path: Path) -> None:
    if path.is_symlink() or (path.exists() and not path.is_file() and not path.is_dir()):
        raise ArtifactError(
            "the store contains a link or a device, and nothing is written through it",
            where=path,
            expected="files and folders",
            next="remove it; to keep the store elsewhere, make the folder of --runs itself a link",
        )


def _files_below(folder: Path) -> list[str]:
    names = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise ArtifactError("a stage left a link among its files", where=path)
        if path.is_file():
            names.append(path.relative_to(folder).as_posix())
    return names


def _entry(path: Path, content: bool) -> FileEntry:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return FileEntry(sha256=sha256_of_file(path), size=path.stat().st_size, content=content)


def _check_sizes(artifact: Artifact) -> None:
    for name, entry in artifact.manifest.files.items():
        path = artifact.path / name
        if not path.is_file() or path.stat().st_size != entry.size:
            raise ArtifactError("the file is missing or has another size", where=path)
