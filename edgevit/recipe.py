"""Recipes: YAML in, frozen and checked configuration out, with the line of every mistake."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq, LineCol
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from edgevit.artifacts import Frozen, Kind
from edgevit.configs import (
    DATASETS,
    OBJECTIVES,
    STAGES,
    Budget,
    Bundle,
    Compile,
    DatasetConfig,
    Export,
    Qat,
    Quantize,
    Stage,
    StageConfig,
    references,
    with_absolute_files,
)
from edgevit.configs.fields import MEASUREMENTS, reference_fields
from edgevit.errors import RecipeError, did_you_mean
from edgevit.models.names import known_model, nearest_models

Location = tuple[str | int, ...]
ROLES = ("train", "val", "test", "support", "pool")
LARGEST_RECIPE = 1_000_000  # bytes
NEED_TRUE_LABELS = (("evaluate", ("data",)), ("pseudolabel", ("calibration",)), ("bundle", ("unseen",)))


class Recipe(Frozen):
    """A name, a budget, named data sets and a list of stages in the order in which they run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] = Field(description="the folder under runs/")
    budget: Budget = Budget()
    datasets: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")], DatasetConfig]
    stages: tuple[StageConfig, ...] = Field(min_length=1)

    def dataset_names(self) -> list[str]:
        """The data sets and roles ("digits.support") that stages refer to and that no stage makes, each once."""
        made = {stage.id for stage in self.stages}
        names = [name for stage in self.stages for _, name, takes in references(stage) if takes.kinds == ("dataset",)]
        return [name for name in dict.fromkeys(names) if name not in made]


def load_recipe(path: Path, settings: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        path: the YAML file. Relative paths in it start from its folder.
        settings: changes of the form "stages.ID.key=value", "datasets.NAME.key=value", "budget.latency_ms=5";
            a relative path given here starts from the current folder.

    Raises:
        RecipeError: with the line and the nearest valid name, for anything that a run could not use.
    """
    document = _parse(path)
    for setting in settings:
        _apply(document, setting)
    _expand_for_each(document, path)
    try:
        recipe = Recipe.model_validate(document)
    except ValidationError as error:
        raise _combined([_explained(problem, document, path) for problem in error.errors(include_url=False)]) from None
    stages = tuple(
        with_absolute_files(_with_patterns(stage, recipe.stages[:i]), path.parent)
        for i, stage in enumerate(recipe.stages)
    )
    recipe = recipe.model_copy(update={"stages": stages})
    problems = list(_wrong_names(recipe, document, path))
    if problems:
        raise _combined(problems)
    return recipe


def recipe_schema() -> dict[str, Any]:
    """JSON Schema of recipes, for editors."""
    schema = TypeAdapter(Recipe).json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "edgevit recipe", **schema}


# Reading ------------------------------------------------------------------------------------------------------


def _parse(path: Path) -> CommentedMap:
    if not path.is_file():
        raise RecipeError("there is no such recipe", where=path, next="edgevit init FOLDER writes one")
    if path.stat().st_size > LARGEST_RECIPE:
        raise RecipeError("the file is too large for a recipe", where=path, expected=f"at most {LARGEST_RECIPE} bytes")
    try:
        document = YAML(typ="rt", pure=True).load(path.read_text(encoding="utf-8"))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else path
        raise RecipeError(f"this is not valid YAML: {error.problem or error.context}", where=where) from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"this is not valid YAML: {error}", where=path) from None
    if not isinstance(document, CommentedMap):
        raise RecipeError("a recipe is a mapping", where=path, expected="name:, datasets:, stages:")
    return document


def _apply(document: CommentedMap, setting: str) -> None:
    """Change one value, `stages.ID.key=value`; ids may themselves hold dots."""
    target, equals, text = setting.partition("=")
    where = f"--set {setting}"
    if not equals:
        raise RecipeError("a setting has the form key.path=value", where=where)
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise RecipeError("the value is not valid YAML", where=where, got=text) from error
    names = target.split(".")
    node: Any = document
    while len(names) > 1:
        node, names = _descend(node, names, where)
    if not isinstance(node, CommentedMap):
        raise RecipeError(f"'{names[0]}' has no place here", where=where)
    if names[0] in ("path", "weights") and isinstance(value, str):
        value = str(Path(value).expanduser().absolute())
    node[names[0]] = value


def _descend(node: Any, names: list[str], where: str) -> tuple[Any, list[str]]:
    for length in range(1, len(names)):
        name, rest = ".".join(names[:length]), names[length:]
        if isinstance(node, CommentedSeq):
            for item in _stages_in(node):
                if item.get("id") == name:
                    return item, rest
            if name.isdigit() and int(name) < len(node):
                return node[int(name)], rest
        elif isinstance(node, CommentedMap) and name in node:
            return node[name], rest
        elif isinstance(node, CommentedMap) and name in ("budget", "augmentation", "few_shot", "splits", "model_args"):
            node[name] = CommentedMap()
            return node[name], rest
    known: list[str] = []
    if isinstance(node, CommentedSeq):
        known = [str(item["id"]) for item in _stages_in(node) if "id" in item]
    elif isinstance(node, Mapping):
        known = list(map(str, node))
    raise RecipeError(
        f"there is no '{names[0]}' to set. {did_you_mean(names[0], known) or ''}".strip(),
        where=where,
        expected=f"one of {', '.join(known)}" if known else None,
    )


def _stages_in(node: CommentedSeq) -> Iterator[Mapping[str, Any]]:
    """The stages of a list, and those of its for_each blocks: what is set there is set in every copy."""
    for item in node:
        if isinstance(item, Mapping):
            yield item
            inner = item.get("stages")
            yield from _stages_in(inner) if isinstance(inner, CommentedSeq) else ()


# for_each -----------------------------------------------------------------------------------------------------


def _expand_for_each(document: CommentedMap, path: Path) -> None:
    """Replace each block {for_each: {NAME: [a, b]}, stages: […]} by one copy of its stages per value.

    In the copy for a, `${NAME}` becomes a, ids without it get the suffix /a, and references to ids of the block follow.
    """
    stages = document.get("stages")
    if not isinstance(stages, CommentedSeq):
        return
    expanded = CommentedSeq()
    for index, item in enumerate(stages):
        is_block = isinstance(item, Mapping) and "for_each" in item
        copies = _copies(item, f"{path}:{stages.lc.item(index)[0] + 1}") if is_block else [item]
        for copy in copies:
            expanded.append(copy)
            expanded.lc.add_kv_line_col(len(expanded) - 1, [*stages.lc.item(index), *stages.lc.item(index)])
    document["stages"] = expanded


def _copies(block: Mapping[str, Any], where: str) -> Iterator[Any]:
    variables, stages = block.get("for_each"), block.get("stages")
    if not isinstance(variables, Mapping) or len(variables) != 1 or not isinstance(stages, list):
        raise RecipeError("a for_each block is {for_each: {NAME: [values]}, stages: [...]}", where=where)
    ((name, values),) = variables.items()
    if not isinstance(values, list):
        raise RecipeError(f"for_each needs a list of values for '{name}'", where=where, got=values)
    ids = {stage["id"] for stage in stages if isinstance(stage, Mapping) and isinstance(stage.get("id"), str)}
    refers = {"id"}.union(*map(reference_fields, STAGES.values()))
    variable = f"${{{name}}}"
    for value in values:
        suffix = re.sub(r"[^A-Za-z0-9_.-]+", "-", str(value)).strip("-.")
        renamed = {one: one.replace(variable, suffix) if variable in one else f"{one}/{suffix}" for one in ids}
        copier = _Copier(variable, value, renamed, refers, where)
        yield from map(copier.copy, stages)


@dataclass(frozen=True)
class _Copier:
    """Copies stages of a block for one value of its variable.

    Attributes:
        renamed: the ids of the block's stages, and what they are called in the copy.
        refers: the keys under which such ids stand.
    """

    variable: str
    value: Any
    renamed: Mapping[str, str]
    refers: Collection[str]
    where: str

    def copy(self, node: Any, key: str = "") -> Any:
        """A copy of what stands under `key`."""
        if isinstance(node, CommentedMap):
            copy = CommentedMap({name: self.copy(item, name) for name, item in node.items()})
            setattr(copy, LineCol.attrib, node.lc)  # the copy answers with the lines of the block
            return copy
        if isinstance(node, CommentedSeq):
            items = CommentedSeq([self.copy(item, key) for item in node])
            setattr(items, LineCol.attrib, node.lc)
            return items
        if node == self.variable and key != "id":
            return self.value
        return self._text(node, key) if isinstance(node, str) else node

    def _text(self, text: str, key: str) -> str:
        if key in self.refers and text in self.renamed:
            return self.renamed[text]
        text = text.replace(self.variable, str(self.value))
        if other := re.search(r"\$\{\w+\}", text):
            raise RecipeError("for_each has no such variable", where=self.where, got=other[0], expected=self.variable)
        return text


# Checks across stages -----------------------------------------------------------------------------------------


def _with_patterns(stage: Stage, earlier: Sequence[Stage]) -> Stage:
    """A report's `of` may hold patterns: each becomes the earlier measurements that it fits."""
    of = getattr(stage, "of", None)
    if of is None:
        return stage
    measured = [one.id for one in earlier if one.makes in MEASUREMENTS]
    names = [match for name in of for match in (fnmatch.filter(measured, name) if "*" in name else [name])]
    return stage.model_copy(update={"of": tuple(dict.fromkeys(names)) or of})


def _wrong_names(recipe: Recipe, document: CommentedMap, path: Path) -> Iterator[RecipeError]:
    kinds: dict[str, Kind] = {}
    for index, stage in enumerate(recipe.stages):

        def at(*inner: str | int, index: int = index) -> str:
            return f"{path}:{_line(document, ('stages', index, *inner))}"

        if stage.id in kinds or _is_dataset(stage.id, recipe):
            yield RecipeError(f"the id '{stage.id}' is used twice", where=at("id"))
        elif clash := next(
            (one for one in kinds if one.startswith(f"{stage.id}/") or stage.id.startswith(f"{one}/")), None
        ):
            yield RecipeError(f"the ids '{stage.id}' and '{clash}' cannot both be folders of the run", where=at("id"))
        model = getattr(stage, "model", None)
        if model is not None and stage.name() in ("load", "train", "distill") and not known_model(model):
            near = ", ".join(nearest_models(model)) or None
            hint = "edgevit models lists compact students"
            yield RecipeError(f"timm has no model '{model}'", where=at("model"), expected=near, next=hint)
        for inner, name, takes in references(stage):
            later = [one.id for one in recipe.stages[index:]]
            problem = _wrong_reference(name, takes.kinds, kinds, recipe, later)
            if problem is None and inner != ("classes_of",) and stage.name() != "evaluate":
                problem = _reads_test(name, recipe)
            if problem is None and stage.name() == "evaluate" and inner == ("data",):
                problem = _tests_what_is_learned(name, recipe)
            if problem is None and kinds.get(name) == "dataset" and (stage.name(), inner) in NEED_TRUE_LABELS:
                problem = f"'{name}' has a teacher's labels, which are no truth to compare with", "a labelled data set"
            if problem is None and (stage.name(), inner) == ("bundle", ("support",)):
                problem = _without_embedding(stage, recipe.stages[:index])
            if problem is None and isinstance(stage, Quantize) and inner == ("model",):
                problem = _without_trained_ranges(stage, recipe.stages[:index])
            if problem:
                yield RecipeError(problem[0], where=at(*inner), got=name, expected=problem[1])
        kinds[stage.id] = stage.makes


def _wrong_reference(
    name: str, wanted: tuple[Kind, ...], kinds: Mapping[str, Kind], recipe: Recipe, later: Sequence[str]
) -> tuple[str, str] | None:
    expected = " or ".join(wanted)
    if "dataset" in wanted and name not in kinds and name not in later:
        return _wrong_dataset(name, kinds, recipe)
    if name in kinds:
        return (
            None
            if kinds[name] in wanted
            else (f"'{name}' makes a {kinds[name]}", f"an earlier stage that makes a {expected}")
        )
    fitting = [one for one, kind in kinds.items() if kind in wanted]
    if name in later:
        return (
            f"'{name}' comes later; stages run in the order of the file",
            f"an earlier {expected}: {', '.join(fitting)}",
        )
    hint = did_you_mean(name, kinds) or ""
    return (
        f"there is no stage '{name}'. {hint}".rstrip(),
        f"an earlier {expected}: {', '.join(fitting) or 'there is none'}",
    )


def _wrong_dataset(name: str, kinds: Mapping[str, Kind], recipe: Recipe) -> tuple[str, str] | None:
    base, _, role = name.partition(".")
    if base not in recipe.datasets:
        known = [*recipe.datasets, *(one for one, kind in kinds.items() if kind == "dataset")]
        hint = did_you_mean(base, known) or ""
        return f"there is no data set '{base}'. {hint}".rstrip(), f"one of {', '.join(known)}"
    roles = ROLES if recipe.datasets[base].few_shot else ROLES[:3]
    if role and role not in roles:
        more = "" if role not in ROLES else " (give the data set few_shot: {shots: 5})"
        return f"data set '{base}' has no role '{role}'{more}", f"one of {', '.join(roles)}"
    return None


def _without_embedding(bundle: Stage, earlier: Sequence[Stage]) -> tuple[str, str] | None:
    """A bundle's support is for models that were exported with an embedding: said before anything is trained."""
    by_id = {stage.id: stage for stage in earlier}
    source: Stage | None = bundle
    while isinstance(source, (Bundle, Quantize, Compile)):
        source = by_id.get(source.model)
    if not isinstance(source, Export) or source.embedding:
        return None
    return "a bundle that takes classes needs a model with an embedding", f"embedding: true in stage '{source.id}'"


def _without_trained_ranges(quantize: Quantize, earlier: Sequence[Stage]) -> tuple[str, str] | None:
    """calibrator: trained is for what a qat stage has trained: said before anything is."""
    by_id = {stage.id: stage for stage in earlier}
    export = by_id.get(quantize.model)
    if quantize.calibrator != "trained" or not isinstance(export, Export):
        return None
    if isinstance(by_id.get(export.model), Qat) and export.precision == "float32":
        return None
    return "calibrator: trained takes the ranges that a qat stage has trained", "the float32 export of a qat stage"


def _is_dataset(name: str, recipe: Recipe) -> bool:
    base, _, role = name.partition(".")
    return base in recipe.datasets and role in ("", *ROLES)


def _reads_test(name: str, recipe: Recipe) -> tuple[str, str] | None:
    """Only evaluate may read test images, and a data set named without a role holds its test images too."""
    base, _, role = name.partition(".")
    dataset = recipe.datasets.get(base)
    if dataset is None or role not in ("", "test"):
        return None
    if not role and (dataset.source == "glyphs" or getattr(dataset, "classes", None) == "none"):
        return None  # no test images in it
    what = "images of the test role are" if role else f"'{base}' holds its test images too, which are"
    return f"{what} for evaluate alone", f"a role such as {base}.train or {base}.pool"


def _tests_what_is_learned(name: str, recipe: Recipe) -> tuple[str, str] | None:
    """A data set named without a role holds the images of every role, those that stages learn from among them."""
    if name not in recipe.datasets:
        return None
    learned = {name, *(f"{name}.{role}" for role in ("train", "support", "pool"))}
    read = {
        one
        for stage in recipe.stages
        if stage.name() != "evaluate"
        for inner, one, _ in references(stage)
        if inner != ("classes_of",)  # names alone
    }
    if not (shared := sorted(learned & read)):
        return None
    return f"accuracy is to be measured on images that are learned from ({', '.join(shared)})", f"{name}.test"


# Mistakes, explained ------------------------------------------------------------------------------------------


def _explained(problem: Any, document: CommentedMap, path: Path) -> RecipeError:
    loc: Location = problem["loc"]
    inner = _without_tags(loc, document)
    where = f"{path}:{_line(document, inner)}"
    owner, name = _owner(inner, document), loc[-1] if loc else ""
    if problem["type"] == "extra_forbidden":
        known = _known_keys(loc)
        hint = did_you_mean(str(name), known) or f"It has: {', '.join(known)}."
        return RecipeError(f"'{name}' is no key of {owner}. {hint}", where=where)
    if problem["type"] == "missing":
        return RecipeError(f"{owner} needs the key '{name}'", where=where)
    if problem["type"] == "union_tag_invalid":
        tag, got = problem["ctx"]["discriminator"].strip("'"), problem["ctx"]["tag"]
        known = [one.strip(" '") for one in problem["ctx"]["expected_tags"].split(",")]
        return RecipeError(
            f"'{got}' is no {tag}. {did_you_mean(got, known) or ''}".rstrip(),
            where=where,
            expected=f"one of {', '.join(known)}",
        )
    if problem["type"] == "union_tag_not_found":
        return RecipeError(f"{owner} needs the key {problem['ctx']['discriminator']}", where=where)
    message = str(problem["msg"]).removeprefix("Value error, ")
    key = f"'{inner[-1]}'" if inner and isinstance(inner[-1], str) else owner
    label = owner if key in owner else f"{key} of {owner}"
    got = None if isinstance(problem["input"], Mapping) else problem["input"]
    return RecipeError(f"{label}: {message[0].lower()}{message[1:]}", where=where, got=got, next=meant(problem))


def meant(problem: Any) -> str | None:
    """The value that one of pydantic's problems may be a misspelling of, asked as a question."""
    if problem["type"] != "literal_error":
        return None
    return did_you_mean(str(problem["input"]), re.findall(r"'([^']+)'", problem["ctx"]["expected"]))


def _combined(problems: Sequence[RecipeError]) -> RecipeError:
    if len(problems) == 1:
        return problems[0]
    return RecipeError(f"{problems[0]}\n" + "\n".join(str(problem) for problem in problems[1:]))


def _without_tags(loc: Location, document: CommentedMap) -> Location:
    """pydantic's location without the union tags that it puts in, which the document does not have."""
    node: Any = document
    found: list[str | int] = []
    for position, part in enumerate(loc):
        if (isinstance(node, CommentedMap) and part in node) or (
            isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node)
        ):
            node = node[part]
            found.append(part)
        elif position == len(loc) - 1:
            break
    return tuple(found)


def _line(document: CommentedMap, path: Location) -> int:
    """1-based line of the key or item at `path`; of the nearest thing above it that has one."""
    node: Any = document
    line = 1
    for part in path:
        try:
            line = (node.lc.key(part) if isinstance(node, CommentedMap) else node.lc.item(part))[0] + 1
            node = node[part]
        except (KeyError, IndexError, TypeError, AttributeError):
            break  # the value came from --set, or is a scalar
    return line


def _owner(path: Location, document: CommentedMap) -> str:
    match path:
        case ("stages", int(index), *rest):
            stage = document["stages"][index]
            name = f"stage '{stage.get('stage', '?')}'" if isinstance(stage, Mapping) else f"stage {index + 1}"
            inside = [part for part in rest if isinstance(part, str)]
            nested = isinstance(stage, Mapping) and inside and isinstance(stage.get(inside[0]), (Mapping, list))
            return f"'{inside[0]}' of {name}" if nested else name
        case ("datasets", str(name), *_):
            return f"data set '{name}'"
        case (str(name), *_):
            return f"'{name}'"
        case _:
            return "the recipe"


def _known_keys(loc: Location) -> list[str]:
    """The keys that the record which holds the unknown key does have; union tags in `loc` name the record."""
    record: type[BaseModel] = Recipe
    for part in loc[:-1]:
        tagged = STAGES.get(str(part)) or DATASETS.get(str(part)) or OBJECTIVES.get(str(part))
        field = record.model_fields.get(str(part))
        record = tagged or (_record_in(field.annotation) if field else None) or record
    return list(record.model_fields)


def _record_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_record_in, getattr(annotation, "__args__", ()))), None)
