"""A plan as JSON."""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

from podrl.performance.planning.costs import Cost
from podrl.performance.planning.model import Prediction
from podrl.performance.planning.plans import Misfit, Plan
from podrl.performance.planning.slices import Slice


def plan_to_json(plan: Plan, price_per_chip_hour: float | None) -> dict[str, Any]:
    """A plan as JSON has it: sizes in bytes, times in seconds; null for what is infinite or not known."""
    found = plan.found
    told: dict[str, Any] = {
        "config": plan.name,
        "env_id": plan.env_id,
        "topology": plan.slice.name,
        "chips": plan.slice.chips,
        "hosts": plan.slice.hosts,
        "note": plan.note,
        "fits": not isinstance(found, Misfit),
        "assumptions": list(plan.assumptions),
    }
    if isinstance(found, Misfit):
        remedies = [{"arguments": one.arguments, "fits": bool(one.run)} for one in found.remedies]
        return _finite(told | dataclasses.asdict(found.shortage) | {"remedies": remedies})
    run, price = found.run, price_per_chip_hour
    told |= {
        "compiled": run.compiled,
        "actors_per_host": run.actors,
        "learners_per_host": run.learners,
        "act": run.act and _cost(run.act),
        "update": _cost(run.update),
        "state_bytes": run.state_bytes,
        "machine": dataclasses.asdict(found.machine),
        "prediction": dataclasses.asdict(found.prediction),
        "synchronous": dataclasses.asdict(found.synchronous),
        "needs_of_host": found.needs._asdict(),
        "splits": [{"actors": a, "learners": n} | dataclasses.asdict(one) for a, n, one in found.splits],
        "price_per_billion_frames": price and price_of_billion_frames(found.prediction, plan.slice, price),
    }
    for name, rows in (("weak", found.weak), ("strong", found.strong)):
        told[name] = [{"hosts": n, "efficiency": share} | dataclasses.asdict(one) for n, one, share in rows]
    return _finite(told)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cost(cost: Cost) -> dict[str, Any]:
    return dataclasses.asdict(cost) | {"traffic": cost.traffic}


def price_of_billion_frames(found: Prediction, slice_: Slice, price_per_chip_hour: float) -> float:
    """The price of a billion frames, in the currency of the chip's."""
    return price_per_chip_hour * slice_.chips * 1e9 / found.frames_per_s / 3600
