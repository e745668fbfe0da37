"""The commands as a person and other programs use them, one after another on one small model."""

from __future__ import annotations

import json
import re
import tarfile
from html.parser import HTMLParser
from pathlib import Path

import pytest

SCORES = {"examples", "format", "category", "priority", "priority_given_category", "macro_f1",
          "stopped"}  # fmt: skip
NUM_TEST = 14
MAIL = b"""From: Ann <ann@example.org>
Subject: Your code
Message-ID: <1@example.org>

Use 123456 to sign in.
"""


@pytest.fixture(scope="module")
def corpus_folder(mailroom, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("work") / "corpus"
    ended = mailroom("build", "--data", "builtin", "--out", str(folder), "--json")
    assert ended.code == 0, ended.err
    document = ended.document
    assert {"train", "test", "rejected", "near_duplicates", "categories", "out"} <= set(document)
    assert document["train"] >= 400 and document["test"] >= 200
    return folder


@pytest.fixture(scope="module")
def train_options(corpus_folder) -> list[str]:
    """A short run: long enough to change the answers, too short to learn the form."""
    return ["train", "--corpus", str(corpus_folder), "--examples", "48", "--epochs", "2",
            "--rank", "16", "--json"]  # fmt: skip


@pytest.fixture(scope="module")
def trained(mailroom, train_options) -> dict:
    ended = mailroom(*train_options)
    assert ended.code == 0, ended.err
    return ended.document


@pytest.fixture(scope="module")
def evaluated(mailroom, corpus_folder, trained) -> dict:
    ended = mailroom(
        "evaluate", "--corpus", str(corpus_folder), "--model", trained["model"],
        "--limit", str(NUM_TEST), "--json",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    return ended.document


@pytest.fixture(scope="module")
def exported(mailroom, trained, evaluated, tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("exports") / "adapter"
    ended = mailroom(
        "export", "--model", trained["model"], "--out", str(out), "--archive", "--merged", "--json"
    )
    assert ended.code == 0, ended.err
    return ended.document


def test_training_tells_what_it_did(trained):
    assert {"steps", "first_loss", "last_loss", "seconds", "model", "state"} <= set(trained)
    assert trained["steps"] == 24
    assert trained["last_loss"] < 0.5 * trained["first_loss"]
    assert trained["model"].startswith("tinker://") and trained["state"].startswith("tinker://")


def test_metrics_are_there_as_json_lines(trained):
    lines = (Path(trained["run"]) / "metrics.jsonl").read_text().splitlines()

    metrics = [json.loads(line) for line in lines]
    assert [one["step"] for one in metrics] == list(range(1, 25))
    assert metrics[-1]["loss"] == trained["last_loss"]


def test_the_same_command_again_has_nothing_left_to_do(mailroom, train_options, trained):
    ended = mailroom(*train_options)

    assert ended.document["model"] == trained["model"] and ended.document["was_complete"]
    assert "already trained" in ended.err


def test_evaluation_has_both_models_in_the_agreed_shape(evaluated, trained):
    assert evaluated["model"] == trained["model"]
    for which in ("before", "after"):
        assert set(evaluated[which]) >= SCORES
        assert evaluated[which]["examples"] == NUM_TEST
        assert set(evaluated[which]["scored"]) >= SCORES
    assert evaluated["before"]["format"] < 0.05
    assert evaluated["baselines"]["tfidf"]["category"] > 0.5
    assert evaluated["baselines"]["tfidf"]["format"] is None
    counted = sum(sum(row.values()) for row in evaluated["confusion"].values())
    assert counted == NUM_TEST


def test_the_base_model_alone_has_no_after(mailroom, corpus_folder):
    ended = mailroom(
        "evaluate", "--corpus", str(corpus_folder), "--model", "base", "--limit", "3",
        "--no-scoring", "--report", str(corpus_folder / "base.html"), "--json",
    )  # fmt: skip

    assert ended.code == 0, ended.err
    assert ended.document["after"] is None and ended.document["before"]["scored"] is None
    assert ended.document["model"] == "base"


class Page(HTMLParser):
    """Every tag with its attributes, and whether what was opened was closed."""

    VOID = ("meta", "br", "hr", "img", "input", "link", "path", "line", "rect")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes something else"


def test_the_report_is_one_page_that_asks_for_nothing(evaluated):
    text = Path(evaluated["report"]).read_text()

    page = Page(text)
    names = [tag for tag, _ in page.tags]
    assert not {"script", "link", "img", "iframe"} & set(names)
    assert not [attributes for _, attributes in page.tags if {"src", "href"} & set(attributes)]
    assert "url(" not in text and "@import" not in text
    assert names.count("svg") == 1, "the loss curve"
    assert "TF-IDF" in text and "What the loss looks at" in text and "sampler_weights" in text


def test_an_export_is_a_peft_folder_with_card_and_taxonomy(exported, trained):
    folder = Path(exported["out"])

    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tinsmith/tiny"
    assert (config["r"], config["peft_type"]) == (16, "LORA")
    card = (folder / "README.md").read_text()
    assert trained["model"] in card and "| with this adapter | 14 |" in card
    assert (folder / "taxonomy.toml").read_text().startswith('name = "default"')
    with tarfile.open(exported["archive"]) as archive:
        assert "adapter/adapter_model.safetensors" in archive.getnames()
        assert not [name for name in archive.getnames() if "merged" in name]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft 0.21
def test_peft_and_the_merged_model_answer_as_the_service_does(exported, trained, service, corpus):
    import tinker
    import torch
    from mailroom.prompt.chat import render_prompt
    from peft import PeftModel
    from tinsmith.base_models import BUILTIN_DIRECTORY
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(exported["merged"])
    prompt = render_prompt(corpus.test[0].message, tokenizer, corpus.taxonomy)
    with service.session() as session:
        client = session.create_sampling_client(model_path=trained["model"]).result()
        params = tinker.SamplingParams(max_tokens=60, temperature=0.0)
        written = client.sample(tinker.ModelInput.from_ints(prompt), 1, params).result()
        answer = written.sequences[0].tokens
        whole = [*prompt, *answer]
        theirs = client.compute_logprobs(tinker.ModelInput.from_ints(whole)).result()

    base = AutoModelForCausalLM.from_pretrained(BUILTIN_DIRECTORY, dtype=torch.float32)
    models = {
        "peft": PeftModel.from_pretrained(base, exported["out"]),
        "merged": AutoModelForCausalLM.from_pretrained(exported["merged"]),
    }
    for name, model in models.items():
        with torch.no_grad():
            logits = model.eval()(torch.tensor([whole])).logits[0]
        logprobs = torch.log_softmax(logits[:-1].double(), dim=-1)
        ours = logprobs[torch.arange(len(whole) - 1), torch.tensor(whole[1:])]
        # The figure to reach: 1e-4 in fp32.
        torch.testing.assert_close(
            ours, torch.tensor(theirs[1:], dtype=torch.float64), atol=1e-4, rtol=0,
            msg=lambda text, name=name: f"{name}: {text}",
        )  # fmt: skip
        assert logits[len(prompt) - 1 : -1].argmax(-1).tolist() == answer, name


def test_triage_prints_one_entry_for_each_message_in_order(mailroom, trained, tmp_path):
    mbox = tmp_path / "mail.mbox"
    mbox.write_bytes(b"".join(b"From a Thu Jan  1 00:00:00 2026\n" + MAIL + b"\n" for _ in "ab"))
    before = mbox.read_bytes()

    ended = mailroom("triage", f"mbox:{mbox}", "--model", trained["model"], "--json")

    assert ended.code == 0, ended.err
    messages = ended.document["messages"]
    assert [message["index"] for message in messages] == [0, 1]
    for message in messages:
        assert message["message_id"] == "<1@example.org>" and message["status"] == "decided"
        assert re.fullmatch(r"[a-z_]+", message["category"])
        assert message["priority"] in ("High", "Medium", "Low") and message["actions"]
        assert 0.0 < message["confidence"] <= 1.0 and message["error"] is None
    assert mbox.read_bytes() == before


def test_triage_reads_standard_input_and_leaves_what_it_is_not_sure_of(mailroom, trained):
    ended = mailroom("triage", "-", "--model", trained["model"], "--threshold", "1", stdin=MAIL)

    assert ended.code == 0, ended.err
    assert "Left to you" in ended.out and "Nothing was changed." in ended.out


def test_a_path_that_the_service_does_not_know_is_one_clear_line(mailroom, tmp_path):
    mail = tmp_path / "a.eml"
    mail.write_bytes(MAIL)

    ended = mailroom("triage", str(mail), "--model", "tinker://gone:train:0/sampler_weights/x")

    assert ended.code == 1 and "tinker://gone:train:0" in ended.err
    assert "Traceback" not in ended.err and ended.out == ""


def test_an_unknown_base_model_is_refused_by_a_service_of_the_environment(
    mailroom, service, corpus_folder
):
    ended = mailroom(
        "train", "--corpus", str(corpus_folder), "--base-model", "no/model", "--examples", "4",
        TINKER_BASE_URL=service.url, TINKER_API_KEY="tml-x",
    )  # fmt: skip

    assert ended.code == 1 and "no/model" in ended.err and "tinsmith/tiny" in ended.err
    assert "Traceback" not in ended.err
