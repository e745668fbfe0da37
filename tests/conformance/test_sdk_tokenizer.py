"""get_tokenizer on a machine that has neither network nor cache."""

import json
import subprocess
import sys

SCRIPT = """
import json, socket, sys

real_connect, real_lookup = socket.socket.connect, socket.getaddrinfo

def connect(self, address):
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise OSError(f"no network: {address}")
    return real_connect(self, address)

def lookup(host, *rest, **more):
    if host not in ("127.0.0.1", "::1", "localhost", None):
        raise OSError(f"no network: {host}")
    return real_lookup(host, *rest, **more)

socket.socket.connect, socket.getaddrinfo = connect, lookup

import tinker

service = tinker.ServiceClient()
training = service.create_lora_training_client("conformance/tiny", rank=2).result()
sampling = service.create_sampling_client(base_model="conformance/tiny").result()
text = "Invoice 42 \\u2192 paid"
tokens = [client.get_tokenizer().encode(text) for client in (training, sampling)]
back = training.get_tokenizer().decode(tokens[0])
service.close("success").result()
print(json.dumps({"tokens": tokens, "back": back}))
"""


def test_both_clients_find_the_tokenizer_through_the_hub_facade(live_server, tokenizer, tmp_path):
    child = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=live_server.environment(
            HF_ENDPOINT=f"{live_server.url}/hub", HF_HOME=str(tmp_path / "hf"), HF_HUB_OFFLINE="0"
        ),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-3000:]
    answer = json.loads(child.stdout.splitlines()[-1])
    expected = tokenizer.encode("Invoice 42 \u2192 paid")
    assert answer["tokens"] == [expected, expected]
    assert answer["back"] == "Invoice 42 \u2192 paid"
    assert not list((tmp_path / "hf").rglob("*.safetensors"))
