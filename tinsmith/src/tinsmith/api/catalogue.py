"""Runs and checkpoints: lists, and what one does to them by name."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tinsmith.api.audit import about
from tinsmith.api.front import caller_of, front_of, in_thread, page_of, read_fields
from tinsmith.api.wire.catalogue import (
    write_checkpoint,
    write_cursor,
    write_run,
    write_storage_use,
    write_weights_info,
)
from tinsmith.domain.addresses import CheckpointAddress
from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.records import Caller, Run
from tinsmith.service.runs import Runs


def address_of(request: Request) -> CheckpointAddress:
    """The checkpoint that the path names. Raises InvalidInputError."""
    path = request.path_params
    return CheckpointAddress.parse(f"tinker://{path['run']}/{path['kind']}/{path['name']}")


async def list_runs(request: Request) -> Response:
    caller, runs = caller_of(request), front_of(request).service.runs
    limit, offset = page_of(request)
    project_id = request.query_params.get("project_id")

    def read() -> dict[str, object]:
        page, total = runs.list(caller, limit=limit, offset=offset, project_id=project_id)
        return {
            "training_runs": [_describe(runs, run) for run in page],
            "cursor": write_cursor(offset=offset, limit=limit, total=total),
        }

    return JSONResponse(await in_thread(read))


async def get_run(request: Request) -> Response:
    caller, runs = caller_of(request), front_of(request).service.runs
    run_id = request.path_params["run"]
    return JSONResponse(await in_thread(lambda: _describe(runs, runs.get(caller, run_id))))


def _describe(runs: Runs, run: Run) -> dict[str, object]:
    training, sampler = runs.last_checkpoints(run)
    return write_run(run, last_checkpoint=training, last_sampler_checkpoint=sampler)


async def list_checkpoints(request: Request) -> Response:
    caller, checkpoints = caller_of(request), front_of(request).service.checkpoints
    limit, offset = page_of(request, default_limit=100)
    page, total = await in_thread(checkpoints.list, caller, limit=limit, offset=offset)
    return JSONResponse(
        {
            "checkpoints": [write_checkpoint(checkpoint) for checkpoint in page],
            "cursor": write_cursor(offset=offset, limit=limit, total=total),
        }
    )


async def list_checkpoints_of_run(request: Request) -> Response:
    caller, checkpoints = caller_of(request), front_of(request).service.checkpoints
    page = await in_thread(checkpoints.list_of_run, caller, request.path_params["run"])
    return JSONResponse({"checkpoints": [write_checkpoint(checkpoint) for checkpoint in page]})


async def delete_checkpoint(request: Request) -> Response:
    return await _act(request, front_of(request).service.checkpoints.delete)


async def publish_checkpoint(request: Request) -> Response:
    return await _act(request, front_of(request).service.checkpoints.publish)


async def unpublish_checkpoint(request: Request) -> Response:
    return await _act(request, front_of(request).service.checkpoints.unpublish)


async def _act(request: Request, act: Callable[[Caller, CheckpointAddress], None]) -> Response:
    caller = caller_of(request)
    await in_thread(act, caller, address_of(request))
    return Response(status_code=204)


async def set_ttl(request: Request) -> Response:
    caller, checkpoints = caller_of(request), front_of(request).service.checkpoints
    address = address_of(request)
    ttl_s = (await read_fields(request)).integer_or("ttl_seconds", None, low=-(2**63))
    await in_thread(checkpoints.set_ttl, caller, address, ttl_s)
    return Response(status_code=204)


async def storage_use(request: Request) -> Response:
    caller, checkpoints = caller_of(request), front_of(request).service.checkpoints
    project_id = request.query_params.get("project_id")
    uses = await in_thread(checkpoints.storage_use, caller, project_id)
    return JSONResponse(write_storage_use(uses, caller.owner))


async def copy_weights(request: Request) -> Response:
    caller, checkpoints = caller_of(request), front_of(request).service.checkpoints
    if request.headers.get("x-tinker-weights-access-token"):
        raise InvalidInputError(
            "weights access tokens are not supported by this server; copy checkpoints of your own, "
            "or published ones"
        )
    fields = await read_fields(request)
    address = await in_thread(
        checkpoints.copy,
        caller,
        fields.text("source_path"),
        project_id=fields.text("destination_project_id"),
        ttl_s=fields.integer_or("ttl_seconds", None, low=-(2**63)),
        idempotency_key=request.headers.get("x-idempotency-key"),
    )
    about(request, str(address))
    return JSONResponse({"tinker_path": str(address)})


async def weights_info(request: Request) -> Response:
    caller, checkpoints = caller_of(request), front_of(request).service.checkpoints
    path = (await read_fields(request)).text("tinker_path")
    return JSONResponse(write_weights_info(await in_thread(checkpoints.weights_info, caller, path)))
