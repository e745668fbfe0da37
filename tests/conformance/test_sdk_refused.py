"""What this server does not offer says so by name, at once, and costs no retries."""

import time

import pytest
import tinker
from sdk_steps import ADAM, KEY, MODEL, adapter_of, assert_equal_adapters, batch_of


@pytest.fixture(scope="module")
def admin(live_server) -> tinker.AdminClient:
    return tinker.AdminClient(base_url=live_server.url, api_key=KEY)


@pytest.mark.parametrize(
    ("call", "path"),
    [
        (
            lambda admin, rest: admin.get_billing_usage(
                "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
            ),
            "billing/usage/events",
        ),
        (lambda admin, rest: rest.export_session_trace("some-session"), "trace_export"),
    ],
)
def test_a_call_without_a_counterpart_is_refused_by_name(admin, rest, call, path):
    started = time.monotonic()
    with pytest.raises(tinker.NotFoundError, match=f"has no call GET .*{path}"):
        call(admin, rest).result()
    assert time.monotonic() - started < 5.0


def test_a_traced_loss_is_computed_by_the_client_and_trains_as_the_servers_own(
    make_run, service, rest
):
    def negative(logprobs, weights):
        loss = -(logprobs * weights).sum()
        return loss, {"custom/negative:sum": loss}

    ranks = {"logprobs": 1, "weights": 1}
    handle = service.create_custom_loss(negative, input_ranks=ranks).result()
    traced, plain = make_run(), make_run()
    traced.forward_backward_custom(batch_of(3), handle).result()
    plain.forward_backward(batch_of(3), "cross_entropy").result()
    for run in (traced, plain):
        run.optim_step(ADAM).result()
    assert_equal_adapters(adapter_of(traced, rest, "a"), adapter_of(plain, rest, "a"), rtol=1e-5)


def test_a_token_for_somebody_elses_weights_is_refused_by_name(service, run):
    path = run.save_state("for-token").result().path
    with pytest.raises(tinker.BadRequestError, match="weights_access_token"):
        service.create_training_client_from_state(path, weights_access_token="x").result()


@pytest.mark.parametrize(
    "recipients", [[], ["age1xyz"], ["AGE-SECRET-KEY-1QQ"], ["ssh-rsa x"] * 11]
)
def test_exports_for_what_is_no_public_key_are_refused_by_name(run, recipients):
    with pytest.raises(tinker.RequestFailedError, match="age_encryption_recipients"):
        run.save_weights_external("secret", age_encryption_recipients=recipients).result()


def test_samplers_are_found_by_their_handle(service, live_server):
    sampler = service.create_sampling_client(base_model=MODEL).result()
    handle = sampler.get_sampler_handle()
    again = tinker.SamplingClient.from_sampler_handle(handle, api_key=KEY)
    prompt = tinker.ModelInput.from_ints([1, 2, 3])
    again = again.result() if hasattr(again, "result") else again
    params = tinker.SamplingParams(max_tokens=1, temperature=0.0, stop=[])
    first, second = (one.sample(prompt, 1, params).result() for one in (sampler, again))
    assert first.sequences[0].tokens == second.sequences[0].tokens
    assert again.get_base_model() == MODEL
