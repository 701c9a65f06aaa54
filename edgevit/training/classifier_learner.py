"""The learner of classifiers: supervised training, distillation, fine-tuning and quantization-aware training."""

from __future__ import annotations

from torch import Tensor, nn

from edgevit.artifacts import Preprocess
from edgevit.models.distillation_token import TwoLogits
from edgevit.training.distillation.feature_projectors import WithFeatures, without_projectors
from edgevit.training.loop.batches import Batch
from edgevit.training.loop.learner import Learner, Step
from edgevit.training.objectives import ObjectiveFunction, Outputs, heads_of


class ClassifierLearner(Learner):
    """A classifier that learns by an objective. It has no state beside its weights.

    Args:
        model: gives logits (batch, classes), TwoLogits in training mode, or WithFeatures.
        objective: the loss of the model's outputs for a batch. Its teacher is no part of the state.
        preprocess: the model's preprocessing of views.
    """

    def __init__(self, model: nn.Module, objective: ObjectiveFunction, preprocess: Preprocess) -> None:
        super().__init__(model, preprocess)
        self.objective = objective

    def forward(self, batch: Batch) -> Step:
        outputs = _float32(self.outputs_for(batch.views[0]))
        loss = self.objective(outputs, batch)
        answers, labels = heads_of(outputs)[0].detach().argmax(-1), batch.main_labels
        return Step(loss, (answers == labels).sum(), (labels >= 0).sum())  # an answer is never UNLABELLED

    def stripped(self, module: nn.Module) -> nn.Module:
        """The student without its projectors."""
        return without_projectors(module)


def _float32(outputs: Outputs) -> Outputs:
    """The outputs in float32 for the loss, whatever autocast returned."""
    if isinstance(outputs, WithFeatures):
        answer = _float32(outputs.answer)
        assert not isinstance(answer, WithFeatures)
        return WithFeatures(
            answer, {term: [feature_map.float() for feature_map in maps] for term, maps in outputs.features.items()}
        )
    if isinstance(outputs, TwoLogits):
        return TwoLogits(*(logits.float() for logits in outputs))
    floats: Tensor = outputs.float()
    return floats
