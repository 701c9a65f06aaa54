"""Situations from public bug reports, each a script beside the repository, answered rightly.

Each has a test of its own in the default tier; here the whole commands run as a user types them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

SCRIPTS = Path(__file__).parents[2] / "shared" / "cases"
EDGEVIT = Path(sys.executable).with_name("edgevit")
SECONDS = 900

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SCRIPTS.is_dir(), reason="the scripts lie in ../shared/cases, which is not here"),
]


class Answer(NamedTuple):
    """What one command of a script printed, and its exit status."""

    command: str
    text: str
    status: int


class Transcript:
    """What a script printed: commands with their answers, and all of it."""

    def __init__(self, text: str) -> None:
        found = re.findall(r"^\$ edgevit (.*?)\n(.*?)^\[exit (\d+)\]$", text, re.MULTILINE | re.DOTALL)
        self.text = text
        self.answers = [Answer(command, answer, int(status)) for command, answer, status in found]

    def of(self, beginning: str) -> list[Answer]:
        return [answer for answer in self.answers if answer.command.startswith(beginning)]

    def number(self, pattern: str) -> float:
        (found,) = re.findall(pattern, self.text)
        return float(found)


def _statuses(script: Transcript) -> list[int]:
    return [answer.status for answer in script.answers]


def a_fixed_batch(script: Transcript) -> None:
    assert all(answer.status == 0 or answer.command.startswith("compare") for answer in script.answers)
    assert script.of("compare")[0].status in (0, 1)  # INT8 may be the slower file
    labels = set(re.findall(r"^photos/cat/0\.jpg:? +(\d+) ([\d.]+)%", script.text, re.MULTILINE))
    assert len(labels) == 1, labels


def probabilities_stay_what_they_are(script: Transcript) -> None:
    plain = re.findall(r"(\S+\.onnx) plain onnxruntime: class (\d+) probability ([\d.]+)", script.text)
    for file, label, probability in plain:
        said = re.search(r"0\.jpg +(\d+) +([\d.]+)%", script.of(f"predict {file}")[0].text)
        assert said[1] == label
        assert float(said[2]) == pytest.approx(100 * float(probability), abs=0.06)
    by_bundle = re.search(r"^photos/cat/0.jpg: (\d+) ([\d.]+)%$", script.text, re.MULTILINE)
    assert by_bundle[1] == plain[0][1]
    assert float(by_bundle[2]) == pytest.approx(100 * float(plain[0][2]), abs=0.06)


def one_score_is_two_classes_or_refused(script: Transcript) -> None:
    predicted = script.of("predict")[0]
    if predicted.status == 0:
        labels = re.findall(r"photos/\w+/0\.jpg +(\S+)", predicted.text)
        assert len(set(labels)) == 2
        assert "top-1 100.00%" in script.of("evaluate")[0].text
    else:
        assert _statuses(script) == [2, 2, 2]


def class_scores_are_found_among_the_outputs(script: Transcript) -> None:
    label = re.search(r"class by logits (\d+) of 4", script.text)[1]
    assert re.search(rf"0\.jpg +{label} ", script.of("predict")[0].text)
    assert _statuses(script) == [0, 0, 0]
    assert re.search(r"--output +<", script.text), "describe --help"


def the_order_of_classes_is_never_assumed(script: Transcript) -> None:
    for answer in (*script.of("evaluate"), *script.of("run r2")):
        assert (answer.status == 2 and "natural" in answer.text) or "100.0" in answer.text
    assert "100.0%" in script.of("run r1")[0].text


def averaged_weights_are_taken_as_timm_takes_them(script: Transcript) -> None:
    for found in re.findall(r"exported file: distance to raw weights (\S+) , to EMA (\S+)", script.text):
        assert float(found[1]) < 1e-4 < float(found[0])
    assert all("ema" in answer.text.lower() for answer in script.of("export"))


def images_are_read_or_named(script: Transcript) -> None:
    assert script.of("init")[0].status == 0
    assert "owl" in re.search(r"classes seen \((.*?)\)", script.text)[1]
    assert script.of("predict cnn.onnx photos/owl")[-1].status == 0
    evaluated = script.of("evaluate")[0].text
    assert "HEIC" in evaluated or "fox" in evaluated


def what_is_passed_over_is_named(script: Transcript) -> None:
    assert script.of("evaluate")[0].status == 0
    assert re.search(r"passed over|hidden", script.of("evaluate")[0].text)


def names_meet_in_either_form(script: Transcript) -> None:
    assert _statuses(script) == [0, 0, 0]


def every_file_is_quantized_or_stays_float(script: Transcript) -> None:
    assert set(_statuses(script)) == {0}


def renamed_tensors_are_quantized(script: Transcript) -> None:
    assert set(_statuses(script)) == {0}
    closeness = [float(found) for found in re.findall(r"own comparison ([\d.-]+) dB", script.text)]
    assert len(closeness) == 6
    assert min(closeness) >= 10


def float16_is_judged_as_float16(script: Transcript) -> None:
    rows = re.findall(r"^(\w+) \| onnxruntime CPU ([\d.-]+) dB \| .*?\) ([\d.-]+) dB", script.text, re.MULTILINE)
    for file, _, truly in rows:
        assert float(truly) >= 20 or script.of(f"quantize {file}.onnx")[0].status in (1, 2)
    assert len(rows) == 4


def a_setting_changes_what_it_names(script: Transcript) -> None:
    assert re.search(r"read: +a 0, b 0\.5 ; p 1, q 3", script.text)


def odd_yaml_is_read_or_refused(script: Transcript) -> None:
    infinite = [answer for answer in script.answers if "=.inf" in answer.command or "=.nan" in answer.command]
    assert len(infinite) == 2
    assert all(answer.status == 2 for answer in infinite)
    status = {answer.command.split("rec/")[1].split(".")[0]: answer.status for answer in script.of("run rec/")}
    assert {status[name] for name in ("bom", "crlf", "merge", "norway")} == {0}
    assert {status[name] for name in ("tag", "inf", "overflow", "duplicate", "empty")} == {2}


def exchanged_images_are_seen(script: Transcript) -> None:
    first, again, fresh = (re.search(r"Accuracy: ([\d.]+)%", answer.text)[1] for answer in script.of("run r.yaml"))
    assert again == fresh != first


def the_full_disk_is_named(script: Transcript) -> None:
    refused = [answer for answer in script.answers if answer.status]
    assert all(answer.status == 2 and "disk is full" in answer.text for answer in refused)
    assert not any("whole.onnx: the disk is full" in answer.text for answer in refused)
    assert all(re.search(r"error: .*full", answer.text) for answer in refused)


def any_locale_will_do(script: Transcript) -> None:
    assert set(_statuses(script)) == {0}


CHECKS: dict[str, Callable[[Transcript], None]] = {
    "01": a_fixed_batch,
    "03": probabilities_stay_what_they_are,
    "04": one_score_is_two_classes_or_refused,
    "05": class_scores_are_found_among_the_outputs,
    "06": the_order_of_classes_is_never_assumed,
    "07": averaged_weights_are_taken_as_timm_takes_them,
    "11": images_are_read_or_named,
    "12": what_is_passed_over_is_named,
    "16": names_meet_in_either_form,
    "17": every_file_is_quantized_or_stays_float,
    "18": every_file_is_quantized_or_stays_float,
    "19": every_file_is_quantized_or_stays_float,
    "20": renamed_tensors_are_quantized,
    "21": every_file_is_quantized_or_stays_float,
    "23": float16_is_judged_as_float16,
    "29": a_setting_changes_what_it_names,
    "30": odd_yaml_is_read_or_refused,
    "31": exchanged_images_are_seen,
    "32": the_full_disk_is_named,
    "33": any_locale_will_do,
}


def test_every_script_is_checked() -> None:
    assert {script.parent.name for script in SCRIPTS.glob("*/run.sh")} == set(CHECKS)


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_situation(name: str, tmp_path: Path) -> None:
    if name == "32" and os.geteuid() != 0:
        pytest.skip("a small disk is mounted by root alone")
    environment = {**os.environ, "EDGEVIT": str(EDGEVIT), "PYTHON": sys.executable, "TMPDIR": str(tmp_path)}
    command = ["bash", str(SCRIPTS / name / "run.sh")]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SECONDS, check=False
    )
    script = Transcript(done.stdout.decode(errors="replace"))
    assert script.answers, script.text
    assert "Traceback" not in script.text
    assert 70 not in _statuses(script), script.text
    CHECKS[name](script)
