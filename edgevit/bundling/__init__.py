"""Bundles: folders for the device, with a model and all that is needed to run it without edgevit."""

from edgevit.bundling.build import write_bundle
from edgevit.bundling.check import check_bundle, check_engine_bundle
from edgevit.bundling.classes import ClassImages, class_images, classes_since, enroll, named_by
from edgevit.bundling.portable_model import model_to_bundle
from edgevit.bundling.web import Page, check_page_runtime, runtime_files

__all__ = [
    "ClassImages",
    "Page",
    "check_bundle",
    "check_engine_bundle",
    "check_page_runtime",
    "class_images",
    "classes_since",
    "enroll",
    "model_to_bundle",
    "named_by",
    "runtime_files",
    "write_bundle",
]
