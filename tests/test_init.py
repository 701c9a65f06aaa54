"""`edgevit init` decides by what it sees, and `edgevit run` says early what it will not reach.

Students are not timed here: timings of a machine of known speed are kept beforehand. tests/selection times some.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from typer.testing import CliRunner

from edgevit.actions.early_checks import check_before_run
from edgevit.actions.early_latency import deployed_chain, student_of
from edgevit.actions.student_choice import UNTIMED_SIDE, deployed_form, rounded_up, sizes_of_bodies, weights_from
from edgevit.cli import app
from edgevit.configs import Compile, Distill, Export, Profile, Quantize, Recipe
from edgevit.context import Context
from edgevit.data import roles
from edgevit.errors import ArtifactError, CheckFailed, RecipeError
from edgevit.models.creation import create_model
from edgevit.models.pretrained import check_pretrained, hub_answers, model_of_weights
from edgevit.recipe import load_recipe
from edgevit.recipes import shipped_recipe
from edgevit.selection import kept
from edgevit.selection.candidates import shortlist
from edgevit.selection.choice import ROOM
from edgevit.selection.records import Student
from tests.known_machine import keep_timings, machine, timing
from tests.test_files import photos


@pytest.fixture
def known_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Timings of every student of the shortlist for two classes, as fast as on the measured machine."""
    monkeypatch.setenv("EDGEVIT_CACHE", str(tmp_path / "cache"))
    keep_timings(2)


def init(folder: Path, *options: object, out: str = "new.yaml") -> tuple[int, str]:
    command = ["init", folder, "--offline", *options, "--out", folder.parent / out]
    answer = CliRunner().invoke(app, list(map(str, command)))
    return answer.exit_code, answer.output


def test_the_student_follows_the_budget(tmp_path: Path, known_machine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With many images, students with random weights come before bodies."""
    monkeypatch.setattr("edgevit.actions.student_choice.IMAGES_FOR_A_BODY", 0)
    folder = photos(tmp_path / "My Photos", {"a": 12, "it's": 12})
    students = {}
    for budget_ms in (1, 3):
        status, said = init(folder, "--latency-ms", budget_ms, out=f"{budget_ms}.yaml")
        assert status == 0, said
        recipe = load_recipe(tmp_path / f"{budget_ms}.yaml")
        chain = deployed_chain(recipe)
        assert chain is not None
        student = student_of(chain, {})
        assert student is not None
        (students[budget_ms],) = [
            candidate
            for candidate in shortlist()
            if (candidate.model, candidate.image_size) == (student.model, student.image_size)
        ]
        assert recipe.name == "my-photos"
        assert recipe.budget.latency_ms == budget_ms
        assert recipe.datasets["photos"].few_shot.shots == "all"
        assert f"student: {students[budget_ms]}, " in said
        assert "next larger" in said
        assert "about" in said
    for budget_ms, chosen in students.items():
        within = [candidate for candidate in shortlist() if machine(1)(candidate).p50_high_ms <= ROOM * budget_ms]
        assert chosen == within[-1]


def test_on_few_images_a_student_starts_from_a_body_at_the_largest_size_within_the_budget(
    tmp_path: Path, known_machine: None
) -> None:
    folder = photos(tmp_path / "photos", {"a": 12, "b": 12})
    sizes = sizes_of_bodies()
    for candidate in sizes:
        budget_ms = 1.001 * machine(1)(candidate).p50_high_ms / ROOM
        status, said = init(folder, "--latency-ms", budget_ms, "--force")
        assert status == 0, said
        assert f"student: {candidate}, " in said
        assert f"starts from body: {candidate.model}, which comes with edgevit" in said
        start = next(stage for stage in load_recipe(tmp_path / "new.yaml").stages if stage.name() == "load")
        assert (start.model, start.image_size, start.pretrained) == (candidate.model, candidate.image_size, True)
    assert init(folder, "--force")[0] == 0
    start = next(stage for stage in load_recipe(tmp_path / "new.yaml").stages if stage.name() == "load")
    largest = [candidate for candidate in sizes if candidate.image_size <= UNTIMED_SIDE][-1]
    assert (start.model, start.image_size) == (largest.model, largest.image_size)


@pytest.mark.parametrize(("limit", "starts"), [(24, True), (10, False)], ids=["few", "many"])
def test_only_the_images_that_a_student_learns_from_count_as_many(
    limit: int, starts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a teacher, these are the labelled ones."""
    monkeypatch.setattr("edgevit.actions.student_choice.IMAGES_FOR_A_BODY", limit)
    folder = photos(tmp_path / "photos", {"a": 12, "b": 12})
    unlabelled = photos(tmp_path / "more", {"x": 30})
    assert init(folder, "--unlabelled", unlabelled)[0] == 0
    assert ("load" in {stage.name() for stage in load_recipe(tmp_path / "new.yaml").stages}) == starts


def test_a_budget_that_no_student_meets_is_a_plain_no(tmp_path: Path, known_machine: None) -> None:
    folder = photos(tmp_path / "photos", {"a": 12, "b": 12})
    with pytest.raises(CheckFailed) as caught:
        CliRunner().invoke(
            app, ["init", str(folder), "--offline", "--latency-ms", "0.1", "--out", str(tmp_path / "new.yaml")],
            catch_exceptions=False,
        )  # fmt: skip
    fastest_ms = min(candidate.expected_ms for candidate in (*shortlist(), *sizes_of_bodies()))
    least = rounded_up(1.02 * fastest_ms / ROOM)
    assert f"--latency-ms {least:g} can be met" in str(caught.value)
    assert caught.value.exit_code == 1
    assert not (tmp_path / "new.yaml").exists()
    assert init(folder, "--latency-ms", least)[0] == 0


def test_without_weights_the_student_learns_from_labels_alone(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", {"a": 12, "b": 12})
    status, said = init(folder, "--student", "test_vit")
    assert status == 0, said
    assert "no large pretrained model (--offline)" in said
    recipe = load_recipe(tmp_path / "new.yaml")
    assert [stage.name() for stage in recipe.stages][:2] == ["train", "evaluate"]


def test_weights_from_a_file_teach_and_start_the_student(tmp_path: Path) -> None:
    built = create_model("test_efficientnet", 1000)
    file = tmp_path / "test_efficientnet.r160_in1k.safetensors"
    save_file(built.module.state_dict(), file)
    folder = photos(tmp_path / "photos", {"a": 12, "b": 12})
    status, said = init(folder, "--weights", file, "--minutes", 5, "--shots", 3)
    assert status == 0, said
    recipe = load_recipe(tmp_path / "new.yaml")
    loads = {stage.id: stage for stage in recipe.stages if stage.name() == "load"}
    assert {load.weights for load in loads.values()} == {str(file)}
    assert loads.keys() == {"backbone", "start"}
    assert recipe.datasets["photos"].few_shot.shots == 3
    teacher = next(stage for stage in recipe.stages if stage.id == "teacher")
    assert (teacher.support, teacher.pool) == ("photos.support", "photos.pool")
    assert quantize_of(recipe).validation == "photos.pool"
    assert losses_of(recipe) == [("soft", 1.0, False), ("cross_entropy", 0.5, False)]


@pytest.mark.parametrize(
    ("counts", "validation", "standardized"),
    [
        ({"a": 12, "b": 12}, None, True),
        ({"a": 60, "b": 60}, "photos.val", True),
        ({"a": 120, "b": 20}, "photos.val", False),
    ],
    ids=["few", "enough", "unbalanced"],
)
def test_images_and_classes_decide_on_the_gate_and_the_losses(
    counts: dict[str, int], validation: str | None, standardized: bool, tmp_path: Path
) -> None:
    """Without a pool, the logits are standardized, unless class weights need a larger share of the labels."""
    recipe = taught_recipe(tmp_path, counts)
    assert quantize_of(recipe).validation == validation
    assert quantize_of(recipe).max_top1_drop == (None if validation is None else 0.02)
    taught = [("soft", 9.0, True), ("cross_entropy", 0.1, False)]
    assert losses_of(recipe) == (taught if standardized else [("soft", 1.0, False), ("cross_entropy", 0.5, False)])


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"a": 60, "b": 60, "unlabelled": 4}, [("photos.train", 0.9), ("photos.pool", 0.1)]),
        ({"a": 60, "b": 60, "unlabelled": 180}, [("photos.pool", 0.7), ("photos.train", 0.3)]),
        ({"a": 5, "b": 5, "unlabelled": 90}, [("photos.pool", 0.8), ("photos.support", 0.2)]),
    ],
    ids=["few unlabelled", "more", "nearly all"],
)
def test_unlabelled_images_have_their_share_of_a_batch_and_decide_only_if_they_are_many(
    counts: dict[str, int], expected: list[tuple[str, float]], tmp_path: Path
) -> None:
    recipe = taught_recipe(tmp_path, counts)
    student = next(stage for stage in recipe.stages if isinstance(stage, Distill))
    assert [(stream.data, stream.share) for stream in student.streams] == expected
    assert quantize_of(recipe).calibration == expected[0][0]
    assert student.objectives[0].standardize is (expected[0][0] == "photos.train")


def taught_recipe(folder: Path, counts: dict[str, int]) -> Recipe:
    """The recipe of `init` for so many images a class, with a teacher from a file of weights."""
    file = folder / "test_efficientnet.safetensors"
    save_file(create_model("test_efficientnet", 1000).module.state_dict(), file)
    status, said = init(photos(folder / "photos", counts), "--weights", file, "--student", "test_vit")
    assert status == 0, said
    return load_recipe(folder / "new.yaml")


def quantize_of(recipe: Recipe) -> Quantize:
    return next(stage for stage in recipe.stages if isinstance(stage, Quantize))


def losses_of(recipe: Recipe) -> list[tuple[str, float, bool]]:
    """The name of each loss of the student, its weight, and whether it standardizes the logits."""
    student = next(stage for stage in recipe.stages if isinstance(stage, Distill))
    return [(term.loss, term.weight, getattr(term, "standardize", False)) for term in student.objectives]


def test_unbalanced_classes_are_weighted(tmp_path: Path) -> None:
    for counts, weighted in (({"a": 60, "b": 60}, None), ({"a": 120, "b": 20}, "balanced")):
        folder = photos(tmp_path / str(weighted) / "photos", counts)
        status, said = init(folder, "--student", "test_vit", "--min-accuracy", 0.8)
        assert status == 0, said
        recipe = load_recipe(folder.parent / "new.yaml")
        assert recipe.budget.top1 == 0.8
        student = next(stage for stage in recipe.stages if stage.id == "student")
        assert student.class_weights == weighted
        assert ("classes are weighted" in said) == (weighted is not None)


def test_the_model_of_a_file_of_weights_is_read_from_its_name(tmp_path: Path) -> None:
    assert model_of_weights(Path("a/tf_efficientnet_lite2.in1k.fp16.safetensors")) == "tf_efficientnet_lite2.in1k"
    assert model_of_weights(Path("resnet50.pth")) == "resnet50"
    assert model_of_weights(Path("best.pth")) is None
    with pytest.raises(ArtifactError, match="no such file"):
        weights_from(tmp_path / "none.pth", None, None, True)
    (tmp_path / "best.pth").write_bytes(b"")
    with pytest.raises(RecipeError, match="not known"):
        weights_from(tmp_path / "best.pth", None, None, True)
    assert weights_from(tmp_path / "best.pth", "resnet50", None, True).file.model == "resnet50"
    with pytest.raises(RecipeError, match="no timm model"):
        weights_from(None, "resnet5O", None, True)


def test_weights_that_cannot_be_had_are_an_error_with_a_way_out() -> None:
    assert not hub_answers()
    with pytest.raises(ArtifactError, match="cannot be fetched") as caught:
        check_pretrained("resnet50.a1_in1k")
    assert "weights: FILE" in str(caught.value)
    with pytest.raises(ArtifactError, match="cannot be fetched"):
        create_model("resnet18.a1_in1k", None, pretrained=True)


def test_a_dry_run_sees_weights_that_cannot_be_had(tmp_path: Path) -> None:
    recipe = (
        "name: r\ndatasets: {}\nstages:\n  - {stage: load, id: teacher, model: resnet18.a1_in1k, pretrained: true}\n"
    )
    (tmp_path / "r.yaml").write_text(recipe)
    with pytest.raises(ArtifactError, match="cannot be fetched"):
        CliRunner().invoke(app, ["run", str(tmp_path / "r.yaml"), "--dry-run"], catch_exceptions=False)


def test_the_printed_way_out_works(tmp_path: Path) -> None:
    """`weights: FILE` beside `pretrained: true` wins."""
    from safetensors.torch import save_file

    from edgevit.actions.single_stage import single_stages
    from edgevit.configs import Load

    save_file(create_model("test_vit", 3).module.state_dict(), tmp_path / "w.safetensors")
    load = Load(stage="load", id="m", model="test_vit", pretrained=True, weights=str(tmp_path / "w.safetensors"))
    with single_stages(Context()) as stages:
        made = stages.make(load)
        assert made.manifest.provenance["weights_from"] == {"body": "file", "classifier": "file"}
        assert len(made.io.classes) == 3


def test_doctor_tries_the_hub() -> None:
    answer = CliRunner().invoke(app, ["doctor"])
    assert "hub: needed for pretrained weights only" in answer.output


RECIPE = """
name: r
budget: {latency_ms: LIMIT}
datasets: {digits: {source: digits}}
stages:
  - {stage: train, id: student, model: shvit_s2, image_size: 224, data: digits.train}
  - {stage: export, id: onnx, model: student}
  - {stage: quantize, id: int8, model: onnx, calibration: digits.train}
  - {stage: compile, id: engine, model: int8}
  - {stage: evaluate, id: accuracy, model: engine, data: digits.test}
  - {stage: profile, id: float_latency, model: onnx}
  - {stage: profile, id: latency, model: engine}
  - {stage: report, id: report, of: [accuracy, float_latency, latency]}
"""


def recipe_within(limit_ms: float, folder: Path) -> Path:
    """A recipe that deploys the INT8 file, as those of `init` do."""
    text = RECIPE.replace("  - {stage: compile, id: engine, model: int8}\n", "").replace("engine", "int8")
    (folder / "r.yaml").write_text(text.replace("LIMIT", str(limit_ms)))
    return folder / "r.yaml"


def test_run_stops_before_training_what_will_be_too_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEVIT_CACHE", str(tmp_path / "cache"))
    keep_timings(10)
    recipe = load_recipe(recipe_within(2, tmp_path))
    with pytest.raises(CheckFailed, match="shvit_s2 at 224 px will not meet the latency budget") as caught:
        check_before_run(recipe, tmp_path, tmp_path / "runs", Context(), ())
    assert caught.value.exit_code == 1
    assert "--anyway" in str(caught.value)
    within = [candidate for candidate in shortlist() if candidate.expected_ms * 1.02 <= ROOM * 2]
    assert str(within[-1]) in str(caught.value)
    check_before_run(load_recipe(recipe_within(5, tmp_path)), tmp_path, tmp_path / "runs", Context(), ())


def test_a_budget_inside_the_interval_does_not_stop_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEVIT_CACHE", str(tmp_path / "cache"))
    kept.keep(
        Student(model="shvit_s2", image_size=224, num_classes=10), deployed_form("local-cpu"), timing(5.05), Context()
    )
    check_before_run(load_recipe(recipe_within(5, tmp_path)), tmp_path, tmp_path / "runs", Context(), ())


def test_the_deployed_chain_is_the_one_that_the_report_judges(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE.replace("LIMIT", "5"))
    chain = deployed_chain(load_recipe(tmp_path / "r.yaml"))
    assert chain is not None
    form = chain.form
    assert [type(stage) for stage in (form.profile, form.export, form.quantize, form.compile)] == [
        Profile, Export, Quantize, Compile,
    ]  # fmt: skip
    assert (form.profile.id, chain.trained.id) == ("latency", "student")
    pruned = RECIPE.replace("LIMIT", "5").replace("  - {stage: export, id: onnx, model: student}", (
        "  - {stage: prune, id: pruned, model: student, keep_macs: 0.5, data: digits.train}\n"
        "  - {stage: export, id: onnx, model: pruned}"
    ))  # fmt: skip
    (tmp_path / "pruned.yaml").write_text(pruned)
    assert deployed_chain(load_recipe(tmp_path / "pruned.yaml")) is None


def test_the_deployed_model_that_the_report_names_is_timed(tmp_path: Path) -> None:
    """The early check times the model that the report judges: the named one, or else the most derived one."""
    for deployed, kinds in ((", deployed: onnx", (Export, None, None)), ("", (Export, Quantize, Compile))):
        text = RECIPE.replace("LIMIT", "5").replace("float_latency, latency]", f"float_latency, latency]{deployed}")
        (tmp_path / "r.yaml").write_text(text)
        chain = deployed_chain(load_recipe(tmp_path / "r.yaml"))
        assert chain is not None
        stages = (chain.form.export, chain.form.quantize, chain.form.compile)
        assert tuple(stage and type(stage) for stage in stages) == kinds


def test_the_quickstart_is_judged_by_the_file_that_it_ships() -> None:
    chain = deployed_chain(load_recipe(shipped_recipe("quickstart")))
    assert chain is not None
    assert chain.form.profile.model == "int8"


def test_the_data_sets_of_a_run_with_a_budget_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = photos(tmp_path / "photos", {"a": 12, "b": 12})
    recipe = recipe_within(5, tmp_path)
    text = recipe.read_text().replace("{source: digits}", f"{{source: image_folder, path: {folder}}}")
    recipe.write_text(text.replace("digits", "photos"))
    monkeypatch.setenv("EDGEVIT_CACHE", str(tmp_path / "cache"))
    keep_timings(2)
    read: list[str] = []
    read_source = roles.read_source

    def noting(name: str, *rest: Any) -> Any:
        read.append(name)
        return read_source(name, *rest)

    monkeypatch.setattr(roles, "read_source", noting)
    check_before_run(load_recipe(recipe), tmp_path, tmp_path / "runs", Context(), ())
    assert read == ["photos"]


@pytest.mark.parametrize(("value", "up"), [(1.064, 1.1), (0.331, 0.34), (12, 12), (9.91, 10), (30.2, 31)])
def test_a_budget_is_rounded_up(value: float, up: float) -> None:
    assert rounded_up(value) == up


def test_a_shipped_recipe_takes_no_options_of_photos(tmp_path: Path) -> None:
    command = ["init", "--recipe", "quickstart", "--out", str(tmp_path / "q.yaml")]
    answer = CliRunner().invoke(app, [*command, "--latency-ms", "7"])
    assert answer.exit_code != 0
    assert isinstance(answer.exception, RecipeError)
    assert "--latency-ms" in str(answer.exception)
    assert not (tmp_path / "q.yaml").exists()
    assert CliRunner().invoke(app, command).exit_code == 0
