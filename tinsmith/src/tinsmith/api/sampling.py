"""Sampling sessions and samples. Samples are independent: a bad one is refused at once."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tinsmith.api.audit import about
from tinsmith.api.front import caller_of, front_of, in_thread, read_fields
from tinsmith.api.wire.catalogue import write_sampler
from tinsmith.api.wire.futures import write_future
from tinsmith.api.wire.sampling import read_sample


async def create_sampling_session(request: Request) -> Response:
    caller = caller_of(request)
    fields = await read_fields(request)
    sampler = await in_thread(
        front_of(request).service.samplers.create,
        caller,
        fields.text("session_id"),
        fields.integer("sampling_session_seq_id"),
        base_model=fields.text_or("base_model", None),
        model_path=fields.text_or("model_path", None),
    )
    about(request, sampler.sampler_id)
    return JSONResponse(
        {"type": "create_sampling_session", "sampling_session_id": sampler.sampler_id}
    )


async def get_sampler(request: Request) -> Response:
    caller, samplers = caller_of(request), front_of(request).service.samplers
    sampler = await in_thread(samplers.get, caller, request.path_params["sampler"])
    return JSONResponse(write_sampler(sampler))


async def asample(request: Request) -> Response:
    caller, samplers = caller_of(request), front_of(request).service.samplers
    fields = await read_fields(request)

    def submit() -> Response:
        asked = read_sample(fields)
        request_id, sequence_ids = samplers.submit(
            caller, asked.sampler_id, asked.seq_id, asked.sample, seed=asked.seed
        )
        return JSONResponse(write_future(request_id, sequence_ids=list(sequence_ids)))

    return await in_thread(submit)
