"""Training through the unmodified SDK."""

import warnings

import numpy as np
import pytest
import tinker
import torch
from sdk_steps import ADAM, adapter_of, assert_equal_adapters, batch_of, datum_of, train


def logprobs_of(output: tinker.ForwardBackwardOutput) -> list[np.ndarray]:
    return [one["logprobs"].to_numpy() for one in output.loss_fn_outputs]


def test_a_run_knows_its_model_and_rank(make_run, live_server):
    run = make_run(rank=2, user_metadata={"purpose": "test"})
    info = run.get_info()
    assert info.model_data.model_name == "conformance/tiny"
    assert info.lora_rank == 2


def test_forward_scores_the_targets_and_its_loss_is_their_sum(run):
    batch = batch_of(3)
    output = run.forward(batch, "cross_entropy").result()
    logprobs = logprobs_of(output)
    assert [one.shape for one in logprobs] == [(7,)] * 3
    assert all(np.all(one < 0) for one in logprobs)
    total = -sum(one.sum() for one in logprobs)
    assert output.metrics["loss:sum"] == pytest.approx(total, rel=1e-5)


def test_a_batch_of_more_than_a_thousand_datums_comes_back_in_order(run):
    batch = batch_of(1100, length=4)
    whole = logprobs_of(run.forward_backward(batch, "cross_entropy").result())
    assert len(whole) == 1100
    for index in (0, 1023, 1024, 1099):
        alone = logprobs_of(run.forward([batch[index]], "cross_entropy").result())[0]
        np.testing.assert_allclose(whole[index], alone, atol=1e-4)
    run.optim_step(ADAM).result()


def test_two_dimensional_sparse_targets_are_soft_targets(run):
    tokens, alternatives = [5, 9, 30, 41], 16
    targets = torch.zeros(4, alternatives, dtype=torch.int64)
    weights = torch.zeros(4, alternatives)
    targets[:, 0] = torch.tensor([9, 30, 41, 2])
    weights[1, 0], weights[2, 1] = 0.5, 0.25  # the second one is target token 0, never listed
    soft = tinker.Datum(
        model_input=tinker.ModelInput.from_ints(tokens),
        loss_fn_inputs={"target_tokens": targets, "weights": weights},
    )
    assert soft.loss_fn_inputs["target_tokens"].sparse_crow_indices is not None
    output = run.forward([soft], "cross_entropy").result()
    (logprobs,) = logprobs_of(output)
    assert logprobs.shape == (4, alternatives)
    plain = logprobs_of(run.forward([datum_of([*tokens, 2])], "cross_entropy").result())[0]
    zero = logprobs_of(run.forward([datum_of([*tokens[:3], 0])], "cross_entropy").result())[0]
    np.testing.assert_allclose(logprobs[:, 0], plain, atol=1e-5)
    assert logprobs[2, 1] == pytest.approx(zero[2], abs=1e-5)
    loss = -(0.5 * logprobs[1, 0] + 0.25 * logprobs[2, 1])
    assert output.metrics["loss:sum"] == pytest.approx(loss, rel=1e-5)


def test_a_datum_of_ten_megabytes_goes_through(run):
    num_tokens, num_targets = 300, 3000
    targets = np.random.default_rng(0).integers(1, 250, (num_tokens, num_targets))
    weights = np.full(targets.shape, 1.0 / num_targets, np.float32)
    datum = tinker.Datum(
        model_input=tinker.ModelInput.from_ints(targets[:, 0].tolist()),
        loss_fn_inputs={"target_tokens": targets, "weights": weights},
    )
    output = run.forward([datum], "cross_entropy").result()
    (logprobs,) = logprobs_of(output)
    assert logprobs.shape == targets.shape
    assert output.metrics["loss:sum"] == pytest.approx(-logprobs.mean(1).sum(), rel=1e-4)


def test_a_custom_loss_moves_the_weights_as_its_derivative_by_hand_does(make_run, rest):
    custom, by_hand = make_run(), make_run()
    batch = batch_of(3, seed=1)

    def squares(data, logprobs):
        return sum((one**2).sum() for one in logprobs), {"custom": 1.0}

    custom.forward_backward_custom(batch, squares).result()
    custom.optim_step(ADAM).result()

    logprobs = logprobs_of(by_hand.forward(batch, "cross_entropy").result())
    weighted = [
        tinker.Datum(
            model_input=datum.model_input,
            loss_fn_inputs={
                "target_tokens": datum.loss_fn_inputs["target_tokens"],
                "weights": (-2.0 * one).astype(np.float32),  # cross entropy is -w lp
            },
        )
        for datum, one in zip(batch, logprobs, strict=True)
    ]
    by_hand.forward_backward(weighted, "cross_entropy").result()
    by_hand.optim_step(ADAM).result()
    assert_equal_adapters(
        adapter_of(custom, rest, "custom"), adapter_of(by_hand, rest, "by-hand"), rtol=1e-6
    )


def test_two_batches_before_a_step_add_up_to_the_double_batch(make_run, rest):
    apart, together = make_run(), make_run()
    first, second = batch_of(2, seed=2), batch_of(2, seed=3)
    # A large eps makes the first step proportional to the gradient, so that sizes show.
    step = tinker.AdamParams(learning_rate=1.0, eps=1e3)
    for batch in (first, second):
        apart.forward_backward(batch, "cross_entropy")
    apart.optim_step(step).result()
    together.forward_backward([*first, *second], "cross_entropy")
    together.optim_step(step).result()
    one, other = adapter_of(apart, rest, "apart"), adapter_of(together, rest, "together")
    assert_equal_adapters(one, other, rtol=1e-4)
    assert any(np.abs(array).max() > 0 for name, array in one.items() if "lora_B" in name)


def test_forward_leaves_the_gradient_alone(make_run, rest):
    with_forward, without = make_run(), make_run()
    with_forward.forward(batch_of(2, seed=8), "cross_entropy")
    for run in (with_forward, without):
        train(run, [4])
    assert_equal_adapters(adapter_of(with_forward, rest, "a"), adapter_of(without, rest, "a"))


def test_twenty_operations_submitted_ahead_equal_one_at_a_time(make_run, rest):
    ahead, waiting = make_run(), make_run()
    train(ahead, list(range(10)))
    for seed in range(10):
        waiting.forward_backward(batch_of(4, seed=seed), "cross_entropy").result()
        waiting.optim_step(ADAM).result()
    assert_equal_adapters(adapter_of(ahead, rest, "a"), adapter_of(waiting, rest, "a"))


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (datum_of([1, 2, 9999]), "9999"),
        (datum_of([1, 2, 3], [1.0, float("nan")]), "nan"),
        (
            tinker.Datum(
                model_input=tinker.ModelInput.from_ints([1, 2]),
                loss_fn_inputs={
                    "target_tokens": np.asarray([1, 2], np.int64),
                    "weights": np.ones(3, np.float32),
                },
            ),
            "weights",
        ),
        (
            tinker.Datum(
                model_input=tinker.ModelInput.from_ints([1, 2]),
                loss_fn_inputs={"target_tokens": np.asarray([1, 2], np.int64)},
            ),
            "weights",
        ),
        (
            tinker.Datum(
                model_input=tinker.ModelInput(
                    chunks=[tinker.types.ImageChunk(data=b"x", format="png", expected_tokens=1)]
                ),
                loss_fn_inputs={},
            ),
            "image",
        ),
    ],
)
def test_a_bad_datum_fails_its_batch_by_name_and_the_run_goes_on(make_run, rest, bad, named):
    run, untouched = make_run(), make_run()
    batch = [*batch_of(2), bad, *batch_of(2)]
    with pytest.raises(tinker.RequestFailedError, match=named) as caught:
        run.forward_backward(batch, "cross_entropy").result()
    assert caught.value.category == "user"
    with pytest.raises(tinker.RequestFailedError):  # its window holds a failed batch
        run.optim_step(ADAM).result()
    for one in (run, untouched):
        train(one, [5])
    assert_equal_adapters(adapter_of(run, rest, "a"), adapter_of(untouched, rest, "a"))


@pytest.mark.parametrize("tokens", [[1, 2, 9999], [1, 2, 3]])
def test_a_bad_forward_does_not_spoil_the_next_step(run, tokens):
    chunks = [tinker.types.EncodedTextChunk(tokens=tokens)]
    if max(tokens) < 9999:
        chunks.append(tinker.types.ImageChunk(data=b"x", format="png", expected_tokens=1))
    bad = tinker.Datum(model_input=tinker.ModelInput(chunks=chunks), loss_fn_inputs={})
    with pytest.raises(tinker.RequestFailedError):
        run.forward([bad], "cross_entropy").result()
    train(run, [0])


def test_an_unknown_loss_names_the_supported_ones(run):
    with pytest.raises(tinker.RequestFailedError, match=r"stable_reinforce.*cross_entropy"):
        run.forward(batch_of(1), "stable_reinforce").result()


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"rank": 0}, "rank 0"), ({"rank": 100_000}, "100000"), ({"seed": -1}, "seed")],
)
def test_a_run_that_cannot_be_made_is_refused_at_once(make_run, settings, named):
    with pytest.raises(tinker.BadRequestError, match=named):
        make_run(**settings)


@pytest.mark.parametrize(
    ("switch", "layers"),
    [
        ("train_attn", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("train_mlp", {"gate_proj", "up_proj", "down_proj"}),
        ("train_unembed", {"lm_head"}),
    ],
)
def test_the_switches_say_which_layers_are_trained(make_run, rest, switch, layers):
    switches = {"train_attn": False, "train_mlp": False, "train_unembed": False, switch: True}
    run = make_run(**switches)
    train(run, [0])
    adapter = adapter_of(run, rest, "trained")
    assert {name.rsplit(".", 3)[1] for name in adapter} == layers
    assert all(array.any() for name, array in adapter.items() if "lora_B" in name)


def test_an_unknown_base_model_is_refused_with_those_served(service):
    with pytest.raises(tinker.BadRequestError, match="conformance/tiny"):
        service.create_lora_training_client("org/unknown").result()


def test_another_optimizer_is_refused(service, run):
    with pytest.raises(tinker.BadRequestError, match="dimuon"):
        service.create_lora_training_client(
            "conformance/tiny", optimizer=tinker.types.DimuonOptimizerConfig()
        ).result()
    with pytest.raises(tinker.RequestFailedError, match="AdamW"):
        run.optim_step(tinker.types.DimuonParams(learning_rate=0.1)).result()


def test_resuming_equals_no_interruption(make_run, service, rest):
    whole, begun = make_run(), make_run()
    train(whole, [0, 1, 2, 3])
    train(begun, [0, 1])
    path = begun.save_state("half").result().path
    resumed = service.create_training_client_from_state_with_optimizer(path).result()
    train(resumed, [2, 3])
    assert_equal_adapters(adapter_of(whole, rest, "end"), adapter_of(resumed, rest, "end"))


def test_loading_without_optimizer_keeps_the_weights_and_forgets_the_moments(
    make_run, service, rest
):
    run = make_run()
    train(run, [0, 1])
    path = run.save_state("half").result().path
    fresh = service.create_training_client_from_state(path).result()
    assert_equal_adapters(adapter_of(run, rest, "now"), adapter_of(fresh, rest, "now"))
    for one in (run, fresh):
        train(one, [2])
    continued, restarted = adapter_of(run, rest, "next"), adapter_of(fresh, rest, "next")
    assert any(not np.array_equal(continued[name], restarted[name]) for name in continued)


def test_an_existing_run_takes_a_checkpoint_back(make_run, rest):
    run = make_run()
    train(run, [0])
    path = run.save_state("early").result().path
    before = adapter_of(run, rest, "before")
    train(run, [1, 2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the SDK deprecates the call
        run.load_state_with_optimizer(path).result()
    assert_equal_adapters(adapter_of(run, rest, "after"), before)


def test_a_taken_name_is_refused_unless_overwritten(make_run, service, rest):
    run = make_run()
    run.save_state("name").result()
    train(run, [0])
    with pytest.raises(tinker.RequestFailedError, match="exists"):
        run.save_state("name").result()
    path = run.save_state("name", overwrite=True, user_metadata={"v": "2"}).result().path
    loaded = service.create_training_client_from_state(path).result()
    assert_equal_adapters(adapter_of(run, rest, "a"), adapter_of(loaded, rest, "a"))


@pytest.mark.parametrize("name", ["..", ".", "../x", "a/b", "a?b", "a#b", "a b", "", "x" * 200])
def test_names_that_would_break_urls_or_folders_are_refused(run, name):
    with pytest.raises(tinker.RequestFailedError) as caught:
        run.save_state(name).result()
    assert caught.value.category == "user"


def test_a_corrupt_checkpoint_is_refused_by_name_and_leaves_the_server_well(
    make_run, service, live_server
):
    run = make_run()
    path = run.save_state("spoiled").result().path
    weights = next((live_server.home / "checkpoints").rglob("spoiled/adapter_model.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 0xFF
    weights.write_bytes(content)
    with pytest.raises(tinker.RequestFailedError, match="corrupt"):
        service.create_training_client_from_state(path).result()
    train(run, [0])


def test_a_checkpoint_that_is_not_there_is_refused(service, run):
    with pytest.raises(tinker.NotFoundError, match="nowhere"):
        service.create_training_client_from_state(
            f"tinker://{run.model_id}/weights/nowhere"
        ).result()
