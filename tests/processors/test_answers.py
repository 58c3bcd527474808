"""Chat documents: what is a target, for our templates and for the layouts that real models use.

The layouts below are written down here in short form; the oracle for masks is the reference's own mask for a
template with ``{% generation %}`` markers.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
import tokenizers

from processors import ChatDocuments, ChatFormat, Tokenizer, check_conversation
from processors.answers import NOTE_EOS, NOTE_MARKERS, NOTE_OPEN, NOTE_SPLIT
from processors.chat import NOTE_DATE

LOOP = "{% for m in messages %}BODY{% endfor %}"
ASK = "{% if add_generation_prompt %}PROMPT{% endif %}"


def layout(body: str, prompt: str = "", before: str = "", after: str = "") -> str:
    return before + LOOP.replace("BODY", body) + after + ASK.replace("PROMPT", prompt)


def case(template, *, answer="{}", rows="one", notes=(), **parts):
    """``answer``: what is learned of an answer's text; ``parts``: what ``build`` takes."""
    return {"template": template, "answer": answer, "rows": rows, "notes": tuple(notes), "parts": parts}


_HEADS = "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
_THINK = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
)
_IM = {"extra": ("<|im_start|>", "<|im_end|>")}
LAYOUTS = {
    "llama3": case(
        layout(
            "{{ bos_token if loop.first }}" + _HEADS + "{{ m.content | trim }}<|eot_id|>",
            _HEADS.replace("{{ m.role }}", "assistant"),
        ),
        answer="{}<|eot_id|>",
        bos="<|begin_of_text|>",
        extra=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        add_bos=True,
    ),
    "mistral": case(
        layout(
            "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
            "{{ raise_exception('alternate') }}{% endif %}"
            "{{ '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else m.content + eos_token }}",
            before="{{ bos_token }}",
        ),
        answer="{}</s>",
        bos="<s>",
        eos="</s>",
        extra=("[INST]", "[/INST]"),
        add_bos=True,
    ),
    "gemma": case(
        layout(
            "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
            "{{ m.content | trim }}<end_of_turn>\n",
            "<start_of_turn>model\n",
            before="{{ bos_token }}",
        ),
        answer="{}<end_of_turn>",
        bos="<bos>",
        extra=("<start_of_turn>", "<end_of_turn>"),
    ),
    "phi3, whose end token swallows the line break": case(
        layout("<|{{ m.role }}|>\n{{ m.content }}<|end|>\n", "<|assistant|>\n"),
        answer="{}<|end|>",
        extra=("<|user|>", "<|assistant|>", "<|end|>"),
        rstrip=("<|user|>", "<|assistant|>", "<|end|>"),
    ),
    "glm, where the next role ends a turn": case(
        layout("<|{{ m.role }}|>\n{{ m.content }}", "<|assistant|>\n"),
        answer=("{}<|user|>", "{}<eos>"),
        notes=[NOTE_EOS],
        extra=("<|user|>", "<|assistant|>"),
    ),
    "vicuna": case(
        layout(
            "{{ 'USER: ' + m.content + ' ' if m.role == 'user' else 'ASSISTANT: ' + m.content + eos_token }}",
            "ASSISTANT:",
        ),
        answer=" {}<eos>",
    ),
    "a prompt that ends in a space": case(
        layout("{{ m.role }}: {{ m.content }}<eos>\n", "assistant: "),
        answer=" {}<eos>",
    ),
    "no special token at all": case(
        layout("{{ m.role.title() }}: {{ m.content }}\n", "Assistant:"),
        answer=(" {}\n", " {}\n<eos>"),
        notes=[NOTE_OPEN, NOTE_EOS],
    ),
    "no words that ask for an answer": case(
        layout("<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"),
        answer="<|im_start|>assistant\n{}<|im_end|>",
        **_IM,
    ),
    "an end of text after the last turn": case(
        layout(
            "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n",
            "<|im_start|>assistant\n",
            after="{{ eos_token if not add_generation_prompt }}",
        ),
        answer="{}<|im_end|>",
        **_IM,
    ),
    "an end only after the last turn": case(
        layout(
            "{{ m.role }}\n{{ m.content }}\n",
            "assistant\n",
            after="{{ eos_token if not add_generation_prompt }}",
        ),
        answer="{}\n<eos>",
        rows="each",
        notes=[NOTE_SPLIT],
    ),
    "earlier thoughts dropped": case(
        layout(
            "<|im_start|>{{ m.role }}\n"
            "{% if m.role == 'assistant' and loop.index0 > ns.last %}<think>t</think>{% endif %}"
            "{{ m.content }}<|im_end|>\n",
            "<|im_start|>assistant\n",
            before=_THINK,
        ),
        answer="<think>t</think>{}<|im_end|>",
        rows="each",
        notes=[NOTE_SPLIT],
        **_IM,
    ),
    "asks for thoughts that answers lack": case(
        layout("<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n", "<|im_start|>assistant\n<think>\n"),
        answer="{}<|im_end|>",
        **_IM,
    ),
    "asks for thoughts, where answers begin like them": case(
        layout(
            "<|im_start|>{{ m.role }}\n{{ '<table>' if m.role == 'assistant' }}{{ m.content }}<|im_end|>\n",
            "<|im_start|>assistant\n<think>\n",
        ),
        answer="<table>{}<|im_end|>",
        **_IM,
    ),
    "dated": case(
        layout(
            "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n",
            "<|im_start|>assistant\n",
            before="{{ strftime_now('%Y') }}\n",
        ),
        answer="{}<|im_end|>",
        notes=[NOTE_DATE],
        **_IM,
    ),
}


def expected_answers(answer, contents: list[str]) -> list[str]:
    middle, last = (answer, answer) if isinstance(answer, str) else answer
    return [middle.format(text) for text in contents[:-1]] + [last.format(contents[-1])]


@pytest.mark.parametrize("name", LAYOUTS)
def test_exactly_the_answers_are_targets(name, build, make_messages, learned):
    this = LAYOUTS[name]
    tokenizer, _ = build(this["template"], **this["parts"])
    chat = ChatDocuments(ChatFormat(), tokenizer=tokenizer, max_length=10_000)
    rng = random.Random(name)
    for number in range(60):
        messages = make_messages(rng, system=False, exchanges=1 + number % 3)
        row = {"messages": messages}
        documents = chat.encode(row)
        contents = [m["content"] for m in messages if m["role"] == "assistant"]
        found = [text for document in documents for text in learned(document, tokenizer)]
        if this["rows"] == "each":
            assert found == [this["answer"].format(text) for text in contents]
            assert len(documents) == len(contents)
        else:
            assert found == expected_answers(this["answer"], contents)
            assert len(documents) == 1
        without_end = dict.fromkeys(found[:-1]) if NOTE_OPEN in this["notes"] else ()
        assert check_conversation(row, documents, chat) == [
            f"the answer that ends {text[-30:]!r} has no end-of-turn token among its targets."
            for text in without_end
        ]
        for document in documents:
            assert document["input_ids"].dtype == np.int32
            assert document["loss_mask"].dtype == np.uint8
            assert not document["loss_mask"][0] or tokenizer.bos_token_id is None
    assert set(chat.report().template_notes) == set(this["notes"])
    assert chat.report().answers_cut == 0


@pytest.mark.parametrize("name", ["chatml", "llama3", "llama2", "mistral", "zephyr", "instruction"])
def test_our_templates_on_real_and_random_conversations(name, tokenizer_for, rows, make_messages, learned):
    tokenizer = tokenizer_for(name)
    chat = ChatDocuments(ChatFormat(), tokenizer=tokenizer, max_length=100_000)
    rng = random.Random(2)
    many = rows[:200] + [{"messages": make_messages(rng)} for _ in range(200)]
    end = {"llama2": " " + tokenizer.eos_token}.get(name, tokenizer.eos_token)
    begin = " " if name in ("llama2", "mistral") else ""
    strip = name in ("llama3", "llama2", "mistral")
    for row, documents in zip(many, chat.encode_batch(many), strict=True):
        (document,) = documents
        contents = [m["content"] for m in row["messages"] if m["role"] == "assistant"]
        assert learned(document, tokenizer) == [
            begin + (text.strip() if strip else text) + end for text in contents
        ]
        assert check_conversation(row, documents, chat) == []
        bos = tokenizer.bos_token_id
        assert bos is None or (document["input_ids"][0] == bos and document["input_ids"][1] != bos)
    report = chat.report()
    assert (report.rows, report.documents, report.answers_cut, report.template_notes) == (400, 400, 0, ())
    assert report.answers == sum(m["role"] == "assistant" for row in many for m in row["messages"])


MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("marked", [True, False])
def test_masks_equal_the_reference_mask(marked, build, make_messages):
    _, oracle = build(MARKED, **_IM)
    plain = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    tokenizer, _ = build(MARKED if marked else plain, **_IM)
    chat = ChatDocuments(ChatFormat(), tokenizer=tokenizer, max_length=10_000)
    rng = random.Random(3)
    for _ in range(100):
        messages = make_messages(rng)
        expected = oracle.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        (document,) = chat.encode({"messages": messages})
        assert document["input_ids"].tolist() == expected["input_ids"]
        assert document["loss_mask"].tolist() == expected["assistant_masks"]
    assert chat.report().template_notes == ()


def test_offsets_that_leave_out_spaces_change_nothing(tokenizer_for, make_messages):
    ours = tokenizer_for("chatml")
    backend = tokenizers.Tokenizer.from_str(ours.backend.to_str())
    backend.post_processor = tokenizers.processors.ByteLevel(trim_offsets=True)
    trimming = Tokenizer(backend, special_tokens=ours.special_tokens, chat_templates=ours.chat_templates)
    rng = random.Random(6)
    rows = [{"messages": make_messages(rng)} for _ in range(100)]
    one, other = (
        ChatDocuments(ChatFormat(), tokenizer=t, max_length=1000).encode_batch(rows) for t in (ours, trimming)
    )
    for (a,), (b,) in zip(one, other, strict=True):
        assert a["input_ids"].tolist() == b["input_ids"].tolist()
        assert a["loss_mask"].tolist() == b["loss_mask"].tolist()


def test_markers_that_leave_the_end_out_are_obeyed_and_reported(build, learned):
    source = MARKED.replace("<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>")
    tokenizer, _ = build(source, **_IM)
    chat = ChatDocuments(ChatFormat(), tokenizer=tokenizer, max_length=100)
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "the answer"}]}
    documents = chat.encode(row)
    assert learned(documents[0], tokenizer) == ["the answer"]
    assert chat.report().template_notes == (NOTE_MARKERS,)
    assert check_conversation(row, documents, chat) == [
        "the answer that ends 'the answer' has no end-of-turn token among its targets."
    ]


def test_a_marked_answer_ending_in_a_character_of_many_tokens(build, learned):
    source = MARKED.replace("<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>")
    tokenizer, _ = build(source, **_IM)
    chat = ChatDocuments(ChatFormat(), tokenizer=tokenizer, max_length=100)
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "ok 👩‍👩‍👧"}]}
    assert learned(chat.encode(row)[0], tokenizer) == ["ok 👩‍👩‍👧"]


@pytest.mark.parametrize("name", ["chatml", "llama3", "mistral", "zephyr"])
def test_special_tokens_spelled_in_messages_do_not_move_masks(name, tokenizer_for, make_text, learned):
    tokenizer = tokenizer_for(name)
    chat = ChatDocuments(ChatFormat(), tokenizer=tokenizer, max_length=10_000)
    rng = random.Random(4)
    pieces = [*sorted(tokenizer.special_texts), "hi", "😀", " "]
    begin = " " if name == "mistral" else ""
    for _ in range(100):
        roles = ("user", "assistant") * 2
        messages = [
            {"role": role, "content": "<" + make_text(rng, pieces) + tokenizer.eos_token} for role in roles
        ]
        documents = chat.encode({"messages": messages})
        contents = [m["content"] for m in messages if m["role"] == "assistant"]
        assert learned(documents[0], tokenizer) == [begin + text + tokenizer.eos_token for text in contents]
        targets = documents[0]["input_ids"][documents[0]["loss_mask"] == 1]
        assert (targets == tokenizer.eos_token_id).sum() == 2


def test_a_special_token_spelled_by_the_next_message_ends_no_answer(build, learned):
    tokenizer, _ = build(layout("{{ m.content }}\n"))
    contents = ["q", "a", "<eos> <eos>", "b"]
    messages = [{"role": r, "content": c} for r, c in zip(("user", "assistant") * 2, contents, strict=True)]
    (document,) = ChatDocuments(ChatFormat(), tokenizer=tokenizer, max_length=100).encode(
        {"messages": messages}
    )
    assert learned(document, tokenizer) == ["a\n", "b\n<eos>"]


def test_keys_filled_in_with_none_are_not_there_for_a_template(build):
    tokenizer, _ = build(layout("{{ m.content }}{% if m.tool_calls is defined %}calls{% endif %}<eos>"))
    messages = [{"role": r, "content": r, "tool_calls": None} for r in ("user", "assistant")]
    (document,) = ChatDocuments(ChatFormat(), tokenizer=tokenizer, max_length=100).encode(
        {"messages": messages}
    )
    assert tokenizer.decode(document["input_ids"].tolist()) == "user<eos>assistant<eos>"
