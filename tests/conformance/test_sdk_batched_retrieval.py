"""With its flag, one poll asks after all samples of a client. The flag is off by default: it pays
with thousands of samples in flight, so the test switches it on in the client."""

import pytest
import tinker
from sdk_steps import KEY, MODEL

PROMPT = tinker.ModelInput.from_ints([5, 17, 200])


def set_flag(sampler: tinker.SamplingClient, is_on: bool) -> None:
    change = {"sample_use_retrieve_futures": is_on}
    sampler.holder._client_config = sampler.holder.get_client_config().model_copy(update=change)


@pytest.fixture
def sampler(live_server):
    service = tinker.ServiceClient(base_url=live_server.url, api_key=KEY)
    sampler = service.create_sampling_client(base_model=MODEL).result()
    set_flag(sampler, True)
    yield sampler
    service.close("success").result()


def test_many_samples_come_back_through_one_poll_each_with_its_own_answer(sampler, service):
    def ask(client, seed: int):
        params = tinker.SamplingParams(max_tokens=4, seed=seed, stop=[])
        return client.sample(PROMPT, 1, params)

    futures = [ask(sampler, seed) for seed in range(40)]
    answers = [future.result().sequences[0].tokens for future in futures]
    assert sampler._futures_poller is not None

    plain = service.create_sampling_client(base_model=MODEL).result()
    assert [ask(plain, seed).result().sequences[0].tokens for seed in range(40)] == answers
    again = ask(sampler, 3).result()  # after a pause, in which nothing is polled for
    assert again.sequences[0].tokens == answers[3]


def test_a_cursor_goes_on_where_it_was_and_an_unknown_one_starts_over(sampler, live_server):
    params = tinker.SamplingParams(max_tokens=1)
    set_flag(sampler, False)
    for _ in range(3):
        sampler.sample(PROMPT, 1, params).result()
    with live_server.http() as http:

        def retrieve(**fields) -> dict:
            target = {"sampling_session_id": sampler._sampling_session_id, **fields.pop("to", {})}
            body = {"target": target, "timeout": 0, **fields}
            answer = http.post("/retrieve_futures", json=body)
            return answer.json() if answer.status_code == 200 else {"status": answer.status_code}

        first = retrieve()
        ids = [one["request_id"] for one in first["completions"]]
        assert sorted(ids) == [f"{sampler._sampling_session_id}#{n}" for n in range(3)]
        assert retrieve(prev_cursor=first["cursor"])["completions"] == []
        assert len(retrieve(prev_cursor=first["cursor"] - 1)["completions"]) == 1
        assert len(retrieve(prev_cursor=17)["completions"]) == 3
        assert retrieve(to={"cloned_sampler_id": 5})["completions"] == []
        assert retrieve(to={"sampling_session_id": "nobody:sample:0"}) == {"status": 404}
