"""quantize: ONNX → ONNX with Q/DQ, close to float and, if it is timed, faster or small enough; or the float model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from onnx import ModelProto

from edgevit.artifacts import SENSITIVITY, Artifact, Contents
from edgevit.configs import Quantize
from edgevit.configs.runtimes import TENSORRT
from edgevit.configs.targets import LOCAL_CPU
from edgevit.context import Context, usable_cpus
from edgevit.data import Dataset, open_dataset
from edgevit.errors import ArtifactError, DataError, listed
from edgevit.graphs.files import onnx_file, read_onnx
from edgevit.graphs.guard import with_functions_inlined
from edgevit.graphs.tensors import with_stored_constants
from edgevit.graphs.walk import nodes
from edgevit.progress import Progress
from edgevit.provenance import learned_from
from edgevit.quantization import calibration_doubts, choose_images, image_batches, images_beside
from edgevit.quantization.bias_correction import BiasCorrection
from edgevit.quantization.candidates import CandidateWriter, Trial, TrialRunner
from edgevit.quantization.gate import Validation
from edgevit.quantization.overflow import overflows_here, overflows_on, reduced_text
from edgevit.quantization.preparation import prepared
from edgevit.quantization.sensitivity import Sensitivity, sensitivity_table
from edgevit.runtimes.base import HostSession, SessionOptions, carried_cost, fixed_batch, random_images
from edgevit.runtimes.onnxruntime.engine import OWN_LAYOUT
from edgevit.runtimes.sessions import open_session
from edgevit.stages.engine_forms import engine_forms
from edgevit.stages.trial_engines import ENGINES, engine_builder, kept_logs
from edgevit.targets import Target, target_for


def run(config: Quantize, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    model, dataset = inputs["model"], open_dataset(inputs["calibration"])
    source = with_stored_constants(with_functions_inlined(read_onnx(onnx_file(model)), config.id))
    _refuse_compiled(source, model)
    chosen = choose_images(dataset, config.calibration_images, config.seed, context.progress)
    calibration, held_out = (
        image_batches(dataset, positions, model.io, context.progress, title)
        for positions, title in ((chosen.calibration, "calibrate"), (chosen.held_out, "compare with float"))
    )
    doubts = calibration_doubts(dataset, chosen, model.io, config.id, context.progress)
    images = list(held_out())
    if doubts:
        images.append(random_images(model.io, fixed_batch(model.io) or len(images[0])))
        context.progress.say(f"    {config.id}: the SQNR gate uses seeded random images, too")
    target = target_for(config.target, context)
    config = with_decided_range(config, target, context.progress)
    reference = open_session(model, SessionOptions(threads=usable_cpus()))
    threads, progress = usable_cpus(), context.progress
    correction = BiasCorrection(calibration, threads, progress) if config.bias_correction else None
    used = dataset.subset(np.asarray([*chosen.calibration, *chosen.held_out]))
    learned = _learned_validation(config, inputs, context)
    validation = _validation(config, inputs, used, reference, context)
    prepare = partial(
        prepared,
        source,
        reference,
        calibration,
        images,
        correction=correction,
        threads=threads,
        progress=progress,
        validation=validation,
    )
    ready, sensitivities = prepare(config)
    with TemporaryDirectory() as folder:
        writer = CandidateWriter(
            source,
            model.model_file.weight_precision,
            ready,
            model.io,
            Path(folder),
            config.floor_db,
            sensitivity_table(ready, sensitivities),
            correction,
        )
        runner = TrialRunner(
            reference,
            images,
            partial(_advice, config, sensitivities),
            target,
            config.threads,
            threads,
            gate_on_target=config.target != LOCAL_CPU,
            validation=validation,
            most_bytes=config.most_bytes,
        )
        if config.is_timed and config.runtime == TENSORRT.name:
            engine = engine_builder(config, context, out / ENGINES)
            runner = replace(runner, deployed=lambda form: engine(form.name, form.artifact))
            best, trials = runner.best_of(engine_forms(config, writer, runner.target, prepare, context), progress)
        else:
            best, trials = _best_trial(config, writer, runner, progress)
        shutil.copyfile(best.candidate.file, out / "model.onnx")
    if table := best.candidate.sensitivity:
        (out / SENSITIVITY).write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    metrics = {
        **carried_cost(model),
        "size_bytes": (out / "model.onnx").stat().st_size,
        "precision": best.candidate.model_file.precision,
        **({"reduce_range": True} if ready.dialect.reduce_range and best.candidate.is_quantized else {}),
        "form": best.candidate.name,
        "kept_float": best.candidate.kept_float,
        "quantized_ops": best.candidate.quantized_ops,
        "float_ops": best.candidate.float_ops,
        "calibration_images": len(chosen.calibration),
    }
    return Contents(
        kind="onnx",
        metrics=metrics,
        # Not part of the result: the last digits depend on the number of threads and vary between runs.
        log_metrics={
            **best.compared,
            **({"validation_learned_by": learned} if learned else {}),
            **({"forms": [trial.as_json() for trial in trials]} if trials else {}),
        },
        logs=(*([SENSITIVITY] if table else []), *kept_logs(out)),
        io=model.io,
        model_file=best.candidate.model_file,
    )


def _learned_validation(config: Quantize, inputs: Mapping[str, Artifact], context: Context) -> str | None:
    """The id of a stage behind the model that learned from the validation images; None if none did. A note says so."""
    stage = learned_from(inputs["model"], inputs["validation"]) if config.validation else None
    if stage:
        learned = f"'{stage}' learned from {config.validation}"
        context.progress.say(f"note: {config.id}: {learned}, so fewer answers may change there than on new images")
    return stage


def _validation(
    config: Quantize, inputs: Mapping[str, Artifact], used: Dataset, reference: HostSession, context: Context
) -> Validation | None:
    """The images on which answers are compared with the float model's; None if the stage names none.

    Images in `used`, for the ranges or the SQNR, are left out, unless no other is left.

    Raises:
        DataError: the stage has a limit on the loss of top-1, and the images have no labels.
    """
    if config.validation is None:
        return None
    dataset = open_dataset(inputs["validation"])
    if config.max_top1_drop is not None and dataset.labels is None:
        raise DataError(
            "max_top1_drop is measured on labelled images",
            where=config.id,
            got=f"{dataset.name}, without labels",
            next="give labelled images as 'validation', or leave max_top1_drop out",
        )
    beside = images_beside(dataset, used)
    if not len(beside):
        images = f"every image of {dataset.name} is used for the ranges or the SQNR, too"
        context.progress.say(f"note: {config.id}: {images}, so fewer answers may change there than on new images")
    return Validation(beside or dataset, reference, config.largest_top1_drop, config.seed, context.progress)


def with_decided_range(config: Quantize, target: Target, progress: Progress) -> Quantize:
    """The stage with its `reduce_range` decided: where products of 8 bits overflow, here or on the target."""
    if config.precision != "int8" or config.reduce_range is not None:
        return config
    if overflows_here(config.runtime):
        place = "this CPU"
    elif config.target != LOCAL_CPU and overflows_on(target, config.runtime):
        place = config.target
    else:
        return config.model_copy(update={"reduce_range": False})
    progress.say(f"    {config.id}: {reduced_text(place)}")
    return config.model_copy(update={"reduce_range": True})


def _refuse_compiled(source: ModelProto, model: Artifact) -> None:
    """Refuse a file that ONNX Runtime optimized for one machine: INT8 made from it would run only there too."""
    if model.is_compiled or any(node.domain == OWN_LAYOUT for node in nodes(source)):
        next_step = "quantize the file it was compiled from, then compile that"
        raise ArtifactError("the model was compiled for one machine", where=onnx_file(model), next=next_step)


def _best_trial(
    config: Quantize, writer: CandidateWriter, runner: TrialRunner, progress: Progress
) -> tuple[Trial, list[Trial]]:
    """The trial of the candidate that ships, and all timed trials; none are timed at a fixed placement."""
    if config.is_timed:
        return runner.best_of(writer.candidates(), progress, Trial(writer.float_candidate()))
    candidate = writer.quantized_candidate(config.placement if config.placement != "fastest" else "all")
    trial = runner.compared(candidate)
    if trial.change is not None:
        progress.say(f"    {trial.sentence()}")
    return trial.passed(), []


def _advice(config: Quantize, sensitivities: Sequence[Sensitivity], refused_by: Sequence[str]) -> str:
    """The next step for a form that the gates with these options refuse, and the layers that cost most."""
    if config.calibrator == "trained" and "max_top1_drop" in refused_by:
        return "give the qat stage more epochs, or raise max_top1_drop"
    if config.calibrator == "trained":
        return "lower min_sqnr_db if its accuracy is good: a model trained to be rounded need not answer alike in float"
    is_unsmoothed = config.smoothquant == 0 and config.precision == "int8"
    steps = [
        *(["leave smoothquant: 0 out if a layer norm has outlier channels"] if is_unsmoothed else []),
        *(["calibrate on more images of the kind the model will see"] if config.precision != "int4" else []),
        *(["set bias_correction: true"] if not config.bias_correction else []),
        "take calibrator: percentile" if config.precision == "int8" else "take precision: int8",
    ]
    costly = [layer.node for layer in sensitivities]
    return ", or ".join(steps) + (f"; the layers that cost most are {listed(costly, shown=3)}" if costly else "")
