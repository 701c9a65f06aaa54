"""What goes to the device: a model and all that is needed to run it, without edgevit."""

from edgevit.bundling.build import check_bundle, write_bundle
from edgevit.bundling.classes import classes_since, enroll, named_by

__all__ = ["check_bundle", "classes_since", "enroll", "named_by", "write_bundle"]
