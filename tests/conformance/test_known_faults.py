"""What other open servers of this API have been seen to do, and this one must not."""

import time
from pathlib import Path

import httpx
import psutil
import tinker
from sdk_steps import ADAM, KEY, MODEL, batch_of
from server_process import serving, starting, wait_until_announced, wait_until_healthy

PROMPT = tinker.ModelInput.from_ints([5, 17, 200])
PATIENCE_S = 60.0


def engine_of(server_pid: int) -> psutil.Process:
    """The server's only child."""
    server = psutil.Process(server_pid)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if found := server.children():
            return found[0]
        time.sleep(0.001)
    raise AssertionError("the server has started no engine")


def test_a_server_is_healthy_only_once_its_model_is_loaded(model_directory, tmp_path):
    with starting(tmp_path, model_directory, MODEL) as process:
        engine = engine_of(process.pid)
        engine.suspend()  # it has hardly begun; now it takes as long as we like
        try:
            url = wait_until_announced(process, tmp_path)
            answers = [httpx.get(f"{url}/api/v1/healthz", timeout=30.0) for _ in range(3)]
            assert [one.status_code for one in answers] == [503] * 3
            service = tinker.ServiceClient(base_url=url, api_key=KEY)
            sampler = service.create_sampling_client(base_model=MODEL).result()
            early = sampler.sample(PROMPT, 1, tinker.SamplingParams(max_tokens=2, stop=[]))
        finally:
            engine.resume()
        assert wait_until_healthy(process, tmp_path) == url
        # What was asked meanwhile has waited for the model, and is answered.
        assert len(early.result().sequences[0].tokens) == 2
        service.close("success").result()


def test_no_shape_of_a_batch_makes_anybody_wait_for_a_compilation(model_directory, tmp_path):
    caches = tmp_path / "caches"
    names = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "NUMBA_CACHE_DIR")
    loud = {"TORCH_LOGS": "dynamo", **{name: str(caches / name) for name in names}}

    def compiled() -> set[Path]:
        return {file for file in caches.rglob("*") if file.is_file()}

    with serving(tmp_path / "home", model_directory, MODEL, **loud) as server:
        before, log_before = compiled(), server.log.read_text()
        service = tinker.ServiceClient(base_url=server.url, api_key=KEY)
        run = service.create_lora_training_client(MODEL, rank=3).result()
        sampler = run.save_weights_and_get_sampling_client().result()
        training, samples = [], []
        for number in range(1, 8):
            batch = batch_of(number, length=3 + 5 * number, seed=number)
            training.append(run.forward_backward(batch, "cross_entropy"))
            training.append(run.optim_step(ADAM))
            params = tinker.SamplingParams(max_tokens=number, stop=[])
            samples.append(sampler.sample(PROMPT, number, params))
        for future in (*training, *samples):
            future.result()
        service.close("success").result()
        assert "dynamo" not in server.log.read_text().removeprefix(log_before)
        # What is compiled at all is compiled before the server calls itself healthy.
        assert compiled() == before


def test_a_stop_string_ends_the_work_and_not_just_the_answer(service, tokenizer):
    sampler = service.create_sampling_client(base_model=MODEL).result()
    seeded = {"temperature": 1.0, "seed": 4}
    free = sampler.sample(PROMPT, 1, tinker.SamplingParams(max_tokens=24, stop=[], **seeded))
    stop = tokenizer.decode(free.result().sequences[0].tokens[18:20])
    long = {"max_tokens": 500, **seeded}
    to_the_end = sampler.sample(PROMPT, 32, tinker.SamplingParams(stop=[], **long))
    stopped = sampler.sample(PROMPT, 1, tinker.SamplingParams(stop=stop, **long))
    assert len(stopped.result().sequences[0].tokens) <= 20
    assert not to_the_end.future().done()  # asked for before, of the same length but for the stop
    assert {len(one.tokens) for one in to_the_end.result().sequences} == {500}


def test_a_large_sample_does_not_hold_up_small_ones(service):
    sampler = service.create_sampling_client(base_model=MODEL).result()
    prompt = tinker.ModelInput.from_ints([1 + i % 250 for i in range(200)])
    large = sampler.sample(prompt, 64, tinker.SamplingParams(max_tokens=300, stop=[]))
    small = tinker.SamplingParams(max_tokens=1, stop=[])
    for _ in range(5):
        assert len(sampler.sample(PROMPT, 1, small).result().sequences[0].tokens) == 1
    assert not large.future().done()
    assert {len(one.tokens) for one in large.result().sequences} == {300}


def test_runs_of_unequal_size_take_turns(make_run):
    large, small = make_run(), make_run()
    waiting = [large.forward_backward(batch_of(300, length=300), "cross_entropy") for _ in range(3)]
    for _ in range(3):
        small.forward_backward(batch_of(1), "cross_entropy").result()
    assert not waiting[-1].future().done()
    for future in waiting:
        future.result()
