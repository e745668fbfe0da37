"""`python -m conformance.clients.download PATH ADAPTER PEFT`: fetch a checkpoint for PEFT."""

from __future__ import annotations

import sys

from tinker_cookbook import weights


def main(tinker_path: str, adapter: str, peft: str) -> None:
    weights.download(tinker_path=tinker_path, output_dir=adapter)
    weights.build_lora_adapter(base_model="model", adapter_path=adapter, output_path=peft)


if __name__ == "__main__":
    main(*sys.argv[1:])
