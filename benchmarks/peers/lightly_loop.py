"""The example loops of lightly's documentation, timed: SimCLR, BYOL and MoCo.

    PYTHON peers/lightly_loop.py METHOD IMAGES BATCH STEPS ANSWER

IMAGES is an .npz file with `images`, uint8 (n, H, W, 3). ANSWER is the JSON file for seconds of steps, and peak memory.
The first WARMUP steps are not timed. The backbone is timm's resnet18 without a classifier, as in edgevit's run.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import timm
import torch
from lightly.loss import NegativeCosineSimilarity, NTXentLoss
from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead, MoCoProjectionHead, SimCLRProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms import BYOLTransform, MoCoV2Transform, SimCLRTransform
from lightly.transforms.byol_transform import BYOLView1Transform, BYOLView2Transform
from PIL import Image

WARMUP = 3
WIDTH = 512


class Views(torch.utils.data.Dataset):
    def __init__(self, images, transform):
        self.images, self.transform = images, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.images[index]))


class SimClr(torch.nn.Module):
    def __init__(self, side):
        super().__init__()
        self.backbone = timm.create_model("resnet18", num_classes=0)
        self.head = SimCLRProjectionHead(WIDTH, WIDTH, 128)
        self.criterion = NTXentLoss(temperature=0.2)
        self.transform = SimCLRTransform(input_size=side, gaussian_blur=0.5)

    def loss(self, first, second):
        return self.criterion(self.head(self.backbone(first)), self.head(self.backbone(second)))


class Moco(torch.nn.Module):
    def __init__(self, side):
        super().__init__()
        self.backbone = timm.create_model("resnet18", num_classes=0)
        self.head = MoCoProjectionHead(WIDTH, WIDTH, 128)
        self.teacher, self.teacher_head = copy.deepcopy(self.backbone), copy.deepcopy(self.head)
        deactivate_requires_grad(self.teacher)
        deactivate_requires_grad(self.teacher_head)
        self.criterion = NTXentLoss(temperature=0.2, memory_bank_size=(1024, 128))
        self.transform = MoCoV2Transform(input_size=side)

    def loss(self, first, second):
        update_momentum(self.backbone, self.teacher, m=0.99)
        update_momentum(self.head, self.teacher_head, m=0.99)
        query = self.head(self.backbone(first))
        with torch.no_grad():
            key = self.teacher_head(self.teacher(second))
        return self.criterion(query, key)


class Byol(torch.nn.Module):
    def __init__(self, side):
        super().__init__()
        self.backbone = timm.create_model("resnet18", num_classes=0)
        self.head = BYOLProjectionHead(WIDTH, 1024, 256)
        self.predictor = BYOLPredictionHead(256, 1024, 256)
        self.teacher, self.teacher_head = copy.deepcopy(self.backbone), copy.deepcopy(self.head)
        deactivate_requires_grad(self.teacher)
        deactivate_requires_grad(self.teacher_head)
        self.criterion = NegativeCosineSimilarity()
        self.transform = BYOLTransform(BYOLView1Transform(input_size=side), BYOLView2Transform(input_size=side))

    def loss(self, first, second):
        update_momentum(self.backbone, self.teacher, m=0.99)
        update_momentum(self.head, self.teacher_head, m=0.99)
        predicted = [self.predictor(self.head(self.backbone(view))) for view in (first, second)]
        with torch.no_grad():
            targets = [self.teacher_head(self.teacher(view)) for view in (first, second)]
        return 0.5 * (self.criterion(predicted[0], targets[1]) + self.criterion(predicted[1], targets[0]))


METHODS = {"simclr": SimClr, "moco": Moco, "byol": Byol}


def main() -> None:
    method, images, batch, steps, answer = sys.argv[1:]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    arrays = np.load(images)["images"]
    model = METHODS[method](arrays.shape[1]).train()
    loader = torch.utils.data.DataLoader(
        Views(arrays, model.transform), batch_size=int(batch), shuffle=True, drop_last=True
    )
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-4, weight_decay=0.05)
    ended = []
    while len(ended) < int(steps) + WARMUP:
        for first, second in loader:
            optimizer.zero_grad()
            loss = model.loss(first, second)
            loss.backward()
            optimizer.step()
            loss.item()
            ended.append(time.perf_counter())
            if len(ended) == int(steps) + WARMUP:
                break
    seconds = [after - before for before, after in zip(ended[WARMUP - 1 :], ended[WARMUP:])]  # noqa: B905
    status = Path(
        "/proc/self/status"
    ).read_text()  # ru_maxrss would begin at the size of the process that started this one
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    versions = {package: version(package) for package in ("lightly", "torch", "timm")}
    Path(answer).write_text(json.dumps({"seconds": seconds, "peak_mib": peak, "versions": versions}))


if __name__ == "__main__":
    main()
