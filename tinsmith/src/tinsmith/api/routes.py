"""Every path of the HTTP API."""

from __future__ import annotations

from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp

from tinsmith.api import (
    audit,
    catalogue,
    downloads,
    futures,
    health,
    hub,
    metrics,
    sampling,
    sessions,
    training,
)
from tinsmith.api.calls import Call, any_key
from tinsmith.domain.rights import Right

READ, WORK, MANAGE, OPERATE = Right.READ, Right.WORK, Right.MANAGE, Right.OPERATE

RUN = "/training_runs/{run}"
CHECKPOINT = RUN + "/checkpoints/{kind}/{name}"

TINKER_ROUTES: list[BaseRoute] = [
    Call("/client/config", sessions.client_config, READ, "POST"),
    Call("/client/dynamic_config", sessions.client_dynamic_config, READ, "POST"),
    Call("/create_session", sessions.create_session, WORK, "POST", "session_create"),
    Call("/session_heartbeat", sessions.session_heartbeat, WORK, "POST"),
    Call("/sessions", sessions.list_sessions, READ),
    Call("/sessions/search", sessions.search_sessions, READ, "POST"),
    Call("/sessions/{session}", sessions.get_session, READ),
    Call("/sessions/{session}/finish", sessions.finish_session, WORK, "POST", "session_finish"),
    Call(
        "/sessions/{session}/project", sessions.assign_project, MANAGE, "PUT", "session_project_set"
    ),
    Call("/get_server_capabilities", sessions.get_server_capabilities, READ),
    Call("/telemetry", sessions.telemetry, READ, "POST"),
    Call("/auth/token", sessions.auth_token, READ, "POST"),
    Call("/auth/apikey/me", sessions.api_key, READ),
    Call("/auth/apikey/me", sessions.forget_api_key, READ, "DELETE"),
    Call("/healthz", health.healthz, None),
    Call("/create_model", training.create_model, WORK, "POST", "run_create"),
    Call("/get_info", training.get_info, READ, "POST"),
    Call("/forward_backward", training.forward_backward, WORK, "POST"),
    Call("/optim_step", training.optim_step, WORK, "POST"),
    Call("/save_weights", training.save_weights, WORK, "POST", "checkpoint_save"),
    Call(
        "/save_weights_for_sampler",
        training.save_weights_for_sampler,
        WORK,
        "POST",
        "checkpoint_save",
    ),
    Call("/save_weights_external", training.save_weights_external, WORK, "POST", "checkpoint_save"),
    Call("/load_weights", training.load_weights, WORK, "POST", "run_load"),
    Call(
        "/create_sampling_session", sampling.create_sampling_session, WORK, "POST", "sampler_create"
    ),
    Call("/samplers/{sampler}", sampling.get_sampler, READ),
    Call("/asample", sampling.asample, WORK, "POST"),
    Call("/retrieve_future", futures.retrieve_future, READ, "POST"),
    Call("/retrieve_futures", futures.retrieve_futures, READ, "POST"),
    Call("/cancel_future", futures.cancel_future, WORK, "POST"),
    Call("/training_runs", catalogue.list_runs, READ),
    Call(RUN, catalogue.get_run, READ),
    Call(RUN + "/checkpoints", catalogue.list_checkpoints_of_run, READ),
    Call("/checkpoints", catalogue.list_checkpoints, READ),
    Call(CHECKPOINT, catalogue.delete_checkpoint, MANAGE, "DELETE", "checkpoint_delete"),
    Call(
        CHECKPOINT + "/publish", catalogue.publish_checkpoint, MANAGE, "POST", "checkpoint_publish"
    ),
    Call(
        CHECKPOINT + "/publish",
        catalogue.unpublish_checkpoint,
        MANAGE,
        "DELETE",
        "checkpoint_unpublish",
    ),
    Call(CHECKPOINT + "/ttl", catalogue.set_ttl, MANAGE, "PUT", "checkpoint_ttl_set"),
    Call("/copy_weights", catalogue.copy_weights, WORK, "POST", "checkpoint_copy"),
    Call("/billing/usage/checkpoints/current", catalogue.storage_use, READ),
    Call("/audit", audit.read_audit, MANAGE),
    Call("/weights_info", catalogue.weights_info, READ, "POST"),
    Call(CHECKPOINT + "/external_weights_urls", downloads.external_weights_urls, READ),
    Call(CHECKPOINT + "/archive", downloads.archive, READ),
    Call("/files/{run}/{kind}/{name}/{path:path}", downloads.signed_file, None),
]

HUB_ROUTES: list[BaseRoute] = [
    Call("/{model:path}/resolve/{revision}/{file:path}", hub.resolve, None),
    Call("/{rest:path}", hub.other, None),
]

SERVER_ROUTES: list[BaseRoute] = [
    Call("/healthz", health.alive, None),
    Call("/readyz", health.ready, None),
    Call("/metrics", metrics.metrics, OPERATE, key_of=any_key),
]


def every_route(openai: ASGIApp) -> list[BaseRoute]:
    """All that the server answers, with the part that speaks as OpenAI's API does."""
    return [
        Mount("/api/v1", routes=TINKER_ROUTES),
        Mount("/v1", app=openai),
        Mount("/hub", routes=HUB_ROUTES),
        *SERVER_ROUTES,
    ]
