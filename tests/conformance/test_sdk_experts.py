"""A model that routes tokens to experts, through the unmodified SDK, and both ways with PEFT."""

from __future__ import annotations

import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tinker
from click.testing import CliRunner
from sdk_steps import KEY, LiveServer, adapter_of, assert_equal_adapters, datum_of, train
from server_process import serving
from tinsmith.cli import main

MODEL = "conformance/experts"
TOKENS = [5, 17, 200, 3, 90, 41, 7, 60]
TOLERANCE = 1e-4
"""fp32 on both sides; the two programs add in different orders."""


@pytest.fixture(scope="module")
def server(
    experts_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    with serving(tmp_path_factory.mktemp("home"), experts_directory, MODEL) as server:
        yield server


@pytest.fixture(scope="module")
def sdk(server: LiveServer) -> Iterator[SimpleNamespace]:
    """The SDK's clients of that server."""
    service = tinker.ServiceClient(base_url=server.url, api_key=KEY)
    yield SimpleNamespace(
        service=service,
        rest=tinker.RestClient(base_url=server.url, api_key=KEY),
        run=lambda **settings: service.create_lora_training_client(
            MODEL, seed=7, **{"rank": 3, **settings}
        ).result(),
    )
    service.close("success").result()


def scored_by(sdk: SimpleNamespace, path: str) -> np.ndarray:
    sampler = sdk.service.create_sampling_client(model_path=path).result()
    return np.asarray(sampler.compute_logprobs(tinker.ModelInput.from_ints(TOKENS)).result()[1:])


def scored_by_peft(model) -> np.ndarray:
    import torch

    with torch.no_grad():
        logits = model(torch.tensor([TOKENS])).logits[0, :-1]
    return torch.log_softmax(logits.double(), -1)[range(len(TOKENS) - 1), TOKENS[1:]].numpy()


def trained_elsewhere(directory: Path, **settings):
    """A PEFT model with experts adapted, as a program of somebody else would make it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_pretrained(directory)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **settings))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def test_a_run_on_experts_trains_resumes_and_samples(sdk):
    whole, begun = sdk.run(), sdk.run()
    before = adapter_of(whole, sdk.rest, "before")
    train(whole, [0, 1, 2, 3])
    train(begun, [0, 1])
    path = begun.save_state("half").result().path
    resumed = sdk.service.create_training_client_from_state_with_optimizer(path).result()
    train(resumed, [2, 3])

    end = adapter_of(whole, sdk.rest, "end")
    assert_equal_adapters(end, adapter_of(resumed, sdk.rest, "end"))
    experts = [name for name in end if ".experts." in name and "lora_B" in name]
    assert len(experts) == 4  # two layers, two stacks each
    assert all(np.any(end[name] != before[name]) for name in experts)

    sampler = whole.save_weights_and_get_sampling_client().result()
    params = tinker.SamplingParams(max_tokens=6, temperature=0.0, stop=[])
    (one,) = sampler.sample(tinker.ModelInput.from_ints(TOKENS), 1, params).result().sequences
    datum = datum_of([*TOKENS, *one.tokens])
    (scored,) = whole.forward([datum], "cross_entropy").result().loss_fn_outputs
    np.testing.assert_allclose(scored["logprobs"].to_numpy()[-6:], one.logprobs, atol=TOLERANCE)


def test_the_load_of_the_experts_is_among_the_metrics(sdk, server):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(server.model_directory)
    # Nothing in common at the head: a shared prefix would count once.
    batch = [datum_of([5, 17, 200, 3]), datum_of([90, 41, 7]), datum_of([60, 8])]
    counts = torch.zeros(2, 4)
    for datum in batch:
        with torch.no_grad():
            out = model(torch.tensor([datum.model_input.to_ints()]), output_router_logits=True)
        for layer, logits in enumerate(out.router_logits):
            counts[layer] += torch.bincount(logits.topk(2).indices.flatten(), minlength=4)
    balance = counts.sum() / 2 / 4
    most, least = counts.amax(1), counts.amin(1)

    metrics = sdk.run().forward_backward(batch, "cross_entropy").result().metrics

    assert {name: metrics[name] for name in metrics if name.startswith("e_")} == pytest.approx(
        {
            "e_frac_with_tokens:mean": (counts > 0).float().mean().item(),
            "e_frac_oversubscribed:mean": (counts > balance).float().mean().item(),
            "e_max_violation:mean": ((most - balance) / balance).mean().item(),
            "e_max_violation:max": ((most - balance) / balance).max().item(),
            "e_min_violation:mean": ((least - balance) / balance).mean().item(),
        }
    )


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft 0.21
def test_an_export_of_experts_computes_the_same_under_peft(sdk, server, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run = sdk.run(train_unembed=False)
    train(run, [0, 1, 2])
    path = run.save_weights_external("out").result().path
    for name, url in sdk.rest.get_external_weights_urls(path).result().urls.items():
        urllib.request.urlretrieve(url, tmp_path / name)
    base = AutoModelForCausalLM.from_pretrained(server.model_directory)

    theirs = scored_by_peft(PeftModel.from_pretrained(base, tmp_path))

    (ours,) = run.forward([datum_of(TOKENS)], "cross_entropy").result().loss_fn_outputs
    np.testing.assert_allclose(ours["logprobs"].to_numpy(), theirs, atol=TOLERANCE)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft 0.21
# It looks for patterns among modules alone when it warns, and heeds them all the same.
@pytest.mark.filterwarnings("ignore:.*_pattern keys did not match:RuntimeWarning")
@pytest.mark.parametrize(
    "settings",
    [
        {
            "r": 4,
            "lora_alpha": 6,
            "target_modules": ["q_proj", "lm_head"],
            "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        },
        {
            "r": 2,
            "lora_alpha": 8,
            "use_rslora": True,
            "target_modules": [],
            "target_parameters": ["experts.down_proj"],
        },
        {
            "r": 2,
            "lora_alpha": 8,
            "target_modules": ["o_proj"],
            "target_parameters": [
                "model.layers.1.mlp.experts.gate_up_proj",
                "0.mlp.experts.down_proj",
            ],
            "rank_pattern": {"gate_up_proj": 5},
            "alpha_pattern": {"experts.down_proj": 3},
        },
    ],
    ids=["both stacks", "one stack", "mixed ranks"],
)
def test_an_adapter_of_experts_from_peft_computes_the_same_here_and_trains(
    sdk, server, tmp_path, settings
):
    model = trained_elsewhere(server.model_directory, **settings)
    model.save_pretrained(tmp_path / "from-peft", save_embedding_layers=False)
    arguments = ["checkpoints", "import", "--home", str(server.home), str(tmp_path / "from-peft")]
    done = CliRunner().invoke(main, [*arguments, "--model", f"{MODEL}={server.model_directory}"])
    assert done.exit_code == 0, (done.output, done.exception)
    path = next(word for word in done.output.split() if word.startswith("tinker://"))

    np.testing.assert_allclose(scored_by(sdk, path), scored_by_peft(model), atol=TOLERANCE)
    run = sdk.service.create_training_client_from_state(path).result()
    before = adapter_of(run, sdk.rest, "as-imported")
    train(run, [0])
    after = adapter_of(run, sdk.rest, "trained")
    adapted = {name for name in before if "lora_B" in name and before[name].any()}
    assert {name for name in after if "lora_B" in name and after[name].any()} == adapted
    assert any(".experts." in name for name in adapted)
    assert all(np.any(after[name] != before[name]) for name in adapted)


def test_a_checkpoint_of_experts_downloaded_and_imported_trains_on_bit_for_bit(
    sdk, server, tmp_path
):
    run = sdk.run()
    train(run, [0])
    run_id, kind, name = (
        run.save_state("traveller").result().path.removeprefix("tinker://").split("/")
    )
    archive = tmp_path / "traveller.tar.gz"
    with server.http() as http:
        url = f"/training_runs/{run_id}/checkpoints/{kind}/{name}/archive"
        archive.write_bytes(http.get(url).raise_for_status().content)
    arguments = ["checkpoints", "import", "--home", str(server.home), str(archive)]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    path = next(word for word in done.output.split() if word.startswith("tinker://"))
    resumed = sdk.service.create_training_client_from_state_with_optimizer(path).result()
    for one in (run, resumed):
        train(one, [1, 2])
    assert_equal_adapters(
        adapter_of(run, sdk.rest, "stayed"), adapter_of(resumed, sdk.rest, "travelled")
    )


def test_an_adapter_of_experts_with_other_widths_is_refused_by_the_layer(server, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = trained_elsewhere(
            server.model_directory,
            r=2,
            target_modules=[],
            target_parameters=["experts.down_proj"],
        )
    model.save_pretrained(tmp_path / "odd", save_embedding_layers=False)
    config = tmp_path / "odd" / "adapter_config.json"
    config.write_text(config.read_text().replace("experts.down_proj", "experts.gate_up_proj"))
    arguments = ["checkpoints", "import", "--home", str(server.home), str(tmp_path / "odd")]
    done = CliRunner().invoke(main, [*arguments, "--model", f"{MODEL}={server.model_directory}"])
    assert done.exit_code == 1
    assert "A [4 * rank, 32] and B [48, 4 * rank], got [8, 24] and [32, 8]" in done.stderr
