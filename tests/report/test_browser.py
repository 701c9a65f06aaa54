"""The page in a real browser: nothing is fetched, nothing fails, nothing sticks out on a phone."""

import json
import subprocess
from pathlib import Path

import pytest

from edgevit.configs import Budget
from edgevit.report.build import write_report
from tests.bundling.browser import CHROMIUM
from tests.checking.test_timed_layers import of_vit
from tests.report.measured_run import ALL, quickstart
from tests.small_models import checkpoint, workbench

OPTIONS = (
    "--headless",
    "--hide-scrollbars",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-sync",
    "--disable-component-update",
    "--disable-background-networking",
    "--enable-logging=stderr",
    "--virtual-time-budget=2000",
)

# A page of 390 px: headless Chromium makes no window that narrow, so the report is put in a frame.
FRAME = """<!doctype html><iframe width=390 height=800 srcdoc="{page}"></iframe><pre id=found></pre><script>
const frame = document.querySelector("iframe");
frame.onload = () => {{
  const root = frame.contentDocument.documentElement;
  const bad = [...frame.contentDocument.querySelectorAll("img")].filter(one => !one.naturalWidth).length;
  const fetched = frame.contentWindow.performance.getEntriesByType("resource").map(one => one.name)
    .filter(one => !one.startsWith("data:"));
  document.querySelector("#found").textContent = JSON.stringify(
    {{wide: root.scrollWidth, bad, fetched, narrowPlotShown: !!root.querySelector(".narrow")?.offsetHeight}});
}};
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")
def test_the_page_on_a_phone(tmp_path: Path):
    run = quickstart(tmp_path, classes=("a" * 90, *"123456789"))
    run.latency("layers", "engine", 0.6, threads=2, layers=of_vit())
    write_report(run.of(*ALL, "layers"), Budget(latency_ms=1.0), "quickstart" * 9, tmp_path)
    measured, errors = on_a_phone(tmp_path)
    assert measured == {"wide": 390, "bad": 0, "fetched": [], "narrowPlotShown": True}
    assert "CONSOLE" not in errors


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")
def test_pictures_on_a_phone(tmp_path: Path):
    """Nearest neighbors and attention maps: each picture is shown, and wide tables scroll by themselves."""
    bench, model = workbench(), checkpoint().id
    fields = {"protocol": "knn", "support": "digits.support", "neighbors": (1, 5)}
    knn = bench.run("evaluate", "phone-knn", model=model, data="digits.test", **fields)
    attention = bench.run("attention", "phone-attention", model=model, data="digits.test", images=6)
    write_report([knn, attention], Budget(), "pictures", tmp_path)
    measured, errors = on_a_phone(tmp_path)
    assert measured == {"wide": 390, "bad": 0, "fetched": [], "narrowPlotShown": False}
    assert "CONSOLE" not in errors


def on_a_phone(folder: Path) -> tuple[dict[str, object], str]:
    """What the browser measures of report.html at 390 px, and its log."""
    page, frame = (folder / "report.html").read_text(), folder / "frame.html"
    frame.write_text(FRAME.format(page=page.replace("&", "&amp;").replace('"', "&quot;")))
    command = [str(CHROMIUM), *OPTIONS, f"--user-data-dir={folder / 'profile'}", "--dump-dom", frame.as_uri()]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(answer.stdout.split('<pre id="found">')[1].split("</pre>")[0]), answer.stderr
