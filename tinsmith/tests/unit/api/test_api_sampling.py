import pytest
from tinker.proto.response_conv import deserialize_sample_response

MODEL = "org/tiny"


@pytest.fixture
def sampler_id(client) -> str:
    session_id = client.post("/api/v1/create_session", json={}).json()["session_id"]
    body = {"session_id": session_id, "sampling_session_seq_id": 0, "base_model": MODEL}
    first = client.post("/api/v1/create_sampling_session", json=body).json()
    assert client.post("/api/v1/create_sampling_session", json=body).json() == first
    return first["sampling_session_id"]


def sample(client, sampler_id: str, seq_id: int = 0, **changes):
    body = {
        "sampling_session_id": sampler_id,
        "seq_id": seq_id,
        "num_samples": 2,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": [1, 2, 3]}]},
        "sampling_params": {"max_tokens": 2, "temperature": 1.0, "top_k": -1, "top_p": 1.0},
        **changes,
    }
    return client.post("/api/v1/asample", json=body)


def test_a_sample_comes_back_with_as_many_sequences_as_ids(client, sampler_id):
    submitted = sample(client, sampler_id).json()
    assert len(set(submitted["sample_sequence_ids"])) == 2
    response = client.post("/api/v1/retrieve_future", json={"request_id": submitted["request_id"]})
    assert response.headers["content-type"] == "application/x-protobuf"
    sequences = deserialize_sample_response(response.content).sequences
    assert [sequence.tokens for sequence in sequences] == [[3, 4], [3, 4]]


def test_sampling_numbers_are_sparse_and_repeats_are_recognised(client, sampler_id):
    large = 191733668000000000
    first = sample(client, sampler_id, large).json()
    assert sample(client, sampler_id, large).json() == first
    assert sample(client, sampler_id, 7).json()["request_id"] != first["request_id"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"prompt": {"chunks": []}}, "prompt"),
        ({"prompt": {"chunks": [{"type": "encoded_text", "tokens": [50]}]}}, "0 to 49"),
        ({"prompt": {"chunks": [{"type": "encoded_text", "tokens": [1] * 65}]}}, "64"),
        ({"prompt": {"chunks": [{"type": "image", "data": "", "format": "png"}]}}, "image"),
        ({"num_samples": 0}, "num_samples"),
        ({"sampling_params": {"temperature": -1}}, "temperature"),
        ({"sampling_params": {"top_p": 0}}, "top_p"),
        ({"sampling_params": {"top_k": 0}}, "top_k"),
        ({"sampling_params": {"max_tokens": 0}}, "max_tokens"),
        ({"target_prompt_logprobs": {"data": [1]}}, "target_prompt_logprobs"),
        ({"prompt_alt_tokens_k": 129}, "prompt_alt_tokens_k"),
    ],
)
def test_a_bad_sample_is_refused_at_once_by_name(client, sampler_id, changes, named):
    response = sample(client, sampler_id, **changes)
    assert response.status_code == 400
    assert named in response.json()["detail"]


def test_samplers_of_unknown_models_paths_and_sessions_are_refused(client, sampler_id):
    session_id = sampler_id.partition(":")[0]
    for source, status in (
        ({"base_model": "org/unknown"}, 400),
        ({}, 400),
        ({"model_path": "/etc/passwd"}, 400),
        ({"model_path": "tinker://nobody:train:0/weights/a"}, 404),
        ({"base_model": MODEL, "session_id": "nobody"}, 404),
    ):
        body = {"session_id": session_id, "sampling_session_seq_id": 1, **source}
        response = client.post("/api/v1/create_sampling_session", json=body)
        assert response.status_code == status, response.text
        assert response.json()["detail"]


def test_a_sample_of_a_sampler_that_is_not_there_is_404(client):
    assert sample(client, "nobody:sample:0").status_code == 404
