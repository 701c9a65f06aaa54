"""A learning rate for a stage of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgevit.artifacts import Artifact
from edgevit.configs import Distill, Fewshot, Pretrain, Qat, Train
from edgevit.context import Context
from edgevit.errors import RecipeError, did_you_mean
from edgevit.fewshot.adapt import task_of
from edgevit.fewshot.finetuning import finetuning_setup
from edgevit.models.checkpoints import open_to_train
from edgevit.pipeline import finished_inputs
from edgevit.recipe import Recipe
from edgevit.training.loop.lr_finder import STEPS, RangeTest, range_test
from edgevit.training.loop.setup import TrainingSetup, distillation_setup, supervised_setup
from edgevit.training.qat import quantization_aware_setup

TrainedBySteps = Train | Distill | Qat | Fewshot


def lr_find(recipe: Recipe, base: Path, runs: Path, context: Context, stage_id: str, steps: int = STEPS) -> RangeTest:
    """The range test of a stage, on the inputs that `edgevit run` has made for it; nothing is written to the store.

    Raises:
        RecipeError: there is no such stage, or it has no learning rate.
        ArtifactError: a stage that it needs is not finished.
    """
    config = _stage_with_a_rate(recipe, stage_id)
    inputs, context = finished_inputs(recipe, base, runs, context, config)
    return range_test(_setup(config, inputs, context), config, context, steps=steps)


def _stage_with_a_rate(recipe: Recipe, stage_id: str) -> TrainedBySteps:
    known = {config.id: config for config in recipe.stages}
    fitting = {
        name: config for name, config in known.items() if isinstance(config, TrainedBySteps) and _has_rate(config)
    }
    if stage_id in fitting:
        return fitting[stage_id]
    expected = (
        f"one of {', '.join(fitting)}" if fitting else "a stage train, distill, qat, or fewshot with method: finetune"
    )
    if stage_id not in known:
        hint = did_you_mean(stage_id, fitting) or ""
        raise RecipeError(f"there is no stage '{stage_id}'. {hint}".rstrip(), expected=expected)
    stage = known[stage_id]
    if isinstance(stage, Pretrain):
        what = "a stage pretrain: its loss does not tell good learning rates from bad ones"
    else:
        reason = "only its method finetune has one" if isinstance(stage, Fewshot) else "it does not train"
        what = f"a stage {stage.name()} without a learning rate: {reason}"
    raise RecipeError(f"this is {what}", where=f"stage '{stage_id}'", expected=expected)


def _has_rate(config: TrainedBySteps) -> bool:
    return not isinstance(config, Fewshot) or config.method == "finetune"


def _setup(config: TrainedBySteps, inputs: Mapping[str, Artifact], context: Context) -> TrainingSetup:
    if isinstance(config, Train):
        return supervised_setup(config, inputs)
    if isinstance(config, Distill):
        return distillation_setup(config.model_copy(update={"teacher_cache": None}), inputs, context)[0]
    if isinstance(config, Qat):
        return quantization_aware_setup(config.model_copy(update={"teacher_cache": None}), inputs, context)[0]
    return finetuning_setup(open_to_train(inputs["model"], config.model_rates), task_of(inputs), config, context)
