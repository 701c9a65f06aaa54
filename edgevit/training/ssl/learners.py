"""The learners of self-supervised pre-training: DINO, SimCLR, MAE, BYOL and MoCo."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import ClassVar

import torch
from timm.layers import PatchEmbed
from timm.models import checkpoint_seq
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from edgevit.configs import Byol, Dino, Mae, Moco, SimClr
from edgevit.data.transforms import normalize
from edgevit.errors import RecipeError, TrainingError
from edgevit.inference.precision import autocast
from edgevit.models.creation import BuiltModel
from edgevit.models.timm_models import timm_model
from edgevit.training.distributed import processes
from edgevit.training.loop.batches import Batch, seed_of
from edgevit.training.loop.learner import Learner, Step
from edgevit.training.ssl import losses
from edgevit.training.ssl.heads import PatchDecoder, PrototypeHead, projector
from edgevit.training.ssl.momentum import momentum_for, student_weight

# Collapse is judged after this share of the training.
JUDGED_AFTER = 0.25
LEAST_SPREAD = 0.002
LEAST_ENTROPY, LARGEST_ENTROPY = 0.02, 0.999
CENTER_AT_ITS_START = 0.1  # weight of the start in the moving mean
NO_SAMPLE = -1  # in place of a sample, beside a random key of a new queue


class SelfSupervised(Learner):
    """Base of the learners: a backbone that is trained, with heads that are dropped afterwards.

    Views keep their own sizes. Heads have initial weights drawn from `seed`.
    """

    takes_parts = False
    advice = "a lower learning_rate, a larger batch_size"

    def __init__(self, built: BuiltModel, seed: int) -> None:
        super().__init__(built.module, built.preprocess)
        self.seed = seed
        self.width = self._width()

    def images_of(self, view: Tensor) -> Tensor:
        """A view (n, H, W, 3) as input (n, 3, H, W) of its own size."""
        size = {"height": view.shape[1], "width": view.shape[2]}
        return normalize(view, self.preprocess.model_copy(update=size)).contiguous(memory_format=self._layout)

    def embeddings(self, model: nn.Module, views: Sequence[Tensor]) -> Tensor:
        """The input of the classifier for each view (n, H, W, 3): (views, n, width) float32.

        Successive views of one size pass through the model together.
        """
        outputs = []
        for _, group in groupby(views, key=lambda view: view.shape):
            alike = list(group)
            images = self.images_of(torch.cat(alike))
            with autocast(images.device, self._precision):
                found: Tensor = embedding_of(model, images)
            outputs.append(found.float().view(len(alike), -1, found.shape[-1]))
        return torch.cat(outputs)

    def check(self, means: Mapping[str, float], done: float, where: str) -> None:
        """Raise TrainingError if all outputs, or all embeddings, point in one direction."""
        for name in ("spread", "embedding_spread"):
            if done >= JUDGED_AFTER and means.get(name, 1.0) < LEAST_SPREAD:
                raise self.collapsed(f"{name} {means[name]:.2g}", f"{name} over {LEAST_SPREAD:g}", where)

    def collapsed(self, got: str, expected: str, where: str) -> TrainingError:
        """The error for outputs that no longer depend on the image."""
        return TrainingError(
            "pre-training collapsed: the outputs hardly depend on the image",
            where=where,
            got=got,
            expected=expected,
            next=self.advice,
        )

    @torch.no_grad()
    def _width(self) -> int:
        image = torch.zeros(1, 3, self.preprocess.height, self.preprocess.width)
        return int(embedding_of(self.model.eval(), image).shape[1])


class SimClrLearner(SelfSupervised):
    """SimCLR: two views of an image attract each other, and views of other images repel (Chen et al. 2020).

    The projector has no batch normalization. On several ranks, the images of all ranks repel each other.
    """

    advice = "color changes in augmentation (color_jitter, grayscale), a larger batch_size, a lower learning_rate"

    def __init__(self, built: BuiltModel, config: SimClr, seed: int) -> None:
        super().__init__(built, seed)
        self.temperature = config.temperature
        with seeded(seed):
            self.projector = projector([self.width, self.width, config.dimensions])

    def forward(self, batch: Batch) -> Step:
        embeddings = self.embeddings(self.model, batch.views)
        own: Tensor = self.projector(embeddings)
        of_all_ranks = processes.gathered_rows(own.transpose(0, 1)).transpose(0, 1)
        samples = processes.gathered_rows(batch.samples)
        loss = losses.nt_xent(own, of_all_ranks, samples, processes.rank() * own.shape[1], self.temperature)
        return Step(loss, means=watched(own[0], embeddings[0]))


class MaeLearner(SelfSupervised):
    """MAE: the pixels of masked patches from the visible patches; the encoder sees these alone (He et al. 2022)."""

    takes_parts = True

    @property
    def encoder(self) -> VisionTransformer:
        """The plain ViT inside `model`."""
        return plain_vit(self.model)

    def __init__(self, built: BuiltModel, config: Mae, seed: int) -> None:
        super().__init__(built, seed)
        plain_vit(self.model)
        self.patch: tuple[int, int] = self.encoder.patch_embed.patch_size
        patches = self.encoder.patch_embed.num_patches
        self.visible = max(1, round(patches * (1 - config.masked)))
        if self.visible == patches:
            raise RecipeError(
                "no patch would be masked", got=f"masked: {config.masked:g} of {patches} patches", next="a larger share"
            )
        with seeded(seed):
            self.decoder = PatchDecoder(
                self.encoder.embed_dim,
                self.encoder.patch_embed.grid_size,
                3 * self.patch[0] * self.patch[1],
                config.decoder_width,
                config.decoder_depth,
            )

    def forward(self, batch: Batch) -> Step:
        images = self.images_of(batch.views[0])
        patches = self.encoder.patch_embed.num_patches
        order = torch.rand(len(images), patches, device=images.device).argsort(1)
        visible, masked = order[:, : self.visible], order[:, self.visible :]
        with autocast(images.device, self._precision):
            prefix, tokens = self._encoded(images, visible)
            predicted = self.decoder(prefix, tokens, visible)
        return Step(losses.masked_patch_error(predicted.float(), images, masked, self.patch))

    def _encoded(self, images: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """The prefix tokens, and the tokens of the visible patches."""
        vit, count = self.encoder, self.encoder.num_prefix_tokens
        tokens = vit._pos_embed(vit.patch_embed(images))
        index = visible.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
        tokens = torch.cat([tokens[:, :count], tokens[:, count:].gather(1, index)], 1)
        tokens = vit.norm_pre(tokens)
        tokens = checkpoint_seq(vit.blocks, tokens) if vit.grad_checkpointing else vit.blocks(tokens)
        tokens = vit.fc_norm(vit.norm(tokens))  # a ViT with average pooling has its normalization in fc_norm
        return tokens[:, :count], tokens[:, count:]


class WithMovingTeacher(SelfSupervised):
    """Base of the learners with a teacher: a moving average of the student, without gradients.

    The teacher is in eval mode, so it has no dropout. Its batch normalization is in the mode of the student's, so
    frozen statistics stay frozen.

    Args:
        momentum: that of the recipe; None for `momentum_for` the number of steps.
    """

    papers_momentum: ClassVar[float] = 0.996
    rises: ClassVar[bool] = True
    averages_statistics: ClassVar[bool] = False

    def __init__(self, built: BuiltModel, momentum: float | None, seed: int) -> None:
        super().__init__(built, seed)
        self.momentum = momentum

    def add_teacher(self, head: nn.Module) -> None:
        """Add the teacher as a copy of the student and of its head."""
        self.head = head
        self.teacher = copy.deepcopy(self.model).requires_grad_(False)
        self.teacher_head = copy.deepcopy(head).requires_grad_(False)

    @torch.no_grad()
    def of_teacher(self, views: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The teacher's embeddings of the views, and the outputs of its head: (views, n, …) each."""
        for teacher, student in self._pairs():
            set_teacher_mode(teacher, student, batch_statistics=not self.averages_statistics)
        embeddings = self.embeddings(self.teacher, views)
        return embeddings, torch.stack([self.teacher_head(embedding) for embedding in embeddings])

    @torch.no_grad()
    def after_step(self, step: int, total: int) -> None:
        """Move the teacher."""
        momentum = momentum_for(self.papers_momentum, self.rises, total) if self.momentum is None else self.momentum
        weight = student_weight(momentum, self.rises, step, total)
        for teacher, student in self._pairs():
            torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), weight=weight)
            if self.averages_statistics:
                move_statistics(teacher, student, weight)

    def _pairs(self) -> tuple[tuple[nn.Module, nn.Module], tuple[nn.Module, nn.Module]]:
        return (self.teacher, self.model), (self.teacher_head, self.head)


class DinoLearner(WithMovingTeacher):
    """DINO: the student gives each view the answer of the teacher for another global view (Caron et al. 2021).

    The teacher is the result, as in the paper.
    """

    center: Tensor
    advice = (
        "center_momentum 0.9, teacher_temperature from 0.02 to 0.07 and below student_temperature, a lower "
        "learning_rate, a larger batch_size"
    )

    def __init__(self, built: BuiltModel, config: Dino, global_views: int, seed: int) -> None:
        super().__init__(built, config.momentum, seed)
        self.config, self.global_views = config, global_views
        with seeded(seed):
            self.add_teacher(PrototypeHead(self.width, config.prototypes, config.hidden, config.bottleneck))
        self.register_buffer("center", torch.zeros(config.prototypes))
        self._batch_mean, self._steps = self.center, 0

    def forward(self, batch: Batch) -> Step:
        learns_prototypes = batch.done >= self.config.fixed_prototypes
        student = self.head(self.embeddings(self.model, batch.views), learns_prototypes)
        embeddings, teacher = self.of_teacher(batch.views[: self.global_views])
        temperature = self._teacher_temperature(batch.done)
        loss = losses.dino_cross_entropy(student, teacher, self.center, self.config.student_temperature, temperature)
        self._batch_mean = processes.mean_over_ranks(teacher.mean((0, 1)))
        answers = ((teacher[0] - self.center) / temperature).softmax(-1)
        means = {
            "entropy": losses.entropy(answers).mean(),
            "entropy_of_mean": losses.entropy(processes.mean_over_ranks(answers.mean(0))),
        }
        return Step(loss, means={**means, **watched(teacher[0], embeddings[0])})

    def result(self) -> nn.Module:
        return self.teacher

    def after_step(self, step: int, total: int) -> None:
        """Move the teacher, and the center (eq. 4)."""
        super().after_step(step, total)
        self._steps = step
        self.center.lerp_(self._batch_mean, 1 - self.config.center_momentum)

    def check(self, means: Mapping[str, float], done: float, where: str) -> None:
        if done >= JUDGED_AFTER and self._center_has_settled():
            self._check_entropies(means, where)
        super().check(means, done, where)

    def _check_entropies(self, means: Mapping[str, float], where: str) -> None:
        if means["entropy_of_mean"] < LEAST_ENTROPY:
            raise self.collapsed("one answer for all images", f"entropy_of_mean over {LEAST_ENTROPY:g}", where)
        if means["entropy"] > LARGEST_ENTROPY:
            raise self.collapsed("a uniform answer for all images", f"entropy below {LARGEST_ENTROPY:g}", where)

    def _center_has_settled(self) -> bool:
        """Whether the center has left its start at 0, or is to stay there. Before, one prototype may lead by chance."""
        momentum = self.config.center_momentum
        return momentum == 1 or momentum**self._steps < CENTER_AT_ITS_START

    def _teacher_temperature(self, done: float) -> float:
        """It rises linearly over the first tenth of the training."""
        first, last = min(0.04, self.config.teacher_temperature), self.config.teacher_temperature
        return first + (last - first) * min(1.0, 10 * done)


class ByolLearner(WithMovingTeacher):
    """BYOL: a predictor turns the output for one view into the teacher's output for the other (Grill et al. 2020).

    The student is the result (section 3.1). The heads normalize the batch of each view alone.
    """

    advice = "momentum from 0.99 to 0.999, a larger batch_size, a lower learning_rate"

    def __init__(self, built: BuiltModel, config: Byol, seed: int) -> None:
        super().__init__(built, config.momentum, seed)
        with seeded(seed):
            self.add_teacher(projector([self.width, config.hidden, config.dimensions], normalized=True))
            self.predictor = projector([config.dimensions, config.hidden, config.dimensions], normalized=True)

    def forward(self, batch: Batch) -> Step:
        embeddings = self.embeddings(self.model, batch.views)
        predicted = torch.stack([self.predictor(self.head(embedding)) for embedding in embeddings])
        _, target = self.of_teacher(batch.views)
        return Step(losses.byol_distance(predicted, target), means=watched(target[0], embeddings[0]))


class MocoLearner(WithMovingTeacher):
    """MoCo: a query finds its key among the keys of earlier batches, which a queue holds (He et al. 2020).

    The projector is that of MoCo v2 (Chen et al. 2020). The teacher's momentum is constant. The student is the result.

    The paper shuffles batch normalization over GPUs: a query and its key would share batch statistics, which tell the
    key from those in the queue. Here the teacher normalizes by moving averages of the student's running statistics
    (Cai et al. 2021, EMAN). A key of the query's own image from an earlier pass is no negative.
    """

    papers_momentum = 0.999
    rises = False
    averages_statistics = True
    queue: Tensor
    queued_samples: Tensor
    advice = "momentum from 0.99 to 0.9999, a longer queue, a lower learning_rate"

    def __init__(self, built: BuiltModel, config: Moco, seed: int) -> None:
        super().__init__(built, config.momentum, seed)
        self.temperature = config.temperature
        with seeded(seed):
            self.add_teacher(projector([self.width, self.width, config.dimensions]))
            self.register_buffer("queue", functional.normalize(torch.randn(config.queue, config.dimensions), dim=1))
        self.register_buffer("queued_samples", torch.full((config.queue,), NO_SAMPLE))
        self._keys, self._samples = self.queue[:0], self.queued_samples[:0]

    def forward(self, batch: Batch) -> Step:
        embeddings = self.embeddings(self.model, batch.views[:1])[0]
        keys = self.of_teacher(batch.views[1:])[1][0]
        self._keys = processes.gathered_rows(functional.normalize(keys, dim=1))
        self._samples = processes.gathered_rows(batch.samples)
        is_own = batch.samples.unsqueeze(1) == self.queued_samples
        loss = losses.info_nce(self.head(embeddings), keys, self.queue, is_own, self.temperature)
        return Step(loss, means=watched(keys, embeddings))

    def after_step(self, step: int, total: int) -> None:
        """Move the teacher, and put the batch's keys in place of the oldest keys."""
        super().after_step(step, total)
        self.queue.copy_(torch.cat([self._keys, self.queue])[: len(self.queue)])
        self.queued_samples.copy_(torch.cat([self._samples, self.queued_samples])[: len(self.queue)])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Context in which initial weights of heads are drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "heads"))
        yield


def embedding_of(model: nn.Module, images: Tensor) -> Tensor:
    """The input of a timm model's classifier for images (n, 3, H, W): (n, width)."""
    inner = timm_model(model)
    embedding: Tensor = inner.forward_head(inner.forward_features(images), pre_logits=True)  # type: ignore[operator]
    return embedding


def plain_vit(model: nn.Module) -> VisionTransformer:
    """The plain ViT inside a model, whose patches can be masked. Raises RecipeError for another model."""
    inner = timm_model(model)
    if not isinstance(inner, VisionTransformer) or not _masks_its_patches(inner):
        stem = f" with {type(inner.patch_embed).__name__}" if isinstance(inner, VisionTransformer) else ""
        raise RecipeError(
            "mae masks the patches of a plain ViT, and this is another model",
            got=f"{type(inner).__name__}{stem}",
            expected="a ViT such as vit_small_patch16_224 or deit_tiny_patch16_224",
            next="take method: dino or simclr, which fit any backbone",
        )
    return inner


def _masks_its_patches(vit: VisionTransformer) -> bool:
    is_plain = vit.pos_embed is not None and type(vit.blocks) is nn.Sequential
    return is_plain and type(vit.patch_embed) is PatchEmbed


def set_teacher_mode(teacher: nn.Module, student: nn.Module, batch_statistics: bool) -> None:
    """Set a teacher to eval mode; with `batch_statistics`, its batch normalization to the mode of the student's."""
    teacher.eval()
    if batch_statistics:
        for module, of_student in zip(teacher.modules(), student.modules(), strict=True):
            if isinstance(module, _BatchNorm):
                module.train(of_student.training)


def move_statistics(teacher: nn.Module, student: nn.Module, weight: float) -> None:
    """Move the buffers of a teacher, such as running statistics, toward the student's, with the student's weight."""
    for own, of_student in zip(teacher.buffers(), student.buffers(), strict=True):
        if own.is_floating_point():
            own.lerp_(of_student, weight)
        else:
            own.copy_(of_student)


def watched(outputs: Tensor, embeddings: Tensor) -> dict[str, Tensor]:
    """The measures of collapse that every row of the log holds, over the samples of all ranks.

    Args:
        outputs: of a head, (n, dimensions).
        embeddings: of the backbone that is the result, (n, width).
    """
    outputs, embeddings = (processes.gathered_rows(rows.detach()) for rows in (outputs, embeddings))
    return {
        "spread": losses.spread(outputs),
        "rank": losses.rank(outputs),
        "embedding_spread": losses.spread(embeddings),
        "embedding_rank": losses.rank(embeddings),
    }
