import html
import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from edgevit.configs import Budget
from edgevit.errors import ArtifactError
from edgevit.profiling.energy import EnergyRecord
from edgevit.provenance import WEIGHTS_FROM
from edgevit.report import summary
from edgevit.report.build import report_json, write_report
from edgevit.report.page import _quantization
from edgevit.report.text.accuracy import answers_against_float
from edgevit.report.text.report import markdown
from edgevit.report.variants import lineup
from tests.report.measured_run import ALL, MeasuredRun, quickstart

VARIANT_KEYS = {
    "id", "stage", "runtime", "target", "precision", "params", "macs", "size_bytes", "top1", "latency_ms", "parent"
}  # fmt: skip
HOSTILE = "<script>alert(1)</script> & $x_1$ 'q'"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> MeasuredRun:
    return quickstart(tmp_path_factory.mktemp("run"))


def written(run: MeasuredRun, out: Path, *names: str, **budget: float) -> Path:
    out.mkdir(exist_ok=True)
    write_report(run.of(*(names or ALL)), Budget(**budget), "quickstart", out)
    return out


def test_report_json_holds_what_programs_need(run: MeasuredRun, tmp_path: Path):
    report = json.loads((written(run, tmp_path / "out", latency_ms=1.0) / "report.json").read_text())
    verdict, timed = report["verdict"], report["variants"][-1]["latency_ms"]
    assert (verdict["meets_budget"], len(verdict["reasons"]), verdict["doubts"]) == (True, 1, [])
    limit = {"value": timed["p50"], "low": timed["p50_low"], "high": timed["p50_high"], "limit": 1.0, "met": True}
    assert verdict["limits"] == [{"name": "latency_ms", **limit}]
    assert [row["class"] for row in report["classes"]] == list("0123456789")
    assert all(variant.keys() >= VARIANT_KEYS for variant in report["variants"])
    engine = report["variants"][-1]
    assert {"value", "low", "high", "n"} <= engine["top1"].keys()
    assert {"p50", "p90", "p99", "n", "boundary", "label"} <= engine["latency_ms"].keys()
    assert report["variants"][0]["top1"] is None


def test_the_page_and_the_text_say_what_the_models_learned_from(run: MeasuredRun, tmp_path: Path):
    out = written(run, tmp_path / "out")
    for name in ("report.html", "report.md"):
        said = " ".join((out / name).read_text().split())
        assert "digits.pool, digits.support, glyphs.train: adapted, student, tuned, onnx, int8, engine" in said


def test_weights_that_nobody_trained_come_first(run: MeasuredRun):
    models = lineup(run.of(*ALL))
    assert report_json(models, Budget(), "x")["verdict"]["doubts"] == []
    model = models.deployed.model
    random = {WEIGHTS_FROM: {"body": "random", "classifier": "trained"}}
    model = replace(model, manifest=model.manifest.model_copy(update={"provenance": random}))
    report = report_json(replace(models, deployed=replace(models.deployed, model=model)), Budget(), "x")
    assert report["answer"]["headline"] == "The deployed model has random weights."
    assert report["cautions"] == []
    said = " ".join(summary(report).split())
    assert said.startswith(f"{report['answer']['headline']} Its weights are random; only its classifier was trained.")


def test_the_same_measurements_give_the_same_bytes(run: MeasuredRun, tmp_path: Path):
    first, second = written(run, tmp_path / "one"), written(run, tmp_path / "other")
    for name in ("report.html", "report.json", "report.md"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_text_fits_a_terminal_of_80_columns(run: MeasuredRun, tmp_path: Path):
    out = written(run, tmp_path / "out", latency_ms=1.0, top1_drop=0.01)
    text = (out / "report.md").read_text() + summary(json.loads((out / "report.json").read_text()))
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith("# quickstart\n\n**Yes, it meets the budget.**")


def test_the_answer_in_the_terminal_says_what_each_limit_was(run: MeasuredRun, tmp_path: Path):
    out = written(run, tmp_path / "out", latency_ms=0.1, size_mib=1.0)
    lines = summary(json.loads((out / "report.json").read_text())).splitlines()
    assert lines[0] == "No, it does not meet the budget."
    assert "over the limit of 0.1 ms" in lines[1]
    assert "1 MiB" in lines[2]
    unlimited = summary(json.loads((written(run, tmp_path / "none") / "report.json").read_text()))
    assert unlimited.count("No budget was given.") == 1


class Elements(HTMLParser):
    """Tags, ids and addresses of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.images_without_alt = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.ids += [str(values["id"])] if "id" in values else []
        self.addresses += [str(values[name]) for name in ("src", "href", "xlink:href") if name in values]
        self.images_without_alt += tag == "img" and not values.get("alt")


def test_the_page_needs_nothing_else(run: MeasuredRun, tmp_path: Path):
    html = (written(run, tmp_path / "out") / "report.html").read_text()
    page = Elements(html)
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert "script" not in page.tags
    assert "url(http" not in html
    assert page.images_without_alt == 0
    assert len(page.ids) == len(set(page.ids))
    headings = [int(tag[1]) for tag in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))


def test_names_from_data_are_escaped_everywhere(tmp_path: Path):
    run = quickstart(tmp_path, classes=(HOSTILE, *"12345678", "漢字"))
    html = (written(run, tmp_path / "out") / "report.html").read_text()
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert "script" not in Elements(html).tags


def test_a_report_of_one_accuracy_has_no_empty_sections(run: MeasuredRun, tmp_path: Path):
    html = (written(run, tmp_path / "out", "float_accuracy") / "report.html").read_text()
    assert "Mistakes of the deployed model" in html
    assert "Latency of the deployed model" not in html
    assert "<h2>Quantization" not in html


def test_a_thousand_classes_make_no_matrix(tmp_path: Path):
    run = quickstart(tmp_path, classes=tuple(f"class {index}" for index in range(1000)))
    html = (written(run, tmp_path / "out") / "report.html").read_text()
    assert "Most frequent confusions" in html
    assert "Confusion matrix" not in html


def test_altered_predictions_are_refused(tmp_path: Path):
    run = quickstart(tmp_path)
    (run.made["accuracy"].path / "predictions.npz").write_bytes(b"altered")
    with pytest.raises(ArtifactError, match="altered"):
        written(run, tmp_path / "out")


def test_the_quantization_shown_is_the_deployed_models(tmp_path: Path):
    run = quickstart(tmp_path)
    other = {"params": 1, "macs": 1, "precision": "int8", "calibration_images": 7}
    run.onnx("tried", "quantize", 90_000, other, model="onnx", calibration="digits.pool")
    run.evaluation("tried_accuracy", "tried", 0.5)
    shown = _quantization(lineup(run.of(*ALL, "tried_accuracy")))
    assert shown
    assert shown["id"] == "int8"


@pytest.mark.parametrize("label", [{"label": "replayed"}, {}])
def test_the_forms_of_a_board_are_shown_with_their_baseline(label: dict[str, str], tmp_path: Path):
    """The baseline has no speed-up of its own, and a form that was not built has a reason."""
    run, speedup = quickstart(tmp_path), {"speedup": 1.5, "low": 1.4, "high": 1.6}
    raced = {
        "params": 1, "macs": 1, "precision": "int8", "form": "int8 all", "sqnr_db": 30.0, "quantized_ops": {"Conv": 1},
        "forms": [
            {"form": "float16", "sqnr_db": 61.0},
            {"form": "int8 all", "sqnr_db": 30.0, **speedup, "baseline": "float16", **label},
            {"form": "float8 all", "failed": "TensorRT 10.3.0 does not take the model"},
        ],
    }  # fmt: skip
    target = {"runtime": "tensorrt", "target": "orin"}
    run.onnx("raced", "quantize", 90_000, raced, model="onnx", calibration="digits.pool", **target)
    run.evaluation("raced_accuracy", "raced", 0.9)
    run.latency("raced_latency", "raced", 0.5)
    page = " ".join(
        (written(run, tmp_path / "out", "raced_accuracy", "raced_latency") / "report.html").read_text().split()
    )
    assert '<th scope="row">float16</th><td class="number">the other forms are timed with it</td>' in page
    assert "<td>TensorRT 10.3.0 does not take the model</td>" in page
    assert "Speedup over float16 (95% interval)" in page
    assert ("A stand-in for orin has replayed these times: they decide nothing." in page) == bool(label)
    assert ("Measured in turns with float16 on orin." in page) != bool(label)


def test_a_loss_above_the_limit_that_is_not_ruled_out_is_said():
    drop = {"value": 0.004, "low": -0.002, "high": 0.0101, "n": 2000, "limit": 0.01}
    said = answers_against_float({"top1_drop": drop})
    assert said is not None
    assert said.endswith("the limit is 1, and more is not ruled out")
    refused = {"top1_drop": {**drop, "value": 0.05}, "refused_by": ["max_top1_drop"]}
    assert str(answers_against_float(refused)).endswith("the limit is 1")


@pytest.mark.parametrize(("tested", "warns"), [("digits.support", True), ("digits.test", False)])
def test_an_accuracy_on_the_images_that_chose_the_form_is_a_caution(tested: str, warns: bool, tmp_path: Path):
    run = quickstart(tmp_path)
    drop = {"value": 0.004, "low": -0.002, "high": 0.01, "n": 50, "limit": 0.01}
    metrics = {"params": 1, "macs": 1, "precision": "int8", "quantized_ops": {"Conv": 1}, "top1_drop": drop}
    run.onnx("gated", "quantize", 90_000, metrics, model="onnx", calibration="digits.pool", validation="digits.support")
    run.evaluation("gated_accuracy", "gated", 0.9, data=tested)
    cautions = report_json(lineup(run.of("gated_accuracy")), Budget(), "x")["cautions"]
    said = "gated: 'gated' chose the quantized form by its accuracy on digits.support."
    assert any(caution.startswith(said) for caution in cautions) == warns


def test_what_the_gate_by_accuracy_saw_is_shown(tmp_path: Path):
    run, changed = quickstart(tmp_path), {"value": 0.012, "low": 0.008, "high": 0.018, "n": 2000}
    lost = {"top1_drop": {"value": 0.004, "low": -0.002, "high": 0.01, "n": 2000, "limit": 0.01}}
    timed = {"speedup": 2.0, "low": 1.9, "high": 2.1}
    refused = "refused: 8.0 dB against float, expected at least 10 dB (min_sqnr_db)"
    metrics = {
        "params": 1, "macs": 1, "precision": "int8", "form": "int8 all", "sqnr_db": 30.0, "quantized_ops": {"Conv": 1},
        **lost, "changed_answers": changed, "validation_learned_by": "tuned",
        "forms": [
            {"form": "int8 all", "sqnr_db": 30.0, **lost, "changed_answers": changed, **timed},
            {"form": "int8 dense", "sqnr_db": 8.0, "changed_answers": changed, "failed": refused},
            {"form": "int8 products", "failed": "the runtime does not take the model"},
        ],
    }  # fmt: skip
    run.onnx("gated", "quantize", 90_000, metrics, model="onnx", calibration="digits.pool", validation="digits.support")
    run.evaluation("gated_accuracy", "gated", 0.9)
    page = " ".join((written(run, tmp_path / "out", "gated_accuracy") / "report.html").read_text().split())
    of_form = "0.4 points of top-1 lost (−0.2 to 1.0, n 2,000); the limit is 1"
    where = "Measured on digits.support, which &#39;tuned&#39; learned from"
    assert f"<dt>Answers against float</dt><dd>{of_form}. {where}</dd>" in page
    assert page.count(f"<td>{of_form}</td>") == 1
    assert page.count("<td>1.2% changed (0.8% to 1.8%, n 2,000)</td>") == 1
    assert page.count("<td>not compared</td>") == 1


NAMES = (
    "plain",
    "<script>alert(1)</script>",
    "[click](javascript:alert(1))",
    "![i](http://x/y)",
    "`code",
    "a|b",
    "# head",
    "x\n\n# head",
    "- item",
    "1. item",
    "> quoted",
    "===",
    "~~~",
    "esc \x1b[2J",
)


READER = MarkdownIt("commonmark").enable("table")  # HTML in it is not escaped but kept


def blocks_of(text: str) -> list[str]:
    return [token.type for token in READER.parse(text) if token.type in ("heading_open", "list_item_open", "tr_open")]


def test_names_in_markdown_stay_text(run: MeasuredRun, tmp_path: Path):
    """Wherever a name comes to lie in a line: read by markdown-it, it makes no block, no HTML, no link and no code."""
    report = json.loads((written(run, tmp_path / "out") / "report.json").read_text())

    def with_names(padding: int, *names: str) -> str:
        sentences = [f"{'w' * padding} {name} {'and more words ' * 5} {name}".lstrip() for name in names]
        advice = [{"title": "The support set", "sentences": sentences}]
        return markdown({**report, "advice": advice, "cautions": list(names)})

    rows = [{**report["classes"][0], "class": name} for name in NAMES]
    table = markdown({**report, "classes": rows})
    assert len(blocks_of(table)) == len(blocks_of(markdown(report))) + len(rows) - len(report["classes"])
    assert not re.search(r"<(script|a|img|code|pre)\b", READER.render(table))
    long = markdown({**report, "classes": [{**rows[0], "class": "long name " * 9}]})
    assert max(map(len, long.splitlines())) <= 80

    for padding in range(0, 80, 2):
        odd = with_names(padding, *NAMES)
        assert blocks_of(odd) == blocks_of(with_names(padding, *["plain"] * len(NAMES)))
        page = READER.render(odd)
        assert not re.search(r"<(script|a|img|code|pre)\b", page)
        assert "\x1b" not in odd
        shown = html.unescape(" ".join(page.split()))
        assert all(" ".join(name.replace("\x1b", "\\u001b").split()) in shown for name in NAMES)


def test_what_was_measured_beside_the_latency_stands_in_the_report(run: MeasuredRun, tmp_path: Path):
    start = {"load_ms": 41.2, "first_ms": 9.1, "own_bytes": 50 * 2**20, "peak_bytes": 92 * 2**20}
    parts = {"decode": 2.0, "preprocess": 3.3, "compute": 3.1, "post": 0.02}
    run.latency("photo_latency", "engine", 8.4, boundary="end_to_end", start=start, parts_ms=parts, cpus_used=0.98)
    invalid = ["other programs used 25% of the processors while the runs were timed"]
    run.latency("busy_latency", "engine", 9.4, duration_s=9, invalid=invalid)
    out = written(run, tmp_path / "out", "accuracy", "photo_latency")
    facts = dict(json.loads((out / "report.json").read_text())["latency_facts"])
    assert list(facts) == ["Parts", "Processors", "Start", "Memory"]
    page = html.unescape((out / "report.html").read_text())
    assert all(f"<dt>{label}</dt><dd>{value}</dd>" in page for label, value in facts.items())
    text = " ".join((out / "report.md").read_text().split())
    assert "- Start: 41.2 ms to load, 9.10 ms for the first run" in text
    out = written(run, tmp_path / "busy", "accuracy", "busy_latency")
    page = (out / "report.html").read_text()
    assert f'<strong class="no">Invalid:</strong> {invalid[0]}.' in page
    assert json.loads((out / "report.json").read_text())["latency_facts"] == []


def test_energies_stand_in_the_tables_and_the_budget(run: MeasuredRun, tmp_path: Path):
    energy = EnergyRecord(32.34, 31.9, 32.78, 12.479, 6.0107, 11, "CPU package (RAPL)", "measured")
    more = EnergyRecord(64.0, 63.0, 65.0, 12.9, 6.0107, 11, "CPU package (RAPL)", "measured", invalid=("busy at rest",))
    run.latency("engine_energy", "engine", 5.4, energy_mj=energy.numbers(), duration_s=11)
    run.latency("onnx_energy", "onnx", 9.9, energy_mj=more.numbers(), duration_s=12)
    run.latency("no_energy", "engine", 5.5, energy_mj=None, no_energy="a virtual machine has none", duration_s=13)
    little = replace(energy, mj=1.0, low_mj=-1.0, high_mj=3.0)
    run.latency("little_energy", "engine", 5.6, energy_mj=little.numbers(), duration_s=14)
    names = ("accuracy", "onnx_energy", "engine_energy")
    report = json.loads((written(run, tmp_path, *names, energy_mj=32.5) / "report.json").read_text())
    (limit,) = report["verdict"]["limits"]
    assert (limit["value"], limit["low"], limit["high"], limit["met"]) == (32.34, 31.9, 32.78, True)
    (reason,) = report["verdict"]["reasons"]
    assert reason == (
        "Energy: 32.3 mJ for an image (95% interval 31.9 to 32.8), within the limit of 32.5 mJ. "
        "The limit lies inside the 95% interval."
    )
    by_model = {variant["model"]: variant["energy_mj"] for variant in report["variants"]}
    assert by_model["engine"] == energy.numbers()
    page = html.unescape((tmp_path / "report.html").read_text())
    row = '<th scope="row">engine</th><td class="number">32.3 mJ</td><td class="number">31.9 to 32.8</td>'
    assert row in page
    assert "Energy and power are of: CPU package (RAPL)." in page
    assert "6.01 W at rest: CPU package (RAPL)." in page
    assert "64.0 mJ invalid</td>" in page
    assert "32.3 mJ" in (tmp_path / "report.md").read_text()
    for name, why in (
        ("onnx_energy", "invalid: busy at rest"),
        ("no_energy", "not measured: a virtual machine has none"),
        ("little_energy", "not told apart from 0 (95% interval -1 to 3 mJ), so the limit of 100 mJ cannot be judged"),
    ):
        content = report_json(lineup(run.of(name)), Budget(energy_mj=100), "energies")
        (reason,) = content["verdict"]["reasons"]
        assert why in reason
        assert content["verdict"]["meets_budget"] is None
    assert "Energy for an image" not in (written(run, tmp_path) / "report.html").read_text()
