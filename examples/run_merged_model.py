"""Way 3 of 3: run a merged model, in which the adapter has become part of the weights.

    mailroom export --model tinker://RUN/sampler_weights/NAME --out runs/adapter --merged
    python examples/run_merged_model.py runs/adapter/merged examples/message.eml

An ordinary model folder: anything that loads Hugging Face models can run it, without PEFT.
"""

import argparse
from pathlib import Path

import torch
from mailroom.mail.parse import parse
from mailroom.prompt.chat import render_prompt
from mailroom.taxonomy import Taxonomy
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("model", help="the folder `merged` in what `mailroom export --merged` wrote")
parser.add_argument("mail", type=Path, help="a file with one message, such as examples/message.eml")
parser.add_argument("--taxonomy", default="default", help="the one it was trained with")
arguments = parser.parse_args()

tokenizer = AutoTokenizer.from_pretrained(arguments.model)
model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()

# Exactly the prompt of the training: a model knows only the form that it was taught.
message = parse(arguments.mail.read_bytes())
prompt = torch.tensor([render_prompt(message, tokenizer, Taxonomy.load(arguments.taxonomy))])

with torch.inference_mode():
    output = model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=160,
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )

print(tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True))
