"""Against PEFT's own merge, on tiny random models."""

import json

import pytest
import torch
from mailroom.errors import MailroomError
from mailroom.export.merged import write_merged
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, Qwen3Config

# peft 0.21 asks transformers 5.23 for a name that the latter is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

TOKENS = torch.tensor([[1, 5, 9, 33, 7, 2]])
MATRICES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def base_model(folder, *, tied: bool, shard_bytes: str = "5GB"):
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=tied,
    )
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder, max_shard_size=shard_bytes)
    return model


def adapter(model, folder, targets):
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=32, target_modules=targets, task_type="CAUSAL_LM")
    peft = get_peft_model(model, config)
    for name, weight in peft.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    peft.save_pretrained(folder)


def logits(model):
    with torch.no_grad():
        return model.eval()(TOKENS).logits


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shard_bytes", ["5GB", "20KB"])
def test_a_merged_model_answers_as_base_and_adapter_do(tmp_path, tied, shard_bytes):
    adapter(base_model(tmp_path / "base", tied=tied, shard_bytes=shard_bytes),
            tmp_path / "adapter", MATRICES)  # fmt: skip

    write_merged(tmp_path / "adapter", tmp_path / "base", tmp_path / "merged")

    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    wanted = logits(PeftModel.from_pretrained(base, tmp_path / "adapter"))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    # fp32 sums in another order; the logits are of the order of 1.
    torch.testing.assert_close(logits(merged), wanted, atol=2e-6, rtol=1e-5)
    is_sharded = (tmp_path / "merged" / "model.safetensors.index.json").exists()
    assert is_sharded == (shard_bytes == "20KB")


def test_an_adapter_on_a_tied_output_layer_leaves_the_input_embedding_alone(tmp_path):
    model = base_model(tmp_path / "base", tied=True)
    embedding = model.get_input_embeddings().weight.detach().clone()
    (tmp_path / "adapter").mkdir()
    generator = torch.Generator().manual_seed(2)
    a, b = torch.randn(4, 32, generator=generator), torch.randn(64, 4, generator=generator)
    from safetensors.torch import save_file

    stem = "base_model.model.lm_head"
    tensors = {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}
    save_file(tensors, tmp_path / "adapter" / "adapter_model.safetensors")
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8}))

    write_merged(tmp_path / "adapter", tmp_path / "base", tmp_path / "merged")

    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(merged.get_input_embeddings().weight, embedding)
    torch.testing.assert_close(merged.get_output_embeddings().weight, embedding + 2.0 * (b @ a))


def test_weights_can_be_written_in_fewer_bits(tmp_path):
    adapter(base_model(tmp_path / "base", tied=False), tmp_path / "adapter", ["q_proj"])

    write_merged(tmp_path / "adapter", tmp_path / "base", tmp_path / "merged", dtype="bfloat16")

    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.dtype == torch.bfloat16


def test_an_adapter_of_another_base_model_is_refused_with_the_matrix(tmp_path):
    adapter(base_model(tmp_path / "base", tied=False), tmp_path / "adapter", ["q_proj"])
    config = tmp_path / "adapter" / "adapter_config.json"
    other = Qwen3Config(vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                        num_attention_heads=2, num_key_value_heads=2, head_dim=8)  # fmt: skip
    AutoModelForCausalLM.from_config(other).save_pretrained(tmp_path / "other")

    with pytest.raises(MailroomError, match="right base model"):
        write_merged(tmp_path / "adapter", tmp_path / "other", tmp_path / "merged")

    config.write_text(json.dumps({**json.loads(config.read_text()), "use_dora": True}))
    with pytest.raises(MailroomError, match="use_dora"):
        write_merged(tmp_path / "adapter", tmp_path / "base", tmp_path / "merged2")
