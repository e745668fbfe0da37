"""What a poll is answered with: the result, the failure, or "ask again"."""

from __future__ import annotations

import math
from typing import Any

from tinsmith.api.wire.sampling import write_sample
from tinsmith.api.wire.training import write_forward_backward
from tinsmith.domain.outcomes import (
    Failed,
    ForwardBackwardDone,
    Loaded,
    Outcome,
    Released,
    RunCreated,
    Sampled,
    Saved,
    StepDone,
)
from tinsmith.service.quotas import Pause


def write_outcome(outcome: Outcome) -> bytes | dict[str, Any]:
    """A protobuf message for what the SDK reads as protobuf only; else a JSON object."""
    if isinstance(outcome, Failed):
        return {"error": outcome.message, "category": outcome.category.value}
    match outcome.result:
        case ForwardBackwardDone() as done:
            return write_forward_backward(done)
        case Sampled() as sampled:
            return write_sample(sampled)
        case RunCreated(run_id):
            # No "type": the SDK expects create_model or load_weights, depending on the call.
            return {"model_id": run_id}
        case Loaded(run_id, address):
            return {"model_id": run_id, "path": str(address)}
        case StepDone(metrics):
            # JSON knows no NaN or infinity.
            return {"metrics": {k: float(v) for k, v in metrics.items() if math.isfinite(v)}}
        case Saved(address, sampler_id):
            if sampler_id is not None:
                return {"sampling_session_id": sampler_id}
            return {"path": str(address)}
        case Released(run_id):
            return {"model_id": run_id, "type": "unload_model"}


def write_future(
    request_id: str, *, run_id: str | None = None, sequence_ids: list[str] | None = None
) -> dict[str, Any]:
    """The answer to a submit."""
    answer: dict[str, Any] = {"request_id": request_id}
    if run_id is not None:
        answer["model_id"] = run_id
    if sequence_ids is not None:
        answer["sample_sequence_ids"] = sequence_ids
    return answer


def write_try_again(request_id: str, pause: Pause | None) -> dict[str, Any]:
    """The SDK tells its user of a pause and of its reason."""
    answer = {"type": "try_again", "request_id": request_id, "queue_state": "active"}
    if pause is not None:
        answer["queue_state"] = pause.state
        answer["queue_state_reason"] = pause.reason
    return answer
