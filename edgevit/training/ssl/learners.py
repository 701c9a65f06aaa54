"""The learner of each method."""

from __future__ import annotations

from edgevit.configs import (
    Byol,
    Dino,
    EsVit,
    Fcmae,
    Jigsaw,
    Mae,
    Moco,
    Pirl,
    Pretrain,
    Rotation,
    SimClr,
    Sit,
)
from edgevit.models.creation import BuiltModel
from edgevit.training.ssl.byol import ByolLearner
from edgevit.training.ssl.dino import DinoLearner
from edgevit.training.ssl.esvit import EsVitLearner
from edgevit.training.ssl.fcmae import FcmaeLearner
from edgevit.training.ssl.jigsaw import JigsawLearner
from edgevit.training.ssl.mae import MaeLearner
from edgevit.training.ssl.moco import MocoLearner
from edgevit.training.ssl.pirl import PirlLearner
from edgevit.training.ssl.rotation import RotationLearner
from edgevit.training.ssl.self_supervised import SelfSupervised
from edgevit.training.ssl.simclr import SimClrLearner
from edgevit.training.ssl.sit import SitLearner


def learner_for(config: Pretrain, start: BuiltModel, images: int) -> SelfSupervised:
    """The learner of the stage's method, for a number of images.

    Raises RecipeError if the method cannot use the backbone.
    """
    method, seed = config.method, config.seed
    match method:
        case Dino():
            return DinoLearner(start, method, config.views[0].count, seed)
        case EsVit():
            return EsVitLearner(start, method, config.views[0].count, seed)
        case SimClr():
            return SimClrLearner(start, method, seed)
        case Moco():
            return MocoLearner(start, method, seed)
        case Pirl():
            return PirlLearner(start, method, images, seed)
        case Byol():
            return ByolLearner(start, method, seed)
        case Mae():
            return MaeLearner(start, method, seed)
        case Fcmae():
            return FcmaeLearner(start, method, seed)
        case Sit():
            return SitLearner(start, method, seed)
        case Rotation():
            return RotationLearner(start, seed)
        case Jigsaw():
            return JigsawLearner(start, method, seed)
    raise AssertionError(f"{method.type} is no method of its own")
