"""What TensorRT makes of models: NVIDIA's builder side by side, and the engines of boards."""

from __future__ import annotations

from edgevit.artifacts import Artifact, Json
from edgevit.report.text.numbers import milliseconds
from edgevit.report.variants import Lineup


def before_tensorrt(models: Lineup) -> list[Json]:
    """A record for each check, in the order of the recipe: the id of its model, a verdict, and its metrics."""
    return [
        {"id": check.manifest.inputs["model"].id, "verdict": _verdict(check), **check.metrics}
        for check in models.checks
    ]


def untold_precision(engine: Artifact) -> str | None:
    """A sentence about products whose precision an engine does not tell; None if it tells all, or is no such engine."""
    untold = engine.metrics.get("products_untold", 0)
    if not untold:
        return None
    products = sum(row["products"] for row in engine.metrics["products"])
    return f"the engine does not tell the precision of {untold} of {products} products"


def scatter_of_builds(engine: Artifact) -> str | None:
    """A sentence about the times of several builds of one engine; None if it was built once, or is no engine."""
    build = engine.metrics.get("build", {})
    if "p50_ms" not in build:
        return None
    times, replayed = build["p50_ms"], build["label"] == "replayed"
    medians = f"{milliseconds(min(times))} to {milliseconds(max(times))}{' (replayed)' if replayed else ''}"
    why = ", the first right one, since replayed times choose nothing" if replayed else ""
    invalid = sum(bool(reasons) for reasons in build.get("invalid", ()))
    disturbed = f"; the machine was disturbed in {invalid} of these timings" if invalid else ""
    failed = f"; {'; '.join(build['failed'])}" if build.get("failed") else ""
    return (
        f"{len(times)} builds gave medians of {medians}, which includes what changed on the device between them, and "
        f"the engine is build {build['kept']}{why}: another build may be as slow as the slowest{disturbed}{failed}"
    )


def _verdict(check: Artifact) -> str:
    metrics = check.metrics
    if metrics["builder"] is None:
        return "not built; " + ("follows the rules" if metrics["ok"] else "breaks the rules")
    if not metrics["built"]:
        return "refused"
    if metrics["fell_back"]:
        return f"built; {len(metrics['fell_back'])} in more bits"
    return "built as asked" if metrics["ok"] else "built; breaks the rules"
