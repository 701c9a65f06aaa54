"""The data sets that a recipe may name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgevit.artifacts import ClassName, Frozen
from edgevit.configs.fields import Count, Fraction, GlyphCount, Seed, Side


class FewShotDraw(Frozen):
    """The block `few_shot` of a data set, which adds the roles support and pool to it.

    The support is a random draw of `shots` labelled training images per class, or all of them. The pool is the rest of
    the training images, without labels, and the images that have no labels. (The stage that adapts a model to a support
    is `Fewshot`.)
    """

    shots: Count | Literal["all"] = Field(
        5,
        description="Number of labelled images of each class. `all`: every labelled training image is in the support.",
    )
    draw: Seed = Field(0, description="Number of the random draw. Another number draws another support set.")


class Splits(Frozen):
    """Fractions of the splits, for a data set without splits of its own.

    The hash of its id decides the split of a sample, so that it stays there when samples are added. Every class is
    divided by the same fractions in expectation. A class that this leaves without an image in a split gets one there,
    if it has enough images.
    """

    val: Fraction = Field(0.1, description="Share of the images for the role `val`.")
    test: Fraction = Field(0.2, description="Share of the images for the role `test`.")
    seed: Seed = Field(0, description="Seed of the split. Another seed sends other images to `val` and `test`.")

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> Splits:
        if self.val + self.test >= 1:
            raise ValueError(f"val + test must be below 1, got {self.val + self.test:g}")
        return self


PathPattern = Annotated[str, Field(min_length=1, max_length=1000)]


class _Dataset(Frozen):
    few_shot: FewShotDraw | None = Field(
        None,
        description="Adds two roles: `support` has a few labelled images of each class, or all of them, and `pool` has "
        "the other training images without their labels.",
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
    include: tuple[PathPattern, ...] = Field(
        (), description="Patterns of image paths to keep, such as `**/Imgs/*.jpg`. All images are kept by default."
    )
    exclude: tuple[PathPattern, ...] = Field(
        (), description="Patterns of image paths to leave out, such as `*_old.png` or `rejected`."
    )
    masks: Literal["skip", "keep"] = Field(
        "skip",
        description="Treatment of images that have the name of another image and few gray values, as segmentation "
        "masks do. `skip`: they are named and left out.",
    )
    unlabelled: str | None = Field(
        None,
        description="Folder of images without labels for the role `pool`, absolute or relative to the recipe. By "
        "default, a folder `unlabelled` or `unlabeled` beside the class or split folders, or `pool` beside split "
        "folders.",
    )
    splits: Splits = Field(Splits(), description="Fractions for a folder that has no `train` folder.")

    @model_validator(mode="after")
    def _has_labels_beside_the_unlabelled(self) -> ImageFolder:
        if self.unlabelled is not None and self.classes == "none":
            raise ValueError("'unlabelled' goes with classes: top or leaf; with classes: none, no image has a label")
        return self


class Csv(EncodedImages):
    """Images that a CSV file lists: a path and a label in each row, and perhaps a split.

    Commas, semicolons or tabs separate the columns. The first row may name them. Rows with an empty label are images
    without labels, for the role `pool`.
    """

    source: Literal["csv"]
    path: str = Field(description="The CSV file in UTF-8, absolute or relative to the recipe.")
    images: str | None = Field(
        None,
        description="Folder that the paths in the file start from, absolute or relative to the recipe. By default, the "
        "folder of the file.",
    )
    image_column: str | None = Field(
        None, description="Name of the column of paths. By default, `image`, `path`, `file`, `filename` or the like."
    )
    label_column: str | None = Field(
        None, description="Name of the column of labels. By default, `label`, `class`, `category` or the like."
    )
    split_column: str | None = Field(
        None, description="Name of the column of splits (train, val or test). By default, `split`, `set` or `subset`."
    )
    splits: Splits = Field(Splits(), description="Fractions for a file that has no column of splits.")


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
    "csv": Csv,
    "webdataset": WebDataset,
    "huggingface": HuggingFace,
    "cifar10": Cifar,
    "cifar100": Cifar,
    "npz": Npz,
    "glyphs": Glyphs,
    "digits": Digits,
}

DatasetConfig = Annotated[
    ImageFolder | Csv | WebDataset | HuggingFace | Cifar | Npz | Glyphs | Digits, Field(discriminator="source")
]
