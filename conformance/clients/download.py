"""`python -m conformance.clients.download PATH ADAPTER PEFT`: fetch a checkpoint for PEFT.

`weights.download` of a training checkpoint decrypts what it fetches; of a plain export it takes the
files as they are. Both are fetched here, and have to be the same.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tinker
from tinker_cookbook import weights


def main(tinker_path: str, adapter: str, peft: str) -> None:
    weights.download(tinker_path=tinker_path, output_dir=adapter)
    with tinker.ServiceClient() as service:
        run = service.create_training_client_from_state(tinker_path).result()
        plain = run.save_weights_external("plain").result().path
    weights.download(tinker_path=plain, output_dir=f"{adapter}-plain")
    if contents(f"{adapter}-plain") != contents(adapter):
        sys.exit("what was decrypted is not what a plain export holds")
    weights.build_lora_adapter(base_model="model", adapter_path=adapter, output_path=peft)


def contents(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


if __name__ == "__main__":
    main(*sys.argv[1:])
