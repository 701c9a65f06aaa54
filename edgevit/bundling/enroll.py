"""Add a class to this bundle from a few images, or remove one. Nothing is trained.

    python enroll.py --class gasket images/*.jpg
    python enroll.py --class gasket --add more/*.jpg
    python enroll.py --remove gasket
    python enroll.py --list

Needs the packages in requirements.txt, on Linux or macOS. Exit status: 0 done; 1 the class cannot be told from the
others, and nothing was changed; 2 the bundle, the call or an image is wrong, and nothing was changed.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # on a device they come from prototypes.py beside this file
    from edgevit.bundling.prototypes import Rates, Share, SupportSet

HERE = Path(__file__).resolve().parent


def checked_infer() -> Any:
    """The module infer.py beside this file. In a bundle, its hash is checked first. infer.py checks the other programs.

    Raises ImportError if it is missing or was altered.
    """
    file, record = HERE / "infer.py", HERE / "bundle.json"
    try:
        source = file.read_bytes()
        if (
            record.is_file()
            and sha256(source).hexdigest() != json.loads(record.read_bytes())["files"][file.name]["sha256"]
        ):
            raise ImportError(f"{file}: was altered")
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ImportError(f"{file}: cannot be checked with {record.name}: {error}") from None
    module = ModuleType("infer")
    module.__file__ = str(file)
    sys.modules["infer"] = module
    exec(compile(source, file, "exec"), module.__dict__)
    return module


try:
    infer = checked_infer()
    prototypes = infer.shipped("prototypes")
except Exception as error:
    if __name__ != "__main__":
        raise
    print(error, file=sys.stderr)
    sys.exit(2)

CLASSES, EXPORT_EMBEDDING, UNKNOWN = infer.CLASSES, infer.EXPORT_EMBEDDING, infer.UNKNOWN
BundleError, Classifier, image_files = infer.BundleError, infer.Classifier, infer.image_files
complain, printable = infer.complain, infer.printable
ClassesError, Indistinguishable = prototypes.ClassesError, prototypes.Indistinguishable
head_of, left_out, rates, accuracy_of = (
    prototypes.head_of,
    prototypes.left_out,
    prototypes.rates,
    prototypes.accuracy_of,
)
write_support = prototypes.write_support

SAME_IMAGE = 1e-4  # difference of two embeddings, as a share of the largest value
STORE = ".store"


def enroll(folder: Path, name: str, images: Sequence[Path], add: bool = False, force: bool = False) -> dict[str, Any]:
    """Add a class, or with `add` more images of an existing class; returns a record of the change and of the check.

    Raises:
        ClassesError: the name or an image is not accepted. Nothing was changed.
        Indistinguishable: more than half of the class's images are nearer to another class. Nothing was changed, unless
            `force`.
        BundleError: the bundle takes no classes, or one of its files was altered.
    """
    name = composed(name)
    with changing(folder):
        classifier = Classifier(folder)
        before = support_of(classifier)
        check_name(name, before, add)
        files = list(image_files(images))
        if not files:
            raise ClassesError("there are no images", ", ".join(map(str, images)), "image files, or folders of them")
        embeddings = np.stack([embedding_of(classifier, file) for file in files])
        check_new(before, embeddings, files)
        after = before.with_images(name, embeddings)
        nearer_to, count = left_out(after).nearer_to(name), len(after.images_of(name))
        if sum(nearer_to.values()) > count / 2 and not force:
            raise Indistinguishable(
                f"'{name}' cannot be told from the other classes",
                f"{sum(nearer_to.values())} of {count} images are nearer to another class: {listed(nearer_to)}",
                "at most half of them",
                "use images that show the difference; --force adds the class anyway",
            )
        write_support(after, folder / CLASSES)
    added = {"class": name, "taken": len(files), "images": count, "checked": count > 1, "nearer_to": nearer_to}
    of_class = {"accuracy_of_class": as_json(accuracy_of(after, name)), **compared(before, after)}
    return {**added, **of_class, "by_model": answers_by_model(classifier, after)}


def remove(folder: Path, name: str) -> dict[str, Any]:
    """Remove a class; returns a record of the change. Raises as `enroll` does."""
    name = composed(name)
    with changing(folder):
        classifier = Classifier(folder)
        before = support_of(classifier)
        if name not in before.classes:
            raise ClassesError(f"there is no class '{name}'", expected=", ".join(before.classes))
        if len(before.classes) == 2:
            raise ClassesError("a bundle needs two classes, and one would be left", expected="two")
        after = before.without(name)
        write_support(after, folder / CLASSES)
    removed = {"class": name, "removed": len(before.images_of(name))}
    return {
        **removed,
        **compared(before, after),
        "by_model": answers_by_model(classifier, after),
    }


def composed(name: str) -> str:
    """A name in Unicode's composed form (NFC), as in the classes of a bundle. macOS decomposes folder names."""
    return unicodedata.normalize("NFC", name)


def listing(folder: Path) -> dict[str, Any]:
    """The classes of a bundle, each with its number of images and of those nearer to another class; and the rates."""
    classifier = Classifier(folder)
    support = support_of(classifier)
    check, measured = left_out(support), rates(support)
    classes = [
        {"class": name, "images": len(support.images_of(name)), "nearer_to": check.nearer_to(name)}
        for name in support.classes
    ]
    return {
        "classes": classes,
        **rates_as_json(measured),
        "said": measured.lines(),
        "threshold": head_of(support).threshold,
        "by_model": answers_by_model(classifier, support),
    }


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Lock a bundle while it is changed, so that two processes do not undo each other's changes."""
    if folder.resolve().parent.parent.name == STORE:
        raise BundleError(
            f"{folder}: is a stored result, which must not change\n  next: change the copy in runs/NAME/ID, or a copy "
            f"of your own: cp -rL {folder} my-bundle"
        )
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def support_of(classifier: Any) -> SupportSet:
    """The support set of a bundle. Raises BundleError in one that takes no classes."""
    if classifier.support is None:
        raise BundleError(f"{classifier.folder}: this bundle takes no classes\n  next: {EXPORT_EMBEDDING}")
    support: SupportSet = classifier.support
    return support


def check_name(name: str, support: SupportSet, add: bool) -> None:
    """Raise ClassesError if a class cannot have this name."""
    if not name.isprintable() or name != name.strip() or not name or name == UNKNOWN:
        raise ClassesError("this is not a valid class name", repr(name), f"one line of text, and not '{UNKNOWN}'")
    if name in support.classes and not add:
        next_step = f"--add adds images to it, or --remove {name} first"
        raise ClassesError(
            f"the bundle has a class '{name}' already", counted(len(support.images_of(name))), next=next_step
        )
    if add and name not in support.classes:
        raise ClassesError(f"there is no class '{name}' to add images to", expected=", ".join(support.classes))


def embedding_of(classifier: Any, file: Path) -> npt.NDArray[np.float32]:
    """The embedding of an image file, (dimensions,). Raises ClassesError if it cannot be read."""
    try:
        embedding: npt.NDArray[np.float32] = classifier.embedding(file)
    except (OSError, ValueError) as error:
        raise ClassesError(f"{file}: {error}", next="leave this image out; nothing was changed") from None
    return embedding


def check_new(support: SupportSet, embeddings: npt.NDArray[np.float32], files: Sequence[Path]) -> None:
    """Raise ClassesError if two of the images, or an image and a stored one, have the same embedding."""
    for index, embedding in enumerate(embeddings):
        near = SAME_IMAGE * np.abs(embedding).max()
        if len(stored := np.flatnonzero(np.abs(support.embeddings - embedding).max(1) <= near)):
            owner = support.classes[support.labels[stored[0]]]
            raise ClassesError(
                f"{files[index]}: is already an image of '{owner}'",
                next="leave it out; an image cannot count twice, or for two classes",
            )
        if len(earlier := np.flatnonzero(np.abs(embeddings[:index] - embedding).max(1) <= near)):
            raise ClassesError(
                f"{files[index]}: is the same image as {files[earlier[0]]}", next="leave one of them out"
            )


def compared(before: SupportSet, after: SupportSet) -> dict[str, Any]:
    """The effect of a change on all classes."""
    measured = rates(after)
    return {
        "classes": len(after.classes),
        "accuracy_before": as_json(rates(before).accuracy),
        **rates_as_json(measured),
        "said": measured.lines(),
        "threshold": head_of(after).threshold,
    }


def rates_as_json(measured: Rates) -> dict[str, Any]:
    """Accuracy and the rates of the threshold."""
    names = ("accuracy", "known_rejected", "unknown_accepted")
    return {name: as_json(getattr(measured, name)) for name in names}


def as_json(share: Share | None) -> dict[str, Any] | None:
    """A share with its interval; None if it was not measured."""
    return None if share is None else asdict(share)


def answers_by_model(classifier: Any, support: SupportSet) -> bool:
    """Whether these classes are the bundled ones, for which the model's own classifier answers."""
    as_bundled = classifier.record["changeable"][CLASSES]["sha256_as_bundled"]
    return bool(support.sha256 == as_bundled)


def sentences(record: dict[str, Any]) -> Iterator[str]:
    """The record of a change, in words."""
    name = record["class"]
    if "removed" in record:
        yield f"removed {name} and its {counted(record['removed'])}; {record['classes']} classes"
    else:
        more = f", {counted(record['images'])} in all" if record["images"] > record["taken"] else ""
        yield f"{name}: {counted(record['taken'])} added{more}; {record['classes']} classes"
        if not record["checked"]:
            yield f"{name}: a single image, which cannot be checked; --add adds more"
        elif record["nearer_to"]:
            by_class = record["nearer_to"]
            nearer = sum(by_class.values())
            yield f"{name}: {nearer} of {counted(record['images'])} nearer to another class: {listed(by_class)}"
        else:
            yield f"{name}: all {counted(record['images'])} nearest to their own class"
    if record.get("accuracy_of_class"):
        yield f"{name}: right by the nearest class: {prototypes.Share(**record['accuracy_of_class'])}"
    yield from last_lines(record)


def list_lines(record: dict[str, Any]) -> Iterator[str]:
    """The classes, in words."""
    for entry in record["classes"]:
        nearer = f", some nearer to {listed(entry['nearer_to'])}" if entry["nearer_to"] else ""
        yield f"{entry['class']}: {counted(entry['images'])}{nearer}"
    yield from last_lines(record)


def last_lines(record: dict[str, Any]) -> Iterator[str]:
    """The rates, the threshold, and the classifier that answers."""
    yield from (f"all classes: {line}" for line in record["said"])
    threshold = record["threshold"]
    yield "unknown: no threshold" if threshold is None else f"unknown: an image whose cosine is below {threshold:.3f}"
    if record["by_model"]:
        yield "infer.py answers with the model's own classifier, as it was bundled"
    else:
        yield "infer.py answers with the nearest class, not with the model's own classifier"


def listed(nearer_to: dict[str, int]) -> str:
    """`washer (3), nut (1)`."""
    return ", ".join(f"{name} ({count})" for name, count in nearer_to.items())


def counted(images: int) -> str:
    """`1 image`, `5 images`."""
    return f"{images} image" + "s" * (images != 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives the exit status."""
    parser = argparse.ArgumentParser(description="Add a class to this bundle from a few images, or remove one.")
    parser.add_argument("images", nargs="*", type=Path, help="images of the class, or folders of them")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--class", dest="name", metavar="NAME", help="the class to add")
    action.add_argument("--remove", metavar="NAME", help="the class to remove")
    action.add_argument("--list", action="store_true", help="list the classes, their images, accuracy and threshold")
    parser.add_argument("--add", action="store_true", help="add images to a class that the bundle has")
    parser.add_argument("--force", action="store_true", help="add the class even if it cannot be told from the others")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--bundle", type=Path, default=HERE, help="the bundle; by default the folder of this file")
    options = parser.parse_args(arguments)
    if (options.name is None) == bool(options.images):
        parser.error("images go with --class NAME, and with nothing else")
    try:
        if options.list:
            record = listing(options.bundle)
        elif options.remove is not None:
            record = remove(options.bundle, options.remove)
        else:
            record = enroll(options.bundle, options.name, options.images, options.add, options.force)
    except Indistinguishable as error:
        complain(error)
        return 1
    except (BundleError, ClassesError, OSError) as error:
        complain(error)
        return 2
    lines = [json.dumps(record, ensure_ascii=False)] if options.json else lines_of(record)
    print(*map(printable, lines), sep="\n")
    return 0


def lines_of(record: dict[str, Any]) -> Iterator[str]:
    """The record of any of the three actions, in words."""
    return sentences(record) if "class" in record else list_lines(record)


if __name__ == "__main__":
    sys.exit(main())
