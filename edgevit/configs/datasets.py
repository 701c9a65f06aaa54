"""The data sets that a recipe may name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgevit.artifacts import ClassName, Frozen
from edgevit.configs.fields import Count, Fraction, GlyphCount, Seed, Side


class FewShotDraw(Frozen):
    """The block `few_shot` of a data set, which adds the roles support and pool to it.

    The support is a random draw of `shots` labelled training images per class. The pool is the rest of the training
    images, without labels. (The stage that adapts a model to a support is `Fewshot`.)
    """

    shots: Count = Field(5, description="Number of labelled images of each class.")
    draw: Seed = Field(0, description="Number of the random draw. Another number draws another support set.")


class Splits(Frozen):
    """Fractions of the splits, for a data set without splits of its own.

    The hash of its id decides the split of a sample, so that it stays there when samples are added. Every class is
    divided by the same fractions in expectation.
    """

    val: Fraction = Field(0.1, description="Share of the images for the role `val`.")
    test: Fraction = Field(0.2, description="Share of the images for the role `test`.")
    seed: Seed = Field(0, description="Seed of the split. Another seed sends other images to `val` and `test`.")

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> Splits:
        if self.val + self.test >= 1:
            raise ValueError(f"val + test must be below 1, got {self.val + self.test:g}")
        return self


class _Dataset(Frozen):
    few_shot: FewShotDraw | None = Field(
        None,
        description="Adds two roles: `support` has a few labelled images of each class, and `pool` has the other "
        "training images without their labels.",
    )
    include_classes: tuple[ClassName, ...] | None = Field(
        None, description="Names of the classes to keep. All classes are kept by default."
    )


class EncodedImages(_Dataset):
    """Data sets of image files, any of which may be damaged."""

    on_bad_image: Literal["skip", "refuse"] = Field(
        "skip",
        description="Treatment of an image that cannot be read. `skip`: it is named and left out. `refuse`: an error.",
    )


class ImageFolder(EncodedImages):
    """Images in folders: PATH/CLASS/…, or PATH/train/CLASS/… and the same for val and test.

    The split folders may have other usual names, such as Training, valid or dev.
    """

    source: Literal["image_folder"]
    path: str = Field(description="Folder of images, absolute or relative to the recipe.")
    classes: Literal["top", "leaf", "none"] = Field(
        "top",
        description="Folder level that names the class: the top level, or the folder that holds the image (`leaf`). "
        "With `none`, the images have no labels.",
    )
    include: tuple[str, ...] = Field(
        (), description="Patterns of the image paths to keep, such as `*/Imgs/*.jpg`. All images are kept by default."
    )
    exclude: tuple[str, ...] = Field((), description="Patterns of the image paths to leave out, such as `*_mask.png`.")
    unlabelled: str | None = Field(
        None,
        description="Folder of images without labels for the role `pool`, absolute or relative to the recipe. By "
        "default, a folder `unlabelled`, `unlabeled` or `pool` beside the split folders.",
    )
    splits: Splits = Field(Splits(), description="Fractions for a folder that has no `train` folder.")


class WebDataset(EncodedImages):
    """Tar shards in the layout of the webdataset package: KEY.jpg (or .png, …) beside KEY.cls or KEY.json.

    A shard belongs to the split that its path names last, as in train-0000.tar or val/0000.tar. Numbered classes take
    their names from the lines of classes.txt beside the shards, if there is one.
    """

    source: Literal["webdataset"]
    path: str = Field(
        description="Folder of .tar shards, or a pattern of their names, such as `shards/train-{0000..0012}.tar`."
    )
    labelled: bool = Field(True, description="Whether labels are read. With `false`, the images have no labels.")
    splits: Splits = Field(Splits(), description="Fractions for shards whose paths name no split.")


class HuggingFace(EncodedImages):
    """A Dataset or DatasetDict that the Hugging Face package `datasets` saved with save_to_disk.

    Needs the extra edgevit[huggingface]. Nothing is downloaded.
    """

    source: Literal["huggingface"]
    path: str = Field(description="Local folder that `save_to_disk` wrote, absolute or relative to the recipe.")
    image_column: str | None = Field(None, description="Name of the column of images. By default, `image` or `img`.")
    label_column: str | None = Field(
        None, description="Name of the column of labels. By default, `label`, `labels` or `fine_label`."
    )
    labelled: bool = Field(True, description="Whether labels are read. With `false`, the images have no labels.")
    splits: Splits = Field(Splits(), description="Fractions for a Dataset. A DatasetDict has its own splits.")


class Cifar(_Dataset):
    """CIFAR-10 or CIFAR-100 in the official Python format, from a local folder. Its md5 sums are checked."""

    source: Literal["cifar10", "cifar100"]
    path: str = Field(
        description="Folder that holds `cifar-10-batches-py` or `cifar-100-python`, absolute or relative to the recipe."
    )
    val_fraction: Fraction = Field(0.0, description="Share of the training images for the role `val`.")


class Npz(_Dataset):
    """Arrays `images` (N, H, W) or (N, H, W, C) in uint8 and `labels` (N,) in an .npz file.

    A role may stand before the names: `train_images`, `train_labels`, `test_images` and so on.
    """

    source: Literal["npz"]
    path: str = Field(description="The `.npz` file, absolute or relative to the recipe.")
    splits: Splits = Field(Splits(), description="Fractions for arrays whose names give no role.")


class Glyphs(_Dataset):
    """Characters without digits, rendered from the fonts of matplotlib. They come with edgevit."""

    source: Literal["glyphs"]
    samples_per_class: GlyphCount = Field(
        200, description="Number of training images of each character. A tenth as many images validate."
    )
    size: Side = Field(32, description="Side of the images in pixels.")
    seed: Seed = Field(0, description="Seed of the rendering.")


class Digits(_Dataset):
    """The 1,797 scanned digits of scikit-learn (8×8 pixels). A fixed half trains, and the other half tests."""

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
