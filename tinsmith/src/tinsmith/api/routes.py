"""Every path of the HTTP API."""

from __future__ import annotations

from starlette.routing import BaseRoute, Route

from tinsmith.api import catalogue, downloads, futures, hub, sampling, sessions, training

RUN = "/training_runs/{run}"
CHECKPOINT = RUN + "/checkpoints/{kind}/{name}"

TINKER_ROUTES: list[BaseRoute] = [
    Route("/client/config", sessions.client_config, methods=["POST"]),
    Route("/client/dynamic_config", sessions.client_dynamic_config, methods=["POST"]),
    Route("/create_session", sessions.create_session, methods=["POST"]),
    Route("/session_heartbeat", sessions.session_heartbeat, methods=["POST"]),
    Route("/sessions", sessions.list_sessions),
    Route("/sessions/search", sessions.search_sessions, methods=["POST"]),
    Route("/sessions/{session}", sessions.get_session),
    Route("/sessions/{session}/finish", sessions.finish_session, methods=["POST"]),
    Route("/sessions/{session}/project", sessions.assign_project, methods=["PUT"]),
    Route("/get_server_capabilities", sessions.get_server_capabilities),
    Route("/telemetry", sessions.telemetry, methods=["POST"]),
    Route("/auth/token", sessions.auth_token, methods=["POST"]),
    Route("/auth/apikey/me", sessions.api_key),
    Route("/auth/apikey/me", sessions.forget_api_key, methods=["DELETE"]),
    Route("/healthz", sessions.healthz),
    Route("/create_model", training.create_model, methods=["POST"]),
    Route("/get_info", training.get_info, methods=["POST"]),
    Route("/forward_backward", training.forward_backward, methods=["POST"]),
    Route("/optim_step", training.optim_step, methods=["POST"]),
    Route("/save_weights", training.save_weights, methods=["POST"]),
    Route("/save_weights_for_sampler", training.save_weights_for_sampler, methods=["POST"]),
    Route("/save_weights_external", training.save_weights_external, methods=["POST"]),
    Route("/load_weights", training.load_weights, methods=["POST"]),
    Route("/create_sampling_session", sampling.create_sampling_session, methods=["POST"]),
    Route("/samplers/{sampler}", sampling.get_sampler),
    Route("/asample", sampling.asample, methods=["POST"]),
    Route("/retrieve_future", futures.retrieve_future, methods=["POST"]),
    Route("/retrieve_futures", futures.retrieve_futures, methods=["POST"]),
    Route("/cancel_future", futures.cancel_future, methods=["POST"]),
    Route("/training_runs", catalogue.list_runs),
    Route(RUN, catalogue.get_run),
    Route(RUN + "/checkpoints", catalogue.list_checkpoints_of_run),
    Route("/checkpoints", catalogue.list_checkpoints),
    Route(CHECKPOINT, catalogue.delete_checkpoint, methods=["DELETE"]),
    Route(CHECKPOINT + "/publish", catalogue.publish_checkpoint, methods=["POST"]),
    Route(CHECKPOINT + "/publish", catalogue.unpublish_checkpoint, methods=["DELETE"]),
    Route(CHECKPOINT + "/ttl", catalogue.set_ttl, methods=["PUT"]),
    Route("/copy_weights", catalogue.copy_weights, methods=["POST"]),
    Route("/billing/usage/checkpoints/current", catalogue.storage_use),
    Route("/weights_info", catalogue.weights_info, methods=["POST"]),
    Route(CHECKPOINT + "/external_weights_urls", downloads.external_weights_urls),
    Route(CHECKPOINT + "/archive", downloads.archive),
    Route("/files/{run}/{kind}/{name}/{path:path}", downloads.signed_file),
]

HUB_ROUTES: list[BaseRoute] = [
    Route("/{model:path}/resolve/{revision}/{file:path}", hub.resolve),
    Route("/{rest:path}", hub.other),
]
