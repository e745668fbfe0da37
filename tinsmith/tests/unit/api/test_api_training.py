import numpy as np
import pytest
import zstandard
from tinker.proto.response_conv import deserialize_forward_backward_output
from tinsmith.api.wire import tinsmith_wire_pb2 as pb

NOTHING_TRAINED = {"train_mlp": False, "train_attn": False, "train_unembed": False}


def batch(run, seq_id: int, *, tokens=(1, 2, 3), **changes) -> pb.ForwardBackwardRequest:
    message = pb.ForwardBackwardRequest(
        model_id=run.run_id, seq_id=seq_id, loss_fn="cross_entropy", **changes
    )
    datum = message.data.add()
    datum.model_input.add().encoded_text.tokens = np.asarray(tokens, "<i4").tobytes()
    for name, dtype, values in (
        ("target_tokens", pb.DTYPE_INT64, np.asarray(tokens, "<i8")),
        ("weights", pb.DTYPE_FLOAT32, np.ones(len(tokens), "<f4")),
    ):
        tensor = datum.loss_fn_inputs[name]
        tensor.dense, tensor.dtype = values.tobytes(), dtype
        tensor.shape.append(len(tokens))
    return message


def post_batch(client, message: pb.ForwardBackwardRequest, **headers):
    return client.post(
        "/api/v1/forward_backward",
        content=message.SerializeToString(),
        headers={"Content-Type": "application/x-protobuf", **headers},
    )


def retrieve(client, request_id: str):
    return client.post("/api/v1/retrieve_future", json={"request_id": request_id})


def test_forward_backward_goes_in_and_comes_back_as_protobuf(client, run):
    submitted = post_batch(client, batch(run, 1)).json()
    assert submitted["model_id"] == run.run_id
    response = retrieve(client, submitted["request_id"])
    assert response.headers["content-type"] == "application/x-protobuf"
    output = deserialize_forward_backward_output(response.content)
    assert output.metrics == {"loss:sum": 1.0}
    assert output.loss_fn_outputs[0]["logprobs"].tolist() == [-1.0, -1.0, -1.0]


def test_a_zstd_body_is_the_same_request(client, run):
    message = batch(run, 1)
    plain = post_batch(client, message).json()
    response = client.post(
        "/api/v1/forward_backward",
        content=zstandard.compress(message.SerializeToString()),
        headers={"Content-Encoding": "zstd"},
    )
    assert response.json() == plain


def test_repeats_of_every_submit_get_the_first_answer(client, run):
    for call, fields in (
        ("optim_step", {"adam_params": {"learning_rate": 0.1}}),
        ("save_weights", {"path": "a"}),
        ("save_weights_for_sampler", {"path": "a", "kind": "snapshot"}),
        ("save_weights_for_sampler", {"sampling_session_seq_id": 0, "kind": "snapshot"}),
        ("save_weights_external", {"path": "a"}),
        ("load_weights", {"path": f"tinker://{run.run_id}/weights/a", "optimizer": True}),
        ("optim_step", {"optimizer_params": {"type": "dimuon", "learning_rate": 0.1}}),
    ):
        first = run.submit(call, **fields)
        run.seq_id -= 1
        assert run.submit(call, **fields) == first


def test_other_work_in_a_used_place_is_refused_for_good(client, run):
    run.submit("optim_step", adam_params={"learning_rate": 0.1})
    body = {"model_id": run.run_id, "seq_id": 1, "adam_params": {"learning_rate": 0.2}}
    response = client.post("/api/v1/optim_step", json=body)
    assert response.status_code == 422
    assert "seq_id 1" in response.json()["detail"]


def test_gaps_in_the_sequence_are_no_trouble(client, run):
    run.seq_id = 41
    assert run.do("optim_step", adam_params={})["metrics"] == {"grad_norm:mean": 1.5}


@pytest.mark.parametrize(
    ("call", "fields", "named"),
    [
        ("optim_step", {}, "adam_params"),
        ("optim_step", {"optimizer_params": {"type": "dimuon"}}, "AdamW"),
        ("optim_step", {"adam_params": {"beta1": 2}}, "beta1"),
        ("optim_step", {"adam_params": {"learning_rate": "x"}}, "learning_rate"),
        ("save_weights", {}, "path"),
        ("save_weights", {"path": "../x"}, "../x"),
        ("save_weights", {"path": ".."}, "'..'"),
        ("save_weights", {"path": "a?b"}, "a?b"),
        ("save_weights", {"path": "a", "ttl_seconds": 1}, "ttl_seconds"),
        ("save_weights", {"path": "a", "overwrite": "yes"}, "overwrite"),
        ("save_weights", {"path": "a", "user_metadata": {"k": 1}}, "user_metadata"),
        ("save_weights_for_sampler", {"kind": "eternal"}, "snapshot or inflight"),
        ("save_weights_for_sampler", {"kind": "inflight", "path": "a"}, "no name"),
        ("save_weights_for_sampler", {"kind": "snapshot"}, "sampling_session_seq_id"),
        (
            "save_weights_external",
            {"path": "a", "age_encryption_recipients": ["age1x"]},
            "age_encryption_recipients",
        ),
        ("load_weights", {"path": "file:///etc/passwd", "optimizer": False}, "/etc/passwd"),
    ],
)
def test_a_bad_op_in_a_readable_place_is_a_failed_future(run, call, fields, named):
    result = run.do(call, **fields)
    assert result["category"] == "user"
    assert named in result["error"]
    assert "error" not in run.do("optim_step", adam_params={})


def test_an_image_or_a_misshapen_tensor_is_a_failed_future_that_names_the_datum(client, run):
    image, misshapen = batch(run, 1), batch(run, 2)
    image.data.add().model_input.add().image.format = "png"
    misshapen.data[0].loss_fn_inputs["weights"].dense += b"x"
    for message, named in ((image, "datum 1: image chunks"), (misshapen, "datum 0: weights")):
        response = post_batch(client, message)
        assert response.status_code == 200
        result = run.result(response.json()["request_id"])
        assert result["category"] == "user"
        assert named in result["error"]


def test_a_batch_whose_content_is_wrong_is_a_failed_future(client, run):
    for seq_id, (message, named) in enumerate(
        [
            (batch(run, 1, tokens=[50]), "0 to 49"),
            (batch(run, 2, loss_fn_config={"beta": 1.0}), "beta"),
            (pb.ForwardBackwardRequest(model_id=run.run_id, seq_id=3), "loss"),
        ],
        start=1,
    ):
        assert message.seq_id == seq_id
        result = run.result(post_batch(client, message).json()["request_id"])
        assert result["category"] == "user"
        assert named in result["error"]


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"", {}),
        (b"garbage", {}),
        (b"garbage", {"Content-Encoding": "zstd"}),
        (b"garbage", {"Content-Encoding": "br"}),
        (b'{"forward_backward_input": {}, "model_id": "x", "seq_id": 1}', {}),
        (pb.ForwardBackwardRequest(model_id="x").SerializeToString(), {}),
    ],
)
def test_a_body_without_a_readable_place_is_400(client, content, headers):
    response = client.post("/api/v1/forward_backward", content=content, headers=headers)
    assert response.status_code == 400
    assert response.json()["detail"]


def test_a_run_that_is_not_there_is_404(client, run):
    run.run_id = "nobody:train:0"
    for call in ("optim_step", "save_weights", "load_weights"):
        body = {"model_id": run.run_id, "seq_id": 1, "path": "a", "adam_params": {}}
        response = client.post(f"/api/v1/{call}", json=body)
        assert response.status_code == 404
    assert post_batch(client, batch(run, 1)).status_code == 404
    assert client.post("/api/v1/get_info", json={"model_id": run.run_id}).status_code == 404


def test_a_body_over_the_limit_is_413_compressed_or_not(client, run):
    large = bytes(300_000)
    for content, headers in (
        (large, {}),
        (zstandard.compress(large), {"Content-Encoding": "zstd"}),
    ):
        response = client.post("/api/v1/forward_backward", content=content, headers=headers)
        assert response.status_code == 413
        assert "200000 bytes" in response.json()["detail"]


def test_info_names_the_model_by_which_the_sdk_finds_its_tokenizer(client, run):
    info = client.post("/api/v1/get_info", json={"model_id": run.run_id}).json()
    assert info["model_data"]["model_name"] == "org/tiny"
    assert (info["model_id"], info["lora_rank"]) == (run.run_id, 4)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"base_model": "org/unknown"}, "org/tiny"),
        ({"lora_config": {"rank": 0}}, "1 to 16"),
        ({"lora_config": {"rank": 17}}, "1 to 16"),
        ({"lora_config": {"rank": 4, "seed": -1}}, "seed"),
        ({"lora_config": {"rank": 4, **NOTHING_TRAINED}}, "train_attn"),
        ({"optimizer_config": {"type": "dimuon", "version": 1}}, "dimuon"),
    ],
)
def test_create_model_refuses_what_it_cannot_make(client, run, fields, named):
    body = {
        "session_id": run.session_id,
        "model_seq_id": 1,
        "base_model": "org/tiny",
        "lora_config": {"rank": 4},
        **fields,
    }
    response = client.post("/api/v1/create_model", json=body)
    assert response.status_code == 400
    assert named in response.json()["detail"]


def test_a_run_starts_from_a_checkpoint_under_the_id_that_the_sdk_computes(client, run):
    path = run.do("save_weights", path="base")["path"]
    assert path == f"tinker://{run.run_id}/weights/base"
    body = {"session_id": run.session_id, "model_seq_id": 1, "path": path, "optimizer": True}
    request_id = client.post("/api/v1/load_weights", json=body).json()["request_id"]
    assert run.result(request_id)["model_id"] == f"{run.session_id}:train:1"
    assert client.post("/api/v1/load_weights", json=body).json()["request_id"] == request_id


def test_a_run_cannot_start_from_a_checkpoint_that_is_not_there(client, run):
    path = f"tinker://{run.run_id}/weights/none"
    body = {"session_id": run.session_id, "model_seq_id": 1, "path": path, "optimizer": True}
    assert client.post("/api/v1/load_weights", json=body).status_code == 404


def test_an_unnamed_save_answers_with_a_sampler_that_exists(client, run):
    result = run.do("save_weights_for_sampler", sampling_session_seq_id=5, kind="snapshot")
    assert result == {"sampling_session_id": f"{run.session_id}:sample:5"}
    sampler = client.get(f"/api/v1/samplers/{result['sampling_session_id']}").json()
    assert sampler["base_model"] == "org/tiny"
