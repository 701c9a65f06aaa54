"""The wheel in a fresh environment, in a folder without the repository: the quickstart runs by name."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from edgevit import __version__
from edgevit.recipes import shipped_recipes

ROOT = Path(__file__).parents[1]
SHORT = (
    "datasets.glyphs.samples_per_class=10", "stages.student.epochs=1", "stages.latency/teacher.duration_s=0.1",
    "stages.latency/student.duration_s=0.1", "stages.latency/int8.duration_s=0.1",
)  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive, and the wheel that was built from the archive."""
    out = tmp_path_factory.mktemp("dist")
    succeed([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)], out)
    return out


@pytest.fixture(scope="module")
def python(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with the wheel; what edgevit depends on lies in this environment."""
    folder = tmp_path_factory.mktemp("fresh")
    succeed([sys.executable, "-m", "venv", str(folder)], folder)
    python = folder / "bin" / "python"
    (wheel,) = archives.glob("*.whl")
    succeed([str(python), "-m", "pip", "install", "-q", "--no-deps", str(wheel)], folder)
    (site_packages,) = folder.glob("lib/python3.*/site-packages")
    torch = find_spec("torch")
    assert torch is not None
    assert torch.origin is not None
    (site_packages / "dependencies.pth").write_text(f"{Path(torch.origin).parents[1]}\n")
    return python


def succeed(command: list[str], folder: Path, statuses: tuple[int, ...] = (0,)) -> str:
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8", check=False)
    assert answer.returncode in statuses, answer.stdout[-2000:] + answer.stderr[-4000:]
    return answer.stdout


def test_the_archives_hold_what_they_should(archives: Path) -> None:
    (wheel,), (source,) = archives.glob("*.whl"), archives.glob("*.tar.gz")
    assert wheel.name == f"edgevit-{__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    packaged = {f"edgevit/recipes/{name}.yaml" for name in shipped_recipes()}
    assert names >= packaged | {"edgevit/py.typed", f"edgevit-{__version__}.dist-info/licenses/LICENSE"}
    tracked = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "edgevit"], capture_output=True, text=True, check=False
    ).stdout.split()
    assert {name for name in names if name.startswith("edgevit/")} >= set(tracked)
    assert not [name for name in names if not name.startswith(("edgevit/", f"edgevit-{__version__}.dist-info/"))]
    with tarfile.open(source) as opened:
        inside = {name.partition("/")[2] for name in opened.getnames()}
    assert inside >= {*packaged, "recipes/quickstart.yaml", "tests/test_wheel.py", "LICENSE", "CITATION.cff"}
    assert not [name for name in inside if name.startswith((".venv", "runs", "shared"))]


def test_archives_pass_twines_check(archives: Path) -> None:
    pytest.importorskip("twine", reason="needs edgevit[release]")
    files = [str(file) for file in archives.iterdir()]
    succeed([sys.executable, "-m", "twine", "check", "--strict", *files], archives)


def test_the_quickstart_runs_by_name(python: Path, tmp_path: Path) -> None:
    home = succeed([str(python), "-c", "import edgevit; print(edgevit.__file__)"], tmp_path)
    assert Path(home.strip()).is_relative_to(python.parents[1])
    edgevit = str(python.with_name("edgevit"))
    settings = [word for setting in SHORT for word in ("--set", setting)]
    succeed([edgevit, "run", "quickstart", *settings], tmp_path, (0, 1))  # so short, it may miss its budget
    assert (tmp_path / "runs" / "quickstart" / "report" / "report.html").stat().st_size > 10_000
    assert "quickstart" in succeed([edgevit, "report", "quickstart"], tmp_path)
    plan = succeed([str(python), "-m", "edgevit", "why", "quickstart", *settings], tmp_path)
    assert "stages are finished" in plan
    assert [entry.name for entry in tmp_path.iterdir()] == ["runs"]
