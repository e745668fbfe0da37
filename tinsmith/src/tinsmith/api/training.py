"""Calls that go into a run's log.

A request whose run and place can be read is logged, whatever else is wrong with it: a refusal would
leave a hole in the sequence, and the SDK would go on as if nothing was missing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tinsmith.api.audit import about
from tinsmith.api.front import caller_of, front_of, in_thread, read_body, read_fields, unpack
from tinsmith.api.wire.catalogue import write_info
from tinsmith.api.wire.fields import Fields
from tinsmith.api.wire.futures import write_future
from tinsmith.api.wire.saving import (
    Save,
    SaveExternal,
    SaveUnnamed,
    makes_a_run,
    read_load_as_new_run,
    read_save,
    read_save_external,
    read_save_for_sampler,
)
from tinsmith.api.wire.training import (
    Place,
    parse_forward_backward,
    read_create_model,
    read_forward_backward,
    read_optim_step,
    read_place,
)
from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.records import Caller
from tinsmith.service.runs import Runs

_T = TypeVar("_T")


async def create_model(request: Request) -> Response:
    caller, runs = caller_of(request), front_of(request).service.runs
    new = read_create_model(await read_fields(request))
    request_id = await in_thread(
        runs.create,
        caller,
        new.session_id,
        new.model_seq_id,
        base_model=new.base_model,
        rank=new.rank,
        seed=new.seed,
        train_attn=new.train_attn,
        train_mlp=new.train_mlp,
        train_unembed=new.train_unembed,
        user_metadata=new.user_metadata,
    )
    about(request, request_id.rpartition("#")[0])
    return JSONResponse(write_future(request_id))


async def get_info(request: Request) -> Response:
    caller, runs = caller_of(request), front_of(request).service.runs
    run_id = (await read_fields(request)).text("model_id")
    return JSONResponse(write_info(await in_thread(runs.get, caller, run_id)))


async def forward_backward(request: Request) -> Response:
    caller, front = caller_of(request), front_of(request)
    body = await read_body(request)

    def log() -> Response:
        place, message = parse_forward_backward(body)
        return _log(
            front.service.runs,
            caller,
            place,
            "forward" if message.forward_only else "forward_backward",
            lambda: read_forward_backward(message, front.limits.max_body_bytes),
            lambda op: front.service.runs.submit(caller, place.run_id, place.seq_id, op),
        )

    return await unpack(request, body, log)


async def optim_step(request: Request) -> Response:
    caller, runs = caller_of(request), front_of(request).service.runs
    fields = await read_fields(request)
    place = read_place(fields)
    return await in_thread(
        _log,
        runs,
        caller,
        place,
        "optim_step",
        lambda: read_optim_step(fields),
        lambda op: runs.submit(caller, place.run_id, place.seq_id, op),
    )


async def save_weights(request: Request) -> Response:
    caller, runs = caller_of(request), front_of(request).service.runs
    fields = await read_fields(request)
    place = read_place(fields)
    about(request, place.run_id)

    def submit(save: Save) -> str:
        return runs.save_state(
            caller,
            place.run_id,
            place.seq_id,
            name=save.name,
            overwrite=save.overwrite,
            ttl_s=save.ttl_s,
            user_metadata=save.user_metadata,
        )

    return await in_thread(
        _log, runs, caller, place, "save_state", lambda: read_save(fields), submit
    )


async def save_weights_for_sampler(request: Request) -> Response:
    caller, runs = caller_of(request), front_of(request).service.runs
    fields = await read_fields(request)
    place = read_place(fields)
    about(request, place.run_id)

    def submit(save: Save | SaveUnnamed) -> str:
        is_named = isinstance(save, Save)
        return runs.save_for_sampler(
            caller,
            place.run_id,
            place.seq_id,
            name=save.name if is_named else None,
            sampling_session_seq_id=None if is_named else save.sampling_session_seq_id,
            is_inflight=not is_named and save.is_inflight,
            ttl_s=save.ttl_s,
            user_metadata=save.user_metadata if is_named else None,
        )

    return await in_thread(
        _log, runs, caller, place, "save_for_sampler", lambda: read_save_for_sampler(fields), submit
    )


async def save_weights_external(request: Request) -> Response:
    caller, runs = caller_of(request), front_of(request).service.runs
    fields = await read_fields(request)
    place = read_place(fields)
    about(request, place.run_id)

    def submit(save: SaveExternal) -> str:
        return runs.save_external(
            caller,
            place.run_id,
            place.seq_id,
            name=save.name,
            ttl_s=save.ttl_s,
            age_recipients=save.age_recipients,
        )

    return await in_thread(
        _log, runs, caller, place, "save_external", lambda: read_save_external(fields), submit
    )


async def load_weights(request: Request) -> Response:
    caller, runs = caller_of(request), front_of(request).service.runs
    fields = await read_fields(request)
    if makes_a_run(fields):
        return await _create_from_state(request, fields)
    place = read_place(fields)
    about(request, place.run_id)

    def submit(path: str) -> str:
        return runs.load_state(
            caller,
            place.run_id,
            place.seq_id,
            path=path,
            with_optimizer=fields.flag_or("optimizer", False),
        )

    return await in_thread(
        _log, runs, caller, place, "load_state", lambda: fields.text("path"), submit
    )


async def _create_from_state(request: Request, fields: Fields) -> Response:
    caller, runs = caller_of(request), front_of(request).service.runs
    new = read_load_as_new_run(fields)
    request_id = await in_thread(
        runs.create_from_state,
        caller,
        new.session_id,
        new.model_seq_id,
        path=new.path,
        with_optimizer=new.with_optimizer,
        base_model=new.base_model,
        user_metadata=new.user_metadata,
    )
    about(request, request_id.rpartition("#")[0])
    return JSONResponse(write_future(request_id))


def _log(
    runs: Runs,
    caller: Caller,
    place: Place,
    kind: str,
    read: Callable[[], _T],
    submit: Callable[[_T], str],
) -> Response:
    """Read what is asked and submit it; what cannot be read is logged as failed in its place."""
    try:
        asked = read()
    except InvalidInputError as error:
        request_id = runs.refuse(caller, place.run_id, place.seq_id, kind, str(error))
    else:
        request_id = submit(asked)
    return JSONResponse(write_future(request_id, run_id=place.run_id))
