"""Way 2 of 3: load an exported adapter with transformers and PEFT.

    mailroom export --model tinker://RUN/sampler_weights/NAME --out runs/adapter
    python examples/load_with_peft.py BASE runs/adapter examples/message.eml

BASE is the base model's folder or hub id. Needs no service: just this machine.
"""

import argparse
from pathlib import Path

import torch
from mailroom.mail.parse import parse
from mailroom.prompt.chat import render_prompt
from mailroom.taxonomy import Taxonomy
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("base", help="folder or hub id of the base model")
parser.add_argument("adapter", help="the folder that `mailroom export` wrote")
parser.add_argument("mail", type=Path, help="a file with one message, such as examples/message.eml")
parser.add_argument("--taxonomy", default="default", help="the one it was trained with")
arguments = parser.parse_args()

# The frozen base, and beside its linear layers the A and B of the adapter.
tokenizer = AutoTokenizer.from_pretrained(arguments.base)
base = AutoModelForCausalLM.from_pretrained(arguments.base, dtype=torch.float32)
model = PeftModel.from_pretrained(base, arguments.adapter).eval()

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
