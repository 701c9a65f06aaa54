"""A student with pretrained weights, before its training.

Its classifier is not trained yet. Here it is random, has at least 64 outputs, and answers 0 to the mean feature.
So the SQNR of its logits is near that of the features without their mean.
"""

from __future__ import annotations

import torch

from edgevit.errors import RecipeError
from edgevit.models.checkpoints import load_weights
from edgevit.models.creation import BuiltModel, create_model
from edgevit.models.embedding import WithEmbedding, classifiers
from edgevit.models.weights_files import read_weights
from edgevit.selection.check_images import Batches
from edgevit.selection.records import Pretrained, Student

FEWEST_OUTPUTS = 64  # of the classifier: the SQNR of a few random directions would be that of chance


def pretrained_model(student: Student, pretrained: Pretrained) -> BuiltModel:
    """The student with its pretrained weights and a random classifier.

    Raises:
        ArtifactError: the weights cannot be read or fetched, or belong to another model.
    """
    outputs, is_timm = max(student.num_classes, FEWEST_OUTPUTS), pretrained.file is None
    built = create_model(student.model, outputs, student.image_size, student.model_args, pretrained=is_timm)
    if pretrained.file is not None:
        load_weights(built, read_weights(pretrained.file, None))
    return built


@torch.no_grad()
def set_centered_classifier(built: BuiltModel, batches: Batches) -> None:
    """Give a model a random classifier that answers 0 to the mean feature of images.

    A classifier that is no linear layer stays as it is.
    """
    try:
        linears = [linear for linear in classifiers(built.module) if isinstance(linear, torch.nn.Linear)]
    except RecipeError:
        return
    model = WithEmbedding(built.module)
    mean = torch.cat([model(torch.from_numpy(batch))[1] for batch in batches]).mean(0)
    generator = torch.Generator().manual_seed(0)
    for linear in linears:
        linear.weight.copy_(torch.randn(linear.weight.shape, generator=generator) / linear.in_features**0.5)
        linear.bias.copy_(-linear.weight @ mean)
