import json
from pathlib import Path

from edgevit.configs import Budget, Report
from edgevit.context import Context
from edgevit.stages import report
from tests.report.measured_run import ALL, quickstart


def test_a_budget_that_is_not_met_is_an_answer_not_a_failure(tmp_path: Path):
    run = quickstart(tmp_path)
    config = Report(stage="report", id="report", of=ALL)
    inputs = {f"of.{index}": artifact for index, artifact in enumerate(run.of(*ALL))}
    out = tmp_path / "out"
    out.mkdir()
    contents = report.run(config, inputs, Context(budget=Budget(latency_ms=0.001), recipe_name="digits"), out)
    assert contents.kind == "report"
    assert contents.metrics == {"meets_budget": False, "doubts": []}
    assert contents.logs == ("report.html",)  # it shows rates of training, which differ from run to run
    assert json.loads((out / "report.json").read_text())["name"] == "digits"
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.json", "report.md"]
