"""Way 1 of 3: ask a trained model through the Tinker SDK.

    export TINKER_BASE_URL=http://127.0.0.1:8765 TINKER_API_KEY=tml-local
    export HF_ENDPOINT=http://127.0.0.1:8765/hub
    python examples/sample_with_sdk.py tinker://RUN/sampler_weights/NAME examples/message.eml

Needs a running service and nothing heavy here: no torch, no weights on this machine.
"""

import argparse
from pathlib import Path

import tinker
from mailroom.mail.parse import parse
from mailroom.prompt.chat import render_prompt
from mailroom.taxonomy import Taxonomy

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("model", help="tinker:// path of sampler weights")
parser.add_argument("mail", type=Path, help="a file with one message, such as examples/message.eml")
parser.add_argument("--taxonomy", default="default", help="the one it was trained with")
arguments = parser.parse_args()

# The mail, and the tokenizer of the base model that the path belongs to.
message = parse(arguments.mail.read_bytes())
service = tinker.ServiceClient()
client = service.create_sampling_client(model_path=arguments.model).result()
tokenizer = client.get_tokenizer()

# Exactly the prompt of the training: a model knows only the form that it was taught.
prompt = render_prompt(message, tokenizer, Taxonomy.load(arguments.taxonomy))

# Temperature 0 is greedy: always the likeliest token. The answer ends with the EOS token.
response = client.sample(
    prompt=tinker.ModelInput.from_ints(prompt),
    num_samples=1,
    sampling_params=tinker.SamplingParams(
        max_tokens=160, temperature=0.0, stop=[tokenizer.eos_token_id]
    ),
).result()

print(tokenizer.decode(response.sequences[0].tokens, skip_special_tokens=True))
service.close("success").result()
