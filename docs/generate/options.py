"""The reference of recipes: stages, data sources, objectives and their options, read from `edgevit.configs`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from docs.generate.markdown import code, listed, page, plain, sentence, table, toctree
from docs.generate.words import KINDS, default_in_words, records_in, type_in_words
from edgevit.configs import DATASETS, OBJECTIVES, STAGES, ClassifierTraining, Stage, Training
from edgevit.recipe import Recipe

Record = type[BaseModel]

SHARED: dict[type[Stage], str] = {
    Training: "training",
    ClassifierTraining: "classifier-training",
}  # options that several stages inherit, and the page that shows them once
CHOSEN_BY = {"stage", "source", "loss", "type"}  # say which record it is, and are no options
MADE = {**KINDS, "dataset": "a data set", "report": "a report", "bundle": "a bundle"}


def option_pages() -> dict[str, str]:
    """Every page of the reference of recipes, by its path below docs/."""
    pages = {f"reference/stages/{name}.md": stage_page(name, config) for name, config in STAGES.items()}
    return {
        "reference/recipe.md": recipe_page(),
        "reference/stages/index.md": stages_page(),
        **{f"reference/{name}.md": shared_page(base) for base, name in SHARED.items()},
        "reference/data.md": choices_page("Data sources", "source", DATASETS),
        "reference/objectives.md": choices_page("Objectives", "loss", OBJECTIVES),
        "reference/records.md": records_page(),
        **pages,
    }


def made_by(config: type[Stage]) -> str:
    """What a stage makes, in words."""
    return "one of its models" if config.makes is None else MADE[config.makes]


def stages_page() -> str:
    """All stages in one table."""
    rows = [(f"[{code(name)}]({name}.md)", first_sentence(config), made_by(config)) for name, config in STAGES.items()]
    return page(
        "Stages",
        "A recipe lists stages. They run in the order in which the file lists them.",
        table(("stage", "what it does", "what it makes"), rows),
        toctree(STAGES, "hidden"),
    )


def stage_page(name: str, config: type[Stage]) -> str:
    """One stage: what it does, what it makes, and its options."""
    shared = [base for base in SHARED if issubclass(config, base)]
    return page(
        code(name),
        described(config),
        f"The stage makes {made_by(config)}.",
        "## Options",
        *(option(field, info, "../") for field, info in own_options(config)),
        *(_shared_options(config, base) for base in shared),
        target=f"stage-{name}",
    )


def shared_page(base: type[Stage]) -> str:
    """Options that several stages share."""
    users = [f"[{code(name)}](stages/{name}.md)" for name, config in STAGES.items() if issubclass(config, base)]
    options = (option(field, info, "", level=2) for field, info in own_options(base) if field != "id")
    title = f"{spaced(base)} options"
    return page(title, f"{listed(users)} share these options.", *options, target=f"{SHARED[base]}-options")


def choices_page(title: str, chosen_by: str, records: Mapping[str, Record]) -> str:
    """Records of which a recipe chooses one by its name, each with its options."""
    parts: list[str] = []
    for record in dict.fromkeys(records.values()):
        names = [name for name, one in records.items() if one is record]
        parts += [f"## {listed([code(name) for name in names])}", described(record)]
        parts += [option(field, info, "") for field, info in _fields(record)]
    rows = [(code(name), first_sentence(record)) for name, record in records.items()]
    return page(title, f"{code(chosen_by)} names one of these.", table((chosen_by, "what it is"), rows), *parts)


def records_page() -> str:
    """Records inside other records, each with its options."""
    parts: list[str] = []
    for record in inner_records():
        parts += [f"({record_target(record)})=\n## {spaced(record)}", described(record)]
        parts += [option(field, info, "") for field, info in _fields(record)]
    return page("Groups of options", "Some options are groups of options of their own.", *parts)


def recipe_page() -> str:
    """What stands at the top of a recipe."""
    parts = [option(field, info, "", level=2) for field, info in _fields(Recipe)]
    return page("Recipe", described(Recipe), *parts)


def own_options(config: type[Stage]) -> Iterator[tuple[str, FieldInfo]]:
    """The options of a stage but those of a shared page: its own first, `id` among the first."""
    shared = {
        field
        for base in SHARED
        if issubclass(config, base) and config is not base
        for field in base.model_fields
        if not _is_changed(config, base, field)
    }
    yield from ((field, info) for field, info in _fields(config) if field not in shared - {"id"})


def option(name: str, info: FieldInfo, up: str, level: int = 3) -> str:
    """One option: its name as a heading, what it does, its type, unit and bounds, and its default."""
    facts = [type_in_words(name, info, lambda records: link_to(records, up)), default_in_words(info)]
    return f"{'#' * level} {code(name)}\n\n{sentence(info.description or '')}\n\n*{'; '.join(facts)}*"


def inner_records() -> list[Record]:
    """Every record inside a stage, a data source or a recipe that no other page shows."""
    shown = {*STAGES.values(), *DATASETS.values(), *OBJECTIVES.values()}
    found: dict[Record, None] = {}
    waiting: list[Record] = [Recipe, *STAGES.values(), *DATASETS.values()]
    while waiting:
        for info in waiting.pop(0).model_fields.values():
            new = [record for record in records_in(info.annotation) if record not in shown and record not in found]
            found.update(dict.fromkeys(new))
            waiting += new
    return list(found)


def link_to(records: Sequence[Record], up: str) -> str:
    """A link to where the options of a record, or of several of which one is chosen, are shown."""
    for known, name, target in ((STAGES, "stage", "stages/index.md"), (DATASETS, "data source", "data.md")):
        if set(records) <= set(known.values()):
            return f"a [{name}]({up}{target})"
    if set(records) <= set(OBJECTIVES.values()):
        return f"an [objective]({up}objectives.md)"
    return listed([f"[{spaced(record).lower()}](#{record_target(record)})" for record in records], "or")


def record_target(record: Record) -> str:
    """The name of the section that shows a record."""
    return f"options-{spaced(record).lower().replace(' ', '-')}"


def spaced(record: Record) -> str:
    """`Teacher cache` for TeacherCache."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", record.__name__).capitalize()


def described(record: Record) -> str:
    """The paragraphs of the docstring."""
    return plain(inspect.cleandoc(record.__doc__ or ""))


def first_sentence(record: Record) -> str:
    """The first paragraph of the docstring in one line."""
    return sentence(inspect.cleandoc(record.__doc__ or "").split("\n\n")[0])


def _shared_options(config: type[Stage], base: type[Stage]) -> str:
    shown = dict(own_options(config))
    links = [f"[{code(name)}](../{SHARED[base]}.md#{name})" for name, _ in own_options(base) if name not in shown]
    title, target = f"{spaced(base)} options", f"{SHARED[base]}-options"
    return f"## {title}\n\nThe stage also takes the [{title.lower()}](#{target}): {listed(links)}."


def _fields(record: Record) -> list[tuple[str, FieldInfo]]:
    """The options of a record, those that are required first."""
    options = [(name, info) for name, info in record.model_fields.items() if name not in CHOSEN_BY]
    return sorted(options, key=lambda option: not option[1].is_required())


def _is_changed(config: Record, base: Record, field: str) -> bool:
    """Whether a stage gives an inherited option another default or type."""
    ours, theirs = config.model_fields[field], base.model_fields[field]
    return ours.default != theirs.default or _types(ours) != _types(theirs)


def _types(info: FieldInfo) -> tuple[Any, ...]:
    return info.annotation, *get_args(info.annotation)
