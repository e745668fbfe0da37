from types import SimpleNamespace

from mailroom.training.adapter_size import trainable_parameters

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "vocab_size": 512,
    "head_dim": 16,
}


def test_every_adapted_matrix_counts_with_its_inputs_and_outputs():
    per_layer = (64 + 64) + 2 * (64 + 32) + (64 + 64) + 3 * (64 + 96)

    assert trainable_parameters(SimpleNamespace(**SHAPE), 8, train_unembed=False) == (
        8 * 3 * per_layer
    )
    assert trainable_parameters(SimpleNamespace(**SHAPE), 8, train_unembed=True) == (
        8 * (3 * per_layer + 64 + 512)
    )


def test_the_count_is_pefts_own_for_the_reference_model():
    qwen3_4b = SimpleNamespace(
        hidden_size=2560,
        intermediate_size=9728,
        num_attention_heads=32,
        num_key_value_heads=8,
        num_hidden_layers=36,
        vocab_size=151936,
        head_dim=128,
    )

    # r x (inputs + outputs) over q, k, v, o, gate, up and down, written out once more.
    wanted = 32 * 36 * (6656 + 3584 + 3584 + 6656 + 12288 + 12288 + 12288)
    assert trainable_parameters(qwen3_4b, 32, train_unembed=False) == wanted == 66_060_288


def test_a_shape_that_is_not_known_gives_no_number():
    assert trainable_parameters(SimpleNamespace(hidden_size=4), 8, train_unembed=False) is None
    moe = SimpleNamespace(**SHAPE, num_experts=8)
    assert trainable_parameters(moe, 8, train_unembed=False) is None
