"""Recipes: YAML in, frozen and checked configuration out, with the line of every mistake."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

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
    renamed,
    with_absolute_files,
)
from edgevit.configs.fields import LONGEST_ID, MEASUREMENTS, absolute_path, check_utf8, reference_fields
from edgevit.errors import RecipeError, did_you_mean, listed, shortened
from edgevit.models.names import known_model, nearest_models
from edgevit.yaml_reader import LONGEST_TEXT, Allowance, Block, Items, copied, read_yaml, yaml_value

Location = tuple[str | int, ...]
ROLES = ("train", "val", "test", "support", "pool")
MOST_STAGES = 1000  # with the copies of for_each
MOST_DATASETS = 1000
MISTAKES_SHOWN = 20
NAMES_SHOWN = 20
NEED_TRUE_LABELS = (("evaluate", ("data",)), ("pseudo_label", ("calibration",)), ("bundle", ("unseen",)))


class Recipe(Frozen):
    """A name, a budget, named data sets and a list of stages in the order in which they run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=LONGEST_ID)] = Field(
        description="Name of the recipe and of its folder in `runs/`."
    )
    budget: Budget = Field(Budget(), description="Limits that the report judges the deployed model by.")
    datasets: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=LONGEST_ID)], DatasetConfig] = Field(
        max_length=MOST_DATASETS, description="Data sets by their names."
    )
    stages: tuple[StageConfig, ...] = Field(
        min_length=1, max_length=MOST_STAGES, description="Stages in the order in which they run."
    )

    def dataset_names(self) -> list[str]:
        """The data sets and roles ("digits.support") that stages refer to and that no stage makes, each once."""
        made = {stage.id for stage in self.stages}
        names = [name for stage in self.stages for _, name, takes in references(stage) if takes.kinds == ("dataset",)]
        return [name for name in dict.fromkeys(names) if name not in made]


def load_recipe(path: Path, settings: Sequence[str] = (), say: Callable[[str], None] | None = None) -> Recipe:
    """Read and check a recipe.

    Args:
        path: the YAML file. Relative paths in it start from its folder.
        settings: changes of the form "stages.ID.key=value", "datasets.NAME.key=value", "budget.latency_ms=5";
            a relative path given here starts from the current folder.
        say: hears a note for each former name that the recipe uses.

    Raises:
        RecipeError: with the line and the nearest valid name, for anything that a run could not use.
    """
    check_utf8(path.absolute())
    allowance = Allowance()
    document = _parse(path, allowance)
    for setting in settings:
        _apply(document, setting)
    _expand_for_each(document, allowance)
    _take_former_names(document, say or (lambda note: None))
    try:
        recipe = Recipe.model_validate(document)
    except ValidationError as error:
        own = _own(error)[: MISTAKES_SHOWN + 1]
        raise _combined([_explained(problem, document) for problem in own]) from None
    stages = tuple(
        with_absolute_files(_with_patterns(stage, recipe.stages[:i]), path.parent)
        for i, stage in enumerate(recipe.stages)
    )
    recipe = recipe.model_copy(update={"stages": stages})
    if problems := list(islice(_wrong_names(recipe, document), MISTAKES_SHOWN + 1)):
        raise _combined(problems)
    return recipe


def recipe_schema() -> dict[str, Any]:
    """JSON Schema of recipes, for editors."""
    schema = TypeAdapter(Recipe).json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "edgevit recipe", **schema}


# Reading ------------------------------------------------------------------------------------------------------


def _parse(path: Path, allowance: Allowance) -> Block:
    if not path.is_file():
        raise RecipeError("there is no such recipe", where=path, next="edgevit init FOLDER writes one")
    document = read_yaml(path, allowance)
    if not isinstance(document, Block):
        raise RecipeError("a recipe is a mapping", where=path, expected="name:, datasets:, stages:")
    return document


def _apply(document: Block, setting: str) -> None:
    """Change one value, `stages.ID.key=value`; ids may themselves hold dots."""
    target, equals, text = setting.partition("=")
    where = f"--set {shortened(setting)}"
    if not equals:
        raise RecipeError("a setting has the form key.path=value", where=where)
    value = yaml_value(text, where)
    names = target.split(".")
    node: Any = document
    while len(names) > 1:
        node, names = _descend(node, names, where)
    if not isinstance(node, Block):
        raise RecipeError(f"'{shortened(names[0])}' has no place here", where=where)
    if names[0] in ("path", "weights") and isinstance(value, str):
        value = str(absolute_path(value, Path()))
    node[names[0]], node.places[names[0]] = value, where


def _descend(node: Any, names: list[str], where: str) -> tuple[Any, list[str]]:
    for length in range(1, len(names)):
        name, rest = ".".join(names[:length]), names[length:]
        if isinstance(node, Items):
            for item in _stages_in(node):
                if item.get("id") == name:
                    return item, rest
            if name in map(str, range(len(node))):
                return node[int(name)], rest
        elif isinstance(node, Block) and name in node:
            return node[name], rest
        elif isinstance(node, Block) and name in ("budget", "augmentation", "few_shot", "splits", "model_args"):
            node[name], node.places[name] = Block(where), where
            return node[name], rest
    known: list[str] = []
    if isinstance(node, Items):
        known = [str(item["id"]) for item in _stages_in(node) if "id" in item]
    elif isinstance(node, Block):
        known = list(node)
    raise RecipeError(
        f"there is no '{shortened(names[0])}' to set. {did_you_mean(names[0], known) or ''}".strip(),
        where=where,
        expected=f"one of {listed(known, NAMES_SHOWN)}" if known else None,
    )


def _stages_in(node: Items) -> Iterator[Block]:
    """The stages of a list, and those of its for_each blocks: what is set there is set in every copy."""
    for item in node:
        if isinstance(item, Block):
            yield item
            inner = item.get("stages")
            yield from _stages_in(inner) if isinstance(inner, Items) else ()


# for_each -----------------------------------------------------------------------------------------------------


def _expand_for_each(document: Block, allowance: Allowance) -> None:
    """Replace each block {for_each: {NAME: [a, b]}, stages: […]} by one copy of its stages per value.

    In the copy for a, `${NAME}` becomes a, ids without it get the suffix /a, and references to ids of the block follow.
    """
    stages = document.get("stages")
    if not isinstance(stages, Items):
        return
    expanded = Items(stages.place)
    for index, item in enumerate(stages):
        place = stages.places.get(index, stages.place)
        is_block = isinstance(item, Block) and "for_each" in item
        for copy in _copies(item, allowance, place) if is_block else [item]:
            if len(expanded) == MOST_STAGES:
                raise RecipeError("the recipe has too many stages", where=place, expected=f"at most {MOST_STAGES:,}")
            expanded.places[len(expanded)] = place
            expanded.append(copy)
    document["stages"] = expanded


def _copies(block: Block, allowance: Allowance, place: str) -> Iterator[Any]:
    variables, stages = block.get("for_each"), block.get("stages")
    if not isinstance(variables, Block) or len(variables) != 1 or not isinstance(stages, Items):
        raise RecipeError("a for_each block is {for_each: {NAME: [values]}, stages: [...]}", where=place)
    ((name, values),) = variables.items()
    if not isinstance(values, Items):
        raise RecipeError(f"for_each needs a list of values for '{name}'", where=place, got=shortened(values))
    ids = {stage["id"] for stage in stages if isinstance(stage, Block) and isinstance(stage.get("id"), str)}
    refers = {"id"}.union(*map(reference_fields, STAGES.values()))
    variable = f"${{{name}}}"
    for value in values:
        text = str(value)
        suffix = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.")
        renamed = {one: one.replace(variable, suffix) if variable in one else f"{one}/{suffix}" for one in ids}
        replaced = _Replaced(variable, value, text, renamed, refers, allowance, place)
        for stage in stages:
            yield copied(stage, allowance, place, scalar=replaced)


@dataclass(frozen=True)
class _Replaced:
    """What becomes of each scalar of a block's stages, for one value of its variable.

    Attributes:
        text: the value where it is part of a text.
        renamed: the ids of the block's stages, and what they are called in the copy.
        refers: the keys under which such ids stand.
    """

    variable: str
    value: Any
    text: str
    renamed: Mapping[str, str]
    refers: Collection[str]
    allowance: Allowance
    place: str

    def __call__(self, given: Any, key: str) -> Any:
        """What becomes of the scalar `given` under `key`."""
        if given == self.variable and key != "id":
            return copied(self.value, self.allowance, self.place)
        if not isinstance(given, str):
            return given
        if key in self.refers and given in self.renamed:
            return self.renamed[given]
        if given.count(self.variable) * len(self.text) > LONGEST_TEXT:
            raise RecipeError(
                f"the text is too long with the value of {self.variable}",
                where=self.place,
                expected=f"at most {LONGEST_TEXT:,} characters",
            )
        text = given.replace(self.variable, self.text)
        if other := re.search(r"\$\{\w+\}", text):
            raise RecipeError("for_each has no such variable", where=self.place, got=other[0], expected=self.variable)
        return text


# Former names ------------------------------------------------------------------------------------------------------


def _take_former_names(document: Block, say: Callable[[str], None]) -> None:
    """Put the names of now in the place of former ones, each with a note."""
    stages = document.get("stages")
    notes = []
    for stage in stages if isinstance(stages, Items) else ():
        if not isinstance(stage, Block):
            continue
        if now := renamed.current_stage(former := stage.get("stage")):
            stage["stage"] = now
            notes.append(f"stage: {former} is called {now} now")
        for former, now in renamed.renamed_options(stage.get("stage")).items():
            if former in stage and now not in stage:
                stage[now], stage.places[now] = stage.pop(former), stage.places.get(former, stage.place)
                notes.append(f"{former} is called {now} now")
    for note in dict.fromkeys(notes):
        say(f"note: {note}; the former name is accepted in this release only")


# Checks across stages -----------------------------------------------------------------------------------------


def _with_patterns(stage: Stage, earlier: Sequence[Stage]) -> Stage:
    """A report's `of` may hold patterns: each becomes the earlier measurements that it fits."""
    of = getattr(stage, "of", None)
    if of is None:
        return stage
    measured = [one.id for one in earlier if one.makes in MEASUREMENTS]
    names = [match for name in of for match in (fnmatch.filter(measured, name) if "*" in name else [name])]
    return stage.model_copy(update={"of": tuple(dict.fromkeys(names)) or of})


def _wrong_names(recipe: Recipe, document: Block) -> Iterator[RecipeError]:
    kinds: dict[str, Kind] = {}
    for index, stage in enumerate(recipe.stages):
        later = [one.id for one in recipe.stages[index:]]

        def at(*inner: str | int, index: int = index) -> str:
            return _place(document, ("stages", index, *inner))

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
            problem = _wrong_reference(name, takes.kinds, kinds, recipe, later)
            if problem is None and inner != ("classes_of",) and stage.name() != "evaluate":
                problem = _reads_test(name, recipe)
            if problem is None and stage.name() == "evaluate" and inner == ("data",):
                problem = _tests_what_is_learned(name, recipe)
            if problem is None and kinds.get(name) == "dataset" and (stage.name(), inner) in NEED_TRUE_LABELS:
                said = f"'{name}' holds pseudo-labels; {stage.name()} needs ground-truth labels"
                problem = said, "a labelled data set"
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


def _own(error: ValidationError) -> list[Any]:
    """pydantic's problems without that of a list that is too short only because its items are wrong."""
    problems = error.errors(include_url=False)
    wrong = [problem["loc"] for problem in problems]
    return [
        problem
        for problem in problems
        if problem["type"] != "too_short"
        or not any(loc[: len(problem["loc"])] == problem["loc"] != loc for loc in wrong)
    ]


def _explained(problem: Any, document: Block) -> RecipeError:
    loc: Location = problem["loc"]
    inner = _without_tags(loc, document)
    where = _place(document, inner)
    owner, name = _owner(inner, document), shortened(loc[-1]) if loc else ""
    if problem["type"] == "extra_forbidden":
        known = _known_keys(loc)
        hint = did_you_mean(name, known) or f"It has: {', '.join(known)}."
        return RecipeError(f"'{name}' is no key of {owner}. {hint}", where=where)
    if problem["type"] == "missing":
        return RecipeError(f"{owner} needs the key '{name}'", where=where)
    if problem["type"] == "union_tag_invalid":
        tag, got = problem["ctx"]["discriminator"].strip("'"), shortened(problem["ctx"]["tag"])
        known = [one.strip(" '") for one in problem["ctx"]["expected_tags"].split(",")]
        return RecipeError(
            f"'{got}' is no {tag}. {did_you_mean(got, known) or ''}".rstrip(),
            where=where,
            expected=f"one of {', '.join(known)}",
        )
    if problem["type"] == "union_tag_not_found":
        return RecipeError(f"{owner} needs the key {problem['ctx']['discriminator']}", where=where)
    message = str(problem["msg"]).removeprefix("Value error, ")
    key = f"'{shortened(inner[-1])}'" if inner and isinstance(inner[-1], str) else owner
    label = owner if key in owner else f"{key} of {owner}"
    given = None if isinstance(problem["input"], Mapping) else _as_written(problem["input"])
    return RecipeError(f"{label}: {message[0].lower()}{message[1:]}", where=where, got=given, next=meant(problem))


def _as_written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else shortened(value)


def meant(problem: Any) -> str | None:
    """What may have been meant by the value of one of pydantic's problems."""
    if problem["type"] == "string_type" and isinstance(problem["input"], bool | int | float):
        return "write it in quotes"
    if problem["type"] != "literal_error":
        return None
    return did_you_mean(str(problem["input"]), re.findall(r"'([^']+)'", problem["ctx"]["expected"]))


def _combined(problems: Sequence[RecipeError]) -> RecipeError:
    if len(problems) == 1:
        return problems[0]
    more = ["more mistakes follow: mend these first"] if len(problems) > MISTAKES_SHOWN else []
    return RecipeError("\n".join([*map(str, problems[:MISTAKES_SHOWN]), *more]))


def _without_tags(loc: Location, document: Block) -> Location:
    """pydantic's location without the union tags that it puts in, which the document does not have."""
    node: Any = document
    found: list[str | int] = []
    for position, part in enumerate(loc):
        if part in getattr(node, "places", ()):
            node = node[part]
            found.append(part)
        elif position == len(loc) - 1:
            break
    return tuple(found)


def _place(document: Block, path: Location) -> str:
    """Where the key or item at `path` stands, or else the nearest thing above it."""
    node: Any = document
    place = document.place
    for part in path:
        if part not in getattr(node, "places", ()):
            break
        place, node = node.places[part], node[part]
    return place


def _owner(path: Location, document: Block) -> str:
    match path:
        case ("stages", int(index), *rest):
            stage = document["stages"][index]
            name = f"stage '{shortened(stage.get('stage', '?'))}'" if isinstance(stage, Block) else f"stage {index + 1}"
            inside = [part for part in rest if isinstance(part, str)]
            nested = isinstance(stage, Block) and inside and isinstance(stage.get(inside[0]), Block | Items)
            return f"'{shortened(inside[0])}' of {name}" if nested else name
        case ("datasets", str(name), *_):
            return f"data set '{shortened(name)}'"
        case (str(name), *_):
            return f"'{shortened(name)}'"
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
