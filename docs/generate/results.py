"""A page for each result: what was measured, by which command, under which conditions, and its tables."""

from __future__ import annotations

from docs.generate.markdown import code, listed, page, plain, table, toctree
from docs.generate.records import RESULTS, Json, Script, conditions_in, read_result, result_names, script_of, title_of
from docs.generate.tables import tables_of
from docs.generate.tables.cells import Table


def result_pages() -> dict[str, str]:
    """Every page of results, by its path below docs/."""
    names = result_names()
    return {"results/index.md": index_page(names), **{f"results/{name}.md": result_page(name) for name in names}}


def index_page(names: list[str]) -> str:
    """All results in one table."""
    rows = [
        (f"[{title_of(name)}]({name}.md)", plain(script_of(name).summary), dates_of(read_result(name)))
        for name in names
    ]
    return page(
        "Results",
        "Every number comes from a script in `benchmarks/`. The script writes its raw numbers, the versions and the "
        "machine to `benchmarks/results/`, and these pages are generated from there.",
        "The machine is shared with other work, so ratios say more than milliseconds.",
        table(("result", "question", "date"), rows),
        toctree(names, "hidden"),
    )


def result_page(name: str) -> str:
    """One result."""
    script, result = script_of(name), read_result(name)
    return page(
        title_of(name),
        plain(script.summary),
        _plot(name),
        *(_section(one) for one in tables_of(name)),
        _made_by(name, script),
        _conditions(result),
        target=f"result-{name.replace('_', '-')}",
    )


def dates_of(result: Json) -> str:
    """The days on which a result was made."""
    return ", ".join(sorted({str(found["made_at"])[:10] for _, found in conditions_in(result)}))


def _section(found: Table) -> str:
    return "\n\n".join(part for part in (f"## {found.heading}", found.note, found.markdown()) if part)


def _plot(name: str) -> str:
    """The plot of a result, where there is one beside it."""
    plot = f"../../benchmarks/results/{name}.svg"
    return f"![Plot of {title_of(name)}]({plot})" if (RESULTS / f"{name}.svg").is_file() else ""


def _made_by(name: str, script: Script) -> str:
    return "\n\n".join(
        (
            "## How it was measured",
            f"```sh\n{script.command}\n```",
            *map(plain, script.paragraphs),
            f"Raw numbers: [`benchmarks/results/{name}.json`](../../benchmarks/results/{name}.json). "
            f"Script: [`benchmarks/{script.name}.py`](../../benchmarks/{script.name}.py).",
        )
    )


def _conditions(result: Json) -> str:
    runs = list(conditions_in(result))
    facts = [_facts(found) for _, found in runs]
    names = [" > ".join(step for step in path if step != "models") or "value" for path, _ in runs]
    if all(one == facts[0] for one in facts[1:]):
        names, facts = ["value"], facts[:1]
    rows = [(fact, *(one[fact] for one in facts)) for fact in facts[0]]
    return f"## Conditions\n\n{table(('condition', *names), rows)}"


def _facts(found: Json) -> dict[str, str]:
    hardware = found["target"]["hardware"]
    versions = {**found["packages"], **found["target"]["versions"]}
    return {
        "date": str(found["made_at"])[:10],
        "processor": f"{hardware['model']}, {hardware['logical_cores']} cores",
        "instruction sets": listed([str(one) for one in hardware["instruction_sets"]]),
        "system": f"{str(found['system']).split('-')[0]}, {found['machine']}",
        "Python": str(found["python"]),
        "edgevit": f"{found['edgevit']}, commit {code(str(found['git_commit'])[:10])}",
        **{str(name): str(version) for name, version in versions.items()},
    }
