"""Recipes: what is accepted, and what each mistake is answered with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from edgevit.actions.single_stage import stage_config
from edgevit.artifacts import sha256_of
from edgevit.configs import STAGES, Distill, Evaluate, Load, Npz, Quantize, Report
from edgevit.configs.fields import Takes, _configs_in, _marks, purpose_of
from edgevit.data import dataset_artifacts
from edgevit.errors import RecipeError
from edgevit.recipe import Recipe, load_recipe, recipe_schema
from edgevit.store import Store, changed_fields

GOOD = """\
name: small
budget: {latency_ms: 5}
datasets:
  glyphs: {source: glyphs}
  digits: {source: digits, few_shot: {shots: 5}}
stages:
  - {stage: train, id: teacher, model: resnet18, data: glyphs.train, learning_rate: 1e-3}
  - {stage: fewshot, id: adapted, model: teacher, support: digits.support, pool: digits.pool}
  - stage: distill
    id: student
    teacher: adapted
    model: deit_tiny_patch16_224
    streams:
      - {data: digits.support, share: 0.2}
      - {data: digits.pool, share: 0.8}
    augmentation: {rotate_degrees: 10}
  - {stage: evaluate, id: accuracy/float, model: student, data: digits.test}
  - {stage: profile, id: latency/float, model: student}
  - {stage: report, id: report, of: [accuracy/*, latency/float]}
"""


FORMER_NAMES = """\
name: former
datasets:
  digits: {{source: digits, few_shot: {{shots: 5}}}}
stages:
  - {{stage: train, id: teacher, model: vit_tiny_patch16_224, data: digits.support}}
  - {{stage: {guess}, id: guessed, teacher: teacher, data: digits.pool}}
  - {{stage: {fewer}, id: thinner, model: teacher, keep_macs: 0.8, data: digits.support}}
  - {{stage: {merge}, id: merged, model: thinner, per_block: 2}}
  - {{stage: export, id: onnx, model: merged, {inside}: true}}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def load(tmp_path: Path, text: str, *settings: str) -> Recipe:
    return load_recipe(write(tmp_path, text), settings)


def test_a_good_recipe_is_read(tmp_path: Path) -> None:
    recipe = load(tmp_path, GOOD)
    assert recipe.budget.latency_ms == 5
    assert recipe.stages[0].learning_rate == 1e-3
    assert recipe.dataset_names() == ["glyphs.train", "digits.support", "digits.pool", "digits.test"]
    report = recipe.stages[-1]
    assert isinstance(report, Report)
    assert report.of == ("accuracy/float", "latency/float")


def test_a_bundle_that_takes_classes_needs_an_embedding_from_the_start(tmp_path: Path) -> None:
    stages = """\
  - {stage: export, id: onnx, model: student}
  - {stage: quantize, id: int8, model: onnx, calibration: digits.pool}
  - {stage: compile, id: engine, model: int8}
  - {stage: bundle, id: bundle, model: engine, support: digits.support}
"""
    with pytest.raises(RecipeError, match="needs a model with an embedding") as caught:
        load(tmp_path, GOOD + stages)
    assert "recipe.yaml:23" in str(caught.value)
    assert "embedding: true in stage 'onnx'" in str(caught.value)
    assert load(tmp_path, GOOD + stages, "stages.onnx.embedding=true")
    with pytest.raises(RecipeError, match="only evaluate and attention may read"):
        load(tmp_path, GOOD + stages.replace("digits.support", "digits.test"), "stages.onnx.embedding=true")


def test_the_deployed_model_of_a_report_is_measured_from_the_start(tmp_path: Path) -> None:
    with_deployed = GOOD.replace("latency/float]}", "latency/float], deployed: adapted}")
    with pytest.raises(RecipeError, match="nothing in 'of' measures the deployed model 'adapted'") as caught:
        load(tmp_path, with_deployed)
    assert "one of student" in str(caught.value)
    assert load(tmp_path, with_deployed, "stages.report.deployed=student").stages[-1].id == "report"


def test_the_budgets_size_is_a_limit_of_the_file_that_ships(tmp_path: Path) -> None:
    small = GOOD.replace("latency_ms: 5", "latency_ms: 5, size_mib: 3")
    quantize = "  - {{stage: quantize, id: {id}, model: onnx, calibration: digits.pool{more}}}\n"
    made = "".join(quantize.format(id=id, more=more) for id, more in (("ships", ""), ("own", ", size_mib: 2")))
    made += quantize.format(id="whole", more=", placement: all") + quantize.format(id="before", more="")
    export, compiled = (
        "  - {stage: export, id: onnx, model: student}\n",
        "  - {stage: compile, id: fast, model: before}\n",
    )
    stages = export + made + compiled
    read = load(tmp_path, small + stages)
    limits = {stage.id: stage.size_mib for stage in read.stages if isinstance(stage, Quantize)}
    assert limits == {"ships": 3, "own": 2, "whole": None, "before": None}
    with pytest.raises(RecipeError, match="'size_mib' decides between forms that are timed"):
        load(tmp_path, small + stages, "stages.whole.size_mib=3")


def test_the_budgets_size_is_no_limit_of_a_file_that_is_selected_and_then_compiled(tmp_path: Path) -> None:
    small = GOOD.replace("latency_ms: 5", "latency_ms: 5, size_mib: 3")
    stages = """\
  - {stage: export, id: onnx, model: student}
  - {stage: quantize, id: int8/a, model: onnx, calibration: digits.pool}
  - {stage: quantize, id: int8/b, model: onnx, calibration: digits.support}
  - {stage: select, id: best, models: [int8/*], data: digits.support}
"""
    compiled = "  - {stage: compile, id: fast, model: best}\n"
    for more, limit in (("", 3), (compiled, None)):
        read = load(tmp_path, small + stages + more)
        assert {stage.size_mib for stage in read.stages if isinstance(stage, Quantize)} == {limit}


@pytest.mark.parametrize("limit", ["top1", "balanced_accuracy", "recall"])
def test_a_floor_on_accuracy_is_a_fraction(tmp_path: Path, limit: str) -> None:
    assert load(tmp_path, GOOD, f"budget.{limit}=0.9").budget.model_dump(exclude_none=True)[limit] == 0.9
    with pytest.raises(RecipeError, match="at least 0 and at most 1"):
        load(tmp_path, GOOD, f"budget.{limit}=90")


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("rotate_degrees", "rotate_degres", 16, "Did you mean 'rotate_degrees'?"),
        ("id: teacher, model", "id: teacher, epocs: 3, model", 7, "no key of stage 'train'. Did you mean 'epochs'?"),
        ("stage: fewshot", "stage: fewshots", 8, "Did you mean 'fewshot'?"),
        ("source: glyphs", "source: glyph", 4, "Did you mean 'glyphs'?"),
        ("share: 0.2", "share: 2", 14, "above 0 and at most 1"),
        ("share: 0.2", "share: 0.1", 9, "must add up to 1"),
        ("teacher: adapted", "teacher: adaptd", 11, "Did you mean 'adapted'?"),
        ("teacher: adapted", "teacher: latency/float", 11, "comes later"),
        ("model: student, data: digits.test", "model: student, data: digit.test", 17, "Did you mean 'digits'?"),
        ("data: glyphs.train", "data: glyphs.support", 7, "few_shot"),
        ("data: digits.test", "data: digits.tests", 17, "no role 'tests'"),
        ("of: [accuracy/*, latency/float]", "of: [student]", 19, "'student' makes a checkpoint"),
        ("model: resnet18", "model: resnet81", 7, "timm has no model 'resnet81'"),
        ("pool: digits.pool", "pool: digits.test", 8, "only evaluate and attention may read"),
        ("pool: digits.pool", "pool: digits", 8, "'digits' includes its test images"),
        ("model: resnet18, data", "data", 7, "either 'model' (a timm name) or 'init'"),
        ("    model: deit_tiny_patch16_224", "    init: adapted\n    model_args: {depth: 2}", 9, "goes with 'model'"),
        ("id: adapted", "id: teacher", 8, "the id 'teacher' is used twice"),
        ("id: latency/float", "id: accuracy", 18, "cannot both be folders"),
        ("latency_ms: 5", "latency_ms: -5", 2, "above 0 and at most"),
        ("latency_ms: 5", "latency_ms: 5, latency_ms: 6", 2, "duplicate key"),
        ("name: small", "name: ../small", 1, "match pattern"),
        ("id: teacher, ", "", 7, "needs the key 'id'"),
        ("stages:", "stages: [", None, "not valid YAML"),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_their_line(tmp_path: Path, old: str, new: str, line: int | None, says: str) -> None:
    assert old in GOOD
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, GOOD.replace(old, new, 1))
    message = str(caught.value)
    assert says in message
    if line is not None:
        assert f"recipe.yaml:{line}: " in message


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, GOOD.replace("rotate_degrees", "rotate").replace("share: 0.2", "shar: 0.2"))
    assert "'rotate'" in str(caught.value)
    assert "'shar'" in str(caught.value)


def test_settings_change_values(tmp_path: Path) -> None:
    recipe = load(
        tmp_path,
        GOOD,
        "stages.student.epochs=3",
        "stages.student.streams.0.share=0.5",
        "stages.student.streams.1.share=0.5",
        "datasets.digits.few_shot.draw=4",
        "budget.top1_drop=0.01",
        "stages.teacher.augmentation.horizontal_flip=0",
    )
    student = recipe.stages[2]
    assert isinstance(student, Distill)
    assert student.epochs == 3
    assert student.streams[0].share == 0.5
    assert recipe.datasets["digits"].few_shot is not None
    assert recipe.datasets["digits"].few_shot.draw == 4
    assert recipe.budget.top1_drop == 0.01
    assert recipe.stages[0].augmentation.horizontal_flip == 0


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("stages.studnet.epochs=3", "Did you mean 'student'?"),
        ("stages.student.epochs", "form key.path=value"),
        ("stages.student.epocs=3", "Did you mean 'epochs'?"),
        ("stages.student.epochs=many", "valid integer"),
        ("stages.student.epochs=[", "not valid YAML"),
        ("stages.student.epochs.a.b=3", "to set"),
        ("name.a.b=3", "there is no 'a' to set"),
    ],
)
def test_settings_that_fit_nothing(tmp_path: Path, setting: str, says: str) -> None:
    with pytest.raises(RecipeError, match=r".") as caught:
        load(tmp_path, GOOD, setting)
    assert says in str(caught.value)


def test_paths_in_settings_start_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = GOOD.replace("{source: glyphs}", "{source: image_folder, path: here}")
    monkeypatch.chdir(tmp_path)
    recipe = load(tmp_path, text, "datasets.glyphs.path=there")
    assert recipe.datasets["glyphs"].path == str(tmp_path / "there")


def test_a_tilde_is_the_users_folder_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    train = "stage: train, id: teacher, model: resnet18, data: glyphs.train, learning_rate: 1e-3"
    recipe = load(tmp_path, GOOD.replace(train, "stage: load, id: teacher, model: resnet18, weights: ~/own.pth"))
    assert isinstance(recipe.stages[0], Load)
    assert recipe.stages[0].weights == str(tmp_path / "own.pth")
    with pytest.raises(RecipeError, match="there is no such user"):
        load(tmp_path, GOOD, "datasets.digits.path=~nosuchuser/x")
    glyphs = Npz(source="npz", path="~nosuchuser/x.npz")
    with pytest.raises(RecipeError, match="there is no such user"):
        dataset_artifacts({"own": glyphs}, tmp_path, ["own"])


def test_a_folder_whose_name_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes no names that are not UTF-8")
    with pytest.raises(RecipeError, match="the folder's name is not UTF-8"):
        load(folder, GOOD)


def test_yaml_reads_as_yaml_1_2(tmp_path: Path) -> None:
    text = GOOD.replace("{source: glyphs}", "{source: image_folder, path: x, include_classes: [no, yes]}")
    assert load(tmp_path, text).datasets["glyphs"].include_classes == ("no", "yes")


FOR_EACH = """\
name: each
datasets: {digits: {source: digits}}
stages:
  - for_each: {model: [resnet18, deit_tiny_patch16_224]}
    stages:
      - {stage: train, id: student, model: "${model}", data: digits.train}
      - {stage: evaluate, id: accuracy, model: student, data: digits.test}
  - {stage: report, id: report, of: [accuracy/*]}
"""


def test_for_each_makes_a_copy_per_value(tmp_path: Path) -> None:
    recipe = load(tmp_path, FOR_EACH)
    assert [stage.id for stage in recipe.stages] == [
        "student/resnet18",
        "accuracy/resnet18",
        "student/deit_tiny_patch16_224",
        "accuracy/deit_tiny_patch16_224",
        "report",
    ]
    assert recipe.stages[3].model == "student/deit_tiny_patch16_224"
    assert recipe.stages[-1].of == ("accuracy/resnet18", "accuracy/deit_tiny_patch16_224")


def test_for_each_renames_what_refers_to_a_stage_and_nothing_else(tmp_path: Path) -> None:
    stages = """\
      - {stage: train, id: train, model: "${model}", data: digits.train}
      - {stage: distill, id: distill, model: resnet18, teachers: [{model: train}], streams: [{data: digits.train}]}
      - {stage: export, id: export, model: distill}
      - {stage: quantize, id: int8, model: export, calibration: digits.train, precision: int8}
      - {stage: evaluate, id: accuracy, model: int8, data: digits.test}
"""
    text = (
        FOR_EACH[: FOR_EACH.index("      - {stage: train")] + stages + FOR_EACH[FOR_EACH.index("  - {stage: report") :]
    )
    copies = load(tmp_path, text, "stages.train.epochs=3", "stages.int8.seed=4").stages
    first = {stage.id: stage for stage in copies[:5]}
    assert list(first) == [f"{name}/resnet18" for name in ("train", "distill", "export", "int8", "accuracy")]
    assert first["distill/resnet18"].teachers[0].model == "train/resnet18"
    assert (first["int8/resnet18"].model, first["int8/resnet18"].precision) == ("export/resnet18", "int8")
    assert [copies[place].epochs for place in (0, 5)] == [3, 3]
    assert [copies[place].seed for place in (3, 8)] == [4, 4]


def test_a_value_of_a_list_that_is_misspelt_gets_the_nearest_one(tmp_path: Path) -> None:
    stage = "{stage: fewshot, id: t, model: student, support: digits.train, method: knnn}"
    text = FOR_EACH.replace(
        "      - {stage: evaluate, id: accuracy, model: student, data: digits.test}", f"      - {stage}"
    )
    with pytest.raises(RecipeError, match=r"'method' of stage 'fewshot': (.|\n)*Did you mean 'knn'") as caught:
        load(tmp_path, text.replace(", of: [accuracy/*]", ", of: [t]"))
    assert str(caught.value).count("got: knnn") == 2  # once a copy
    with pytest.raises(RecipeError, match=r"--methods: (.|\n)*got: ridg\n(.|\n)*Did you mean 'ridge'"):
        stage_config(Evaluate, id="x", model="m", data="d", protocol="episodes", methods=["ridg"])


def test_a_drop_of_a_whole_is_no_budget(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"'top1_drop' of 'budget': (.|\n)*below 1\n(.|\n)*got: 2"):
        load(tmp_path, GOOD.replace("latency_ms: 5", "top1_drop: 2"))


def dataset_fields(config: type[BaseModel], path: str = "") -> Iterator[str]:
    """The paths of the fields of a config that take a data set."""
    for name, info in config.model_fields.items():
        if any(takes.kinds == ("dataset",) for takes in _marks(info.annotation, info.metadata, Takes)):
            yield path + name
        for inner in _configs_in(info.annotation):
            yield from dataset_fields(inner, f"{path}{name}.0.")


def test_every_data_set_of_a_stage_has_a_purpose() -> None:
    purposes = {
        (name, path): purpose_of(config, path) for name, config in STAGES.items() for path in dataset_fields(config)
    }
    assert None not in purposes.values()
    assert purposes["distill", "streams.0.data"] == "learned from"
    assert purposes["train", "val"] == "validated on"
    assert purposes["load", "classes_of"] == "names only"
    assert [key for key, purpose in purposes.items() if purpose == "judged by"] == [("evaluate", "data")]
    assert [key for key, purpose in purposes.items() if purpose == "looked at"] == [("attention", "data")]
    assert [key for key, purpose in purposes.items() if purpose == "adapted to"] == [
        ("fewshot", "support"),
        ("bundle", "support"),
    ]
    assert purpose_of(STAGES["distill"], "teachers.0.model") is None
    assert purpose_of(STAGES["train"], "no.such.field") is None


def test_what_is_learned_from_is_no_test(tmp_path: Path) -> None:
    text = FOR_EACH.replace("data: digits.test", "data: digits")
    with pytest.raises(RecipeError, match=r"recipe.yaml:7: (.|\n)*learn from \(digits.train\)(.|\n)*: digits.test"):
        load(tmp_path, text)
    with pytest.raises(RecipeError, match=r"learn from \(glyphs\)"):
        load(tmp_path, text.replace("digits.train", "glyphs").replace("digits", "glyphs"))
    load(
        tmp_path, text.replace("digits.train", "glyphs.train").replace("{digits:", "{glyphs: {source: glyphs}, digits:")
    )


def test_an_id_may_hold_the_value_itself(tmp_path: Path) -> None:
    text = FOR_EACH.replace("id: student", 'id: "big_${model}"').replace("model: student", 'model: "big_${model}"')
    recipe = load(tmp_path, text)
    assert [stage.id for stage in recipe.stages][:2] == ["big_resnet18", "accuracy/resnet18"]
    assert recipe.stages[1].model == "big_resnet18"


def test_an_id_that_is_no_text_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.yaml:6: 'id' of stage 'train'"):
        load(tmp_path, FOR_EACH.replace("id: student", "id: 1"))


def test_a_variable_that_no_block_has_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no such variable(.|\n)*got: \$\{name\}(.|\n)*expected: \$\{model\}"):
        load(tmp_path, FOR_EACH.replace('model: "${model}"', 'model: "${name}"'))


def test_mistakes_in_a_for_each_block_keep_their_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.yaml:6: "):
        load(tmp_path, FOR_EACH.replace("data: digits.train", "date: digits.train"))


def test_the_schema_names_every_stage_and_source() -> None:
    text = str(recipe_schema())
    for word in ("distill", "image_folder", "latency_ms", "few_shot"):
        assert word in text


@pytest.mark.parametrize(
    "stages", ["[3]", "{a: b}", "[{for_each: {m: 3}, stages: []}]", "[{for_each: {m: [a]}, stages: 3}]", "text", "[[]]"]
)
def test_stages_of_another_shape(tmp_path: Path, stages: str) -> None:
    with pytest.raises(RecipeError):
        load(tmp_path, f"name: small\ndatasets: {{}}\nstages: {stages}\n")


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "just text", "\x00", "name: [", "a: *b"])
def test_no_recipe_at_all(tmp_path: Path, content: str) -> None:
    with pytest.raises(RecipeError):
        load(tmp_path, content)


def test_a_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such recipe"):
        load_recipe(tmp_path / "none.yaml")


DISTILL = """\
name: taught
datasets: {{digits: {{source: digits, few_shot: {{shots: 5}}}}}}
stages:
  - {{stage: load, id: teacher, model: resnet18, classes_of: digits}}
  - {{stage: distill, id: student, teacher: teacher, model: deit_tiny_distilled_patch16_224,
     streams: [{{data: digits.support}}], {fields}}}
"""


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("objectives: [{loss: cross_entropy}]", "no term learns from the teacher"),
        ("distillation_token: true, objectives: [{loss: soft}]", "the class head of a distillation-token student"),
        (
            "distillation_token: true, objectives: [{loss: cross_entropy}, {loss: features}]",
            "the distillation head of a distillation-token student",
        ),
        ("inference: class", "goes with distillation_token: true"),
        ("teachers: [{model: teacher}]", "give either 'teacher' or 'teachers'"),
        ("augmentation: {mixup: 0.2}, objectives: [{loss: dkd}]", "dkd needs one label for each image"),
        ("teacher_cache: {}, objectives: [{loss: features}]", "the teacher cache keeps no features"),
        ("teacher_view: plain, teacher_cache: {}", "plain needs no teacher_cache"),
        ("teacher_view: plain, objectives: [{loss: features, student: 1, teacher: 1}]", "keeps only pooled features"),
        ("teacher_view: plain, objectives: [{loss: attention_transfer}]", "keeps only pooled features"),
        ("objectives: [{loss: features, student: 1}]", "goes with an intermediate layer"),
        ("objectives: [{loss: attention_transfer, student: [1, 2]}]", "layers go in pairs"),
        ("objectives: [{loss: softt}]", "'softt' is no loss"),
        ("objectives: [{loss: soft, temprature: 2}]", "Did you mean 'temperature'"),
        ("regularization: 0.1, dropout: 0.1", "'regularization' sets"),
        ("schedule: step", "takes one number as decay_epochs"),
        ("schedule: multistep, decay_epochs: [30, 10]", "decay_epochs have to rise, got 30, 10"),
        ("seed: -1", "at least 0 and at most 2,147,483,647"),
        ("decay_rate: 0.5", "'decay_rate' goes with schedule step or multistep"),
        ("augmentation: light9", "input should be .none., .light1."),
    ],
)
def test_contradictions_of_a_distillation_are_named(tmp_path: Path, fields: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load(tmp_path, DISTILL.format(fields=fields))


@pytest.mark.parametrize(
    "fields",
    [
        "distillation_token: true, inference: distillation, objectives: [{loss: soft}]",
        "augmentation: light1, regularization: 0.1",
        "augmentation: {preset: heavy2, horizontal_flip: 0}",
        "schedule: multistep, decay_epochs: [3, 6], decay_rate: 0.2",
        "freeze: backbone, layer_decay: 0.7, accumulation: 4, precision: bfloat16",
    ],
)
def test_options_of_training_are_taken(tmp_path: Path, fields: str) -> None:
    assert load(tmp_path, DISTILL.format(fields=fields)).stages


def test_option_of_finetuning_is_refused_where_a_head_is_fitted(tmp_path: Path) -> None:
    adapt = "  - {stage: fewshot, id: f, model: student, support: digits.support, epochs: 3}\n"
    text = DISTILL.format(fields="epochs: 1") + adapt
    with pytest.raises(RecipeError, match="'epochs' goes with method: finetune"):
        load(tmp_path, text)
    assert load(tmp_path, text.replace("epochs: 3", "epochs: 3, method: finetune")).stages


SHARED = """\
name: shared
datasets:
  p: {source: digits, few_shot: &few {shots: 3}}
  q: {source: digits, few_shot: *few}
stages:
  - {stage: train, id: a, model: resnet18, data: p.support, augmentation: &strength {horizontal_flip: 0.5}}
  - &b {stage: train, id: b, model: resnet18, data: p.support, augmentation: *strength}
  - {<<: *b, id: c}
  - for_each: {model: [resnet18, resnet34]}
    stages: [{stage: train, id: d, model: "${model}", data: q.support, augmentation: *strength}]
"""


@pytest.mark.parametrize("changed", ["a", "b", "c", "d"])
def test_a_setting_changes_what_it_names_and_nothing_that_shares_its_block(tmp_path: Path, changed: str) -> None:
    recipe = load(tmp_path, SHARED, f"stages.{changed}.augmentation.horizontal_flip=0", "datasets.p.few_shot.shots=1")
    flips = {stage.id: stage.augmentation.horizontal_flip for stage in recipe.stages}
    assert flips == {name: 0 if name[0] == changed else 0.5 for name in ("a", "b", "c", "d/resnet18", "d/resnet34")}
    assert {name: config.few_shot.shots for name, config in recipe.datasets.items()} == {"p": 1, "q": 3}


ONE = """\
name: {name}
datasets: {{d: {{source: digits}}}}
stages: [{{stage: train, id: t, model: resnet18, data: d.train{more}}}]
"""


@pytest.mark.parametrize("number", [".inf", "-.inf", ".nan", "1e400", "-1", "99999999999999999999", "true"])
@pytest.mark.parametrize("key", ["learning_rate", "epochs", "batch_size", "dropout", "augmentation.mixup", "seed"])
def test_numbers_without_sense_are_refused_in_the_file_and_in_settings(tmp_path: Path, key: str, number: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, ONE.format(name="x", more=""), f"stages.t.{key}={number}")
    (line,) = [line for line in str(caught.value).splitlines() if not line.startswith("  ")]  # and no other mistake
    assert line.startswith(f"--set stages.t.{key}={number}: ")
    assert key.split(".")[-1] in line
    top, _, inner = key.partition(".")
    more = f", {top}: {{{inner}: {number}}}" if inner else f", {top}: {number}"
    with pytest.raises(RecipeError, match=r"recipe\.yaml:3: "):
        load(tmp_path, ONE.format(name="x", more=more))


@pytest.mark.parametrize("value", ["{a: .nan}", "{a: [1e30]}", "{a: {b: -.inf}}", "{a: 9999999999}"])
def test_numbers_of_model_args_are_bounded_too(tmp_path: Path, value: str) -> None:
    with pytest.raises(RecipeError, match=r"'model_args' of stage 'train': numbers should be at least"):
        load(tmp_path, ONE.format(name="x", more=f", model_args: {value}"))
    text = "{img_size: [96, 128], act: gelu, bias: false, norm: null}"
    stage = load(tmp_path, ONE.format(name="x", more=f", model_args: {text}")).stages[0]
    assert stage.model_args == {"img_size": [96, 128], "act": "gelu", "bias": False, "norm": None}


def test_a_text_that_looks_like_a_number_is_to_be_quoted(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"'name': (.|\n)*got: 1.1\n  next: write it in quotes"):
        load(tmp_path, ONE.format(name="1.10", more=""))
    assert load(tmp_path, ONE.format(name="'1.10'", more="")).name == "1.10"
    assert load(tmp_path, ONE.format(name="2024-01-01", more="")).name == "2024-01-01"


def copies(values: str, stages: str) -> str:
    block = f"  - for_each: {{v: [{values}]}}\n    stages: [{stages}]\n"
    return f"name: x\ndatasets: {{d: {{source: digits}}}}\nstages:\n{block}"


COPY = "{stage: train, id: t, model: '${v}', data: d.train}"
LONG = "x" * 9000


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (copies(", ".join(map(str, range(1001))), COPY), r"recipe\.yaml:4: the recipe has too many stages"),
        (copies(LONG, COPY.replace("${v}", "${v}" * 9)), r"the text is too long with the value of \$\{v\}"),
        (
            copies(", ".join([LONG] * 90), ", ".join([COPY] * 9)),
            "too large once aliases and for_each are written out",
        ),
        ("name: x\ndatasets: {}\nstages: [" + f"{COPY}, " * 1001 + "]\n", "too many stages"),
        (
            "name: x\nstages: []\ndatasets: {" + ", ".join(f"d{i}: {{source: digits}}" for i in range(1001)) + "}\n",
            "'datasets': dictionary should have at most 1000 items",
        ),
    ],
)
def test_what_a_recipe_may_grow_to_is_bounded(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        load(tmp_path, text)


@pytest.mark.parametrize("value", ["1", "[1]", "{a: 1}"])
def test_an_unknown_key_is_of_what_holds_it(tmp_path: Path, value: str) -> None:
    with pytest.raises(RecipeError, match=r"'kk' is no key of stage 'train'\."):
        load(tmp_path, ONE.format(name="x", more=f", kk: {value}"))


def test_of_many_mistakes_the_first_are_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, ONE.format(name="x", more="".join(f", k{i}: {i}" for i in range(3000))))
    assert str(caught.value).count("is no key of stage 'train'") == 20
    assert str(caught.value).endswith("\nthere are more mistakes: fix these first")


@pytest.mark.parametrize(
    "setting", ["stages.²=1", "stages.².epochs=1", f"stages.{'9' * 5000}.epochs=1", "stages.0.0=1"]
)
def test_a_setting_of_no_stage_is_refused(tmp_path: Path, setting: str) -> None:
    with pytest.raises(RecipeError, match="--set stages") as caught:
        load(tmp_path, ONE.format(name="x", more=""), setting)
    assert len(str(caught.value)) < 1000  # of which the list of options takes half


def test_former_names_are_accepted_with_a_note_and_give_the_same_recipe(tmp_path: Path) -> None:
    former = FORMER_NAMES.format(guess="pseudolabel", fewer="factorise", merge="mergetokens", inside="normalise")
    current = FORMER_NAMES.format(guess="pseudo_label", fewer="factorize", merge="merge_tokens", inside="normalize")
    notes: list[str] = []
    (tmp_path / "former.yaml").write_text(former)
    (tmp_path / "current.yaml").write_text(current)
    assert load_recipe(tmp_path / "former.yaml", say=notes.append) == load_recipe(tmp_path / "current.yaml")
    assert [note.partition(";")[0] for note in notes] == [
        "note: stage: pseudolabel is called pseudo_label now",
        "note: stage: factorise is called factorize now",
        "note: stage: mergetokens is called merge_tokens now",
        "note: normalise is called normalize now",
    ]


def test_finished_stages_are_found_under_the_keys_of_their_former_names() -> None:
    store = Store(Path("nowhere"))
    for stage, former_stage, config, former_config in (
        ("merge_tokens", "mergetokens", {"per_block": 2}, {"per_block": 2}),
        ("export", "export", {"normalize": True, "opset": 20}, {"normalise": True, "opset": 20}),
        ("train", "train", {"epochs": 1}, {"epochs": 1}),
    ):
        now = {"stage": stage, "stage_version": 2, "config": config, "target": None}
        former = {"stage": former_stage, "stage_version": 2, "config": former_config, "target": None}
        assert store.key(now) == sha256_of(former)[:40]
        assert changed_fields(former, now) == []


@pytest.mark.parametrize("in_file", ["normalise", "normalize"])
@pytest.mark.parametrize("in_setting", ["normalise", "normalize"])
def test_a_setting_wins_over_the_file_under_either_name(tmp_path: Path, in_file: str, in_setting: str) -> None:
    text = FORMER_NAMES.format(guess="pseudo_label", fewer="factorize", merge="merge_tokens", inside=in_file)
    (tmp_path / "recipe.yaml").write_text(text)
    notes: list[str] = []
    (export,) = [stage.id for stage in load_recipe(tmp_path / "recipe.yaml").stages if stage.stage == "export"]
    recipe = load_recipe(tmp_path / "recipe.yaml", [f"stages.{export}.{in_setting}=false"], notes.append)
    (stage,) = [stage for stage in recipe.stages if stage.id == export]
    assert stage.model_dump()["normalize"] is False
    assert len(notes) == ("normalise" in (in_file, in_setting))


def test_the_option_of_a_stage_under_its_former_name_can_be_set(tmp_path: Path) -> None:
    text = FORMER_NAMES.format(guess="pseudolabel", fewer="factorise", merge="mergetokens", inside="normalize")
    (tmp_path / "recipe.yaml").write_text(text)
    before = load_recipe(tmp_path / "recipe.yaml")
    (merged,) = [stage.id for stage in before.stages if stage.stage == "merge_tokens"]
    recipe = load_recipe(tmp_path / "recipe.yaml", [f"stages.{merged}.stage=mergetokens"])
    assert recipe == before
