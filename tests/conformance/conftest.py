"""A real server with a random tiny model, and the unmodified SDK in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tinker
from sdk_steps import KEY, MODEL, OTHER_MODEL, LiveServer
from server_process import serving

CHAT_TEMPLATE = """\
{%- for tool in tools or [] %}{{ tool | tojson }}
{% endfor %}
{%- for message in messages %}[{{ message.role }}] {{ message.content }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": {{ call.function.name | tojson }}, "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}

{% endfor %}
{%- if add_generation_prompt %}[assistant]{{ eos_token if loud }}{% endif %}"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The SDK leaves its sockets to the garbage collector, which warns of each."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"))
            item.add_marker(
                pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
            )


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 of two layers with a byte-level tokenizer of its own."""
    from transformers import Qwen3Config

    return save_random_model(tmp_path_factory.mktemp("model"), Qwen3Config, intermediate_size=48)


@pytest.fixture(scope="session")
def experts_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with four experts in each layer, two of which get a token."""
    from transformers import Qwen3MoeConfig

    return save_random_model(
        tmp_path_factory.mktemp("experts"),
        Qwen3MoeConfig,
        moe_intermediate_size=24,
        num_experts=4,
        num_experts_per_tok=2,
    )


def save_random_model(directory: Path, config_of, **widths: int) -> Path:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {text: index for index, text in enumerate(["<|end|>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|end|>",
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(directory)
    config = config_of(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        initializer_range=0.3,  # peaked enough that tokens differ in likelihood
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
        **widths,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def live_server(
    model_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    with serving(tmp_path_factory.mktemp("home"), model_directory, MODEL) as server:
        yield server


@pytest.fixture
def two_model_server(model_directory: Path, tmp_path: Path) -> Iterator[LiveServer]:
    """The same files as two base models, each with an engine of its own."""
    with serving(tmp_path / "home", model_directory, MODEL, OTHER_MODEL) as server:
        yield server


@pytest.fixture(scope="session")
def service(live_server: LiveServer) -> Iterator[tinker.ServiceClient]:
    client = tinker.ServiceClient(base_url=live_server.url, api_key=KEY)
    yield client
    client.close("success").result()


@pytest.fixture(scope="session")
def rest(live_server: LiveServer) -> tinker.RestClient:
    return tinker.RestClient(base_url=live_server.url, api_key=KEY)


@pytest.fixture(scope="session")
def make_run(service: tinker.ServiceClient):
    def make(**changes) -> tinker.TrainingClient:
        settings = {"rank": 4, "seed": 7, **changes}
        return service.create_lora_training_client(MODEL, **settings).result()

    return make


@pytest.fixture(scope="session")
def run(make_run) -> tinker.TrainingClient:
    """A run for tests that do not look at its weights."""
    return make_run()


@pytest.fixture(scope="session")
def tokenizer(model_directory: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_directory)
