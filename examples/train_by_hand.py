"""The whole supervised loop on the Tinker SDK, without a framework around it.

    mailroom build --data builtin --out runs/corpus
    export TINKER_BASE_URL=http://127.0.0.1:8765 TINKER_API_KEY=tml-local
    export HF_ENDPOINT=http://127.0.0.1:8765/hub
    python examples/train_by_hand.py tinsmith/tiny runs/corpus

`mailroom train` does the same, and also sends ahead, keeps checkpoints and goes on after a crash.
"""

import argparse
import random

import tinker
from mailroom.corpus.corpus import Corpus
from mailroom.decision.run_metadata import metadata_for
from mailroom.prompt.chat import MAX_PROMPT_TOKENS, render_prompt

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("base_model", help="a base model that the service offers")
parser.add_argument("corpus", help="a folder that `mailroom build` wrote")
parser.add_argument("--steps", type=int, default=300)
parser.add_argument("--learning-rate", type=float, default=4e-3)
arguments = parser.parse_args()
corpus = Corpus.load(arguments.corpus)

# One adapter. Its categories travel with it, so that `mailroom triage` knows what it answers.
service = tinker.ServiceClient()
metadata = metadata_for(corpus.taxonomy, MAX_PROMPT_TOKENS, vars(arguments))
client = service.create_lora_training_client(
    arguments.base_model, rank=32, seed=0, train_unembed=False, user_metadata=metadata
).result()
tokenizer = client.get_tokenizer()

data = []
for example in corpus.train:
    prompt = render_prompt(example.message, tokenizer, corpus.taxonomy)
    answer = tokenizer.encode(example.completion, add_special_tokens=False)
    answer.append(tokenizer.eos_token_id)  # so that the model learns to stop
    tokens = prompt + answer
    weights = [0.0] * len(prompt) + [1.0] * len(answer)  # learn to answer mail, not to write it
    shifted = {"target_tokens": tokens[1:], "weights": weights[1:]}  # position i predicts i + 1
    data.append(
        tinker.Datum(model_input=tinker.ModelInput.from_ints(tokens[:-1]), loss_fn_inputs=shifted)
    )

draw = random.Random(0)
for step in range(arguments.steps):
    batch = draw.sample(data, 4)
    loss = client.forward_backward(batch, "cross_entropy").result().metrics["loss:sum"]
    client.optim_step(tinker.AdamParams(learning_rate=arguments.learning_rate)).result()
    num_weighted = sum(sum(datum.loss_fn_inputs["weights"].data) for datum in batch)
    print(f"step {step + 1}: {loss / num_weighted:.4f} a token")  # the service reports the sum

print(client.save_weights_for_sampler("by-hand").result().path)
