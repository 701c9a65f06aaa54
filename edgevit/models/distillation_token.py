"""Students with a distillation token: two heads in training, one output in inference."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from edgevit.artifacts import Frozen
from edgevit.errors import RecipeError
from edgevit.models.timm_models import ModelWrapper, model_config

Inference = Literal["mean_softmax", "mean_logits", "class", "distillation"]


class TwoLogits(NamedTuple):
    """The logits of both heads, each (batch, classes)."""

    class_logits: Tensor
    distillation_logits: Tensor


class DistillationToken(Frozen):
    """A student whose class head and distillation head are both trained."""

    change: Literal["distillation_token"] = "distillation_token"
    inference: Inference = "mean_softmax"

    def apply(self, model: nn.Module) -> nn.Module:
        """Wrap a timm model. Raises RecipeError if it has no distillation head."""
        if not has_distillation_token(model):
            raise RecipeError(
                f"{model_config(model)['architecture']} has no distillation head",
                got="distillation_token: true",
                expected="a model that has one, such as deit_tiny_distilled_patch16_224, or distillation_token: false",
            )
        return DistillationTokenModel(model, self.inference)


class DistillationTokenModel(ModelWrapper):
    """A timm model with a class head and a distillation head (DeiT, LeViT, PiT, RepViT, EfficientFormer, …).

    In training mode it gives the logits of both heads. In eval mode it gives one tensor, by `inference`:

    mean_softmax: log(½·softmax(a) + ½·softmax(b)), whose softmax is that mean: the paper's late fusion adds the two
    softmaxes (Touvron et al. 2021, section 4). mean_logits: ½·(a + b), as DeiT's code does. class or distillation: the
    logits of that head alone.
    """

    def __init__(self, model: nn.Module, inference: Inference = "mean_softmax") -> None:
        super().__init__(model)
        self.inference = inference
        model.set_distilled_training(True)  # type: ignore[operator]
        self.train(self.training)

    def forward(self, images: Tensor) -> TwoLogits | Tensor:
        heads = TwoLogits(*self.model(images))
        return heads if self.training else self.answer(heads)

    def answer(self, heads: TwoLogits) -> Tensor:
        """The logits in eval mode, (batch, classes)."""
        class_logits, distillation_logits = heads
        if self.inference == "mean_softmax":
            return log_mean_softmax(class_logits, distillation_logits)
        if self.inference == "mean_logits":
            mean: Tensor = (class_logits + distillation_logits) / 2
            return mean
        answer: Tensor = class_logits if self.inference == "class" else distillation_logits
        return answer

    def train(self, mode: bool = True) -> DistillationTokenModel:
        super().train(mode)
        # timm gives both heads only from a module in training mode. That module has neither dropout nor batch norm of
        # its own (its children have, and they keep `mode`), so it may always stay in training mode.
        for module in self.model.modules():
            if getattr(module, "distilled_training", False):
                module.training = True
        return self


def has_distillation_token(model: nn.Module) -> bool:
    """Whether this model was built with a distillation head: in some families only some models have one."""
    heads = (getattr(module, "head_dist", None) for module in model.modules())
    return any(head is not None and not isinstance(head, nn.Identity) for head in heads)


def log_mean_softmax(first: Tensor, second: Tensor) -> Tensor:
    """log(½·softmax(first) + ½·softmax(second)) over the last dimension, without under- or overflow."""
    log_probabilities = torch.stack([first.log_softmax(-1), second.log_softmax(-1)])
    return log_probabilities.logsumexp(0) - torch.log(torch.tensor(2.0, dtype=first.dtype, device=first.device))
