"""The data sets that a recipe may name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgevit.artifacts import ClassName, Frozen
from edgevit.configs.fields import Count, Fraction, GlyphCount, Seed, Side


class FewShotDraw(Frozen):
    """A support set of `shots` labelled images a class. The other training images become the unlabelled pool."""

    shots: Count = Field(5, description="labelled images a class")
    draw: Seed = Field(0, description="which random draw of the support")


class Splits(Frozen):
    """Fractions of the splits, for a data set without splits of its own.

    The hash of its id decides the split of a sample, so that it stays there when samples are added. Every class is
    divided by the same fractions in expectation.
    """

    val: Fraction = 0.1
    test: Fraction = 0.2
    seed: Seed = 0

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> Splits:
        if self.val + self.test >= 1:
            raise ValueError(f"val + test must be below 1, got {self.val + self.test:g}")
        return self


class _Dataset(Frozen):
    few_shot: FewShotDraw | None = Field(None, description="adds the roles support and pool")
    include_classes: tuple[ClassName, ...] | None = Field(None, description="keep only these classes")


class EncodedImages(_Dataset):
    """Base of data sets of picture files, which may be damaged."""

    on_bad_image: Literal["skip", "refuse"] = Field("skip", description="treatment of a file that cannot be read")


class ImageFolder(EncodedImages):
    """Pictures in folders: PATH/{train,val,test}/CLASS/… (also Training, valid, dev) or PATH/CLASS/…"""

    source: Literal["image_folder"]
    path: str = Field(description="folder, absolute or relative to the recipe")
    classes: Literal["top", "leaf", "none"] = Field(
        "top", description="the folder level that names the class; none: pictures without labels"
    )
    splits: Splits = Field(Splits(), description="used if PATH has no folder of training images")


class WebDataset(EncodedImages):
    """Tar shards in the layout of the webdataset package: KEY.jpg (or .png, …) beside KEY.cls or KEY.json.

    A shard belongs to the split that its path names last, as in train-0000.tar or val/0000.tar. Numbered classes take
    their names from the lines of classes.txt beside the shards, if there is one.
    """

    source: Literal["webdataset"]
    path: str = Field(description="folder of .tar shards, or their names, such as shards/train-{0000..0012}.tar")
    labelled: bool = Field(True, description="false: ignore the labels")
    splits: Splits = Field(Splits(), description="used if no path of a shard names train, val or test")


class HuggingFace(EncodedImages):
    """A Dataset or DatasetDict that the Hugging Face package `datasets` saved with save_to_disk.

    Needs the extra edgevit[huggingface]. Nothing is downloaded.
    """

    source: Literal["huggingface"]
    path: str = Field(description="the local folder that save_to_disk wrote")
    image_column: str | None = Field(None, description="by default image or img")
    label_column: str | None = Field(None, description="by default label, labels or fine_label")
    labelled: bool = Field(True, description="false: ignore the labels")
    splits: Splits = Field(Splits(), description="used for a Dataset; a DatasetDict has its own")


class Cifar(_Dataset):
    """CIFAR-10 or CIFAR-100 in the official python format, from a local folder; md5 sums are checked."""

    source: Literal["cifar10", "cifar100"]
    path: str = Field(description="folder that holds cifar-10-batches-py or cifar-100-python")
    val_fraction: Fraction = 0.0


class Npz(_Dataset):
    """Arrays `images` (N,H,W[,C]) uint8 and `labels` (N,), or with a role in front: train_images, …"""

    source: Literal["npz"]
    path: str = Field(description="the .npz file")
    splits: Splits = Splits()


class Glyphs(_Dataset):
    """Characters without digits, rendered from matplotlib's fonts with a seed."""

    source: Literal["glyphs"]
    samples_per_class: GlyphCount = Field(
        200, description="training images of each character; a tenth as many for validation"
    )
    size: Side = Field(32, description="side in pixels")
    seed: Seed = 0


class Digits(_Dataset):
    """scikit-learn's 1,797 scanned handwritten digits (8×8): a fixed half to train, the other half to test."""

    source: Literal["digits"]


DATASETS: dict[str, type[Frozen]] = {
    "image_folder": ImageFolder,
    "webdataset": WebDataset,
    "huggingface": HuggingFace,
    "cifar10": Cifar,
    "cifar100": Cifar,
    "npz": Npz,
    "glyphs": Glyphs,
    "digits": Digits,
}

DatasetConfig = Annotated[
    ImageFolder | WebDataset | HuggingFace | Cifar | Npz | Glyphs | Digits, Field(discriminator="source")
]
