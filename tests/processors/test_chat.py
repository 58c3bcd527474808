"""Chat documents: what is a target, for our templates and for the layouts that real models use.

The layouts below are written down here in short form; the oracle for masks is the reference's own mask for a
template with ``{% generation %}`` markers.
"""

from __future__ import annotations

import itertools
import json
import random
import time

import numpy as np
import pytest

from conf.errors import ConfigError
from processors import ChatDocuments, ChatFormat, FormatReport, RowError, check_conversation, show
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


def learned(document, tokenizer) -> list[str]:
    """The text of each stretch of targets."""
    ids, mask = document["input_ids"], document["loss_mask"]
    borders = [0, *(np.flatnonzero(np.diff(mask)) + 1), len(ids)]
    return [tokenizer.decode(ids[a:b].tolist()) for a, b in itertools.pairwise(borders) if mask[a]]


def expected_answers(answer, contents: list[str]) -> list[str]:
    middle, last = (answer, answer) if isinstance(answer, str) else answer
    return [middle.format(text) for text in contents[:-1]] + [last.format(contents[-1])]


@pytest.mark.parametrize("name", LAYOUTS)
def test_exactly_the_answers_are_targets(name, build, make_messages):
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
        assert check_conversation("row", row, documents, chat) == [
            f"row: the answer that ends {text[-30:]!r} has no end-of-turn token among its targets."
            for text in without_end
        ]
        for document in documents:
            assert document["input_ids"].dtype == np.int32
            assert document["loss_mask"].dtype == np.uint8
            assert not document["loss_mask"][0] or tokenizer.bos_token_id is None
    assert set(chat.report().template_notes) == set(this["notes"])
    assert chat.report().answers_cut == 0


@pytest.mark.parametrize("name", ["chatml", "llama3", "llama2", "mistral", "zephyr", "instruction"])
def test_our_templates_on_real_and_random_conversations(name, tokenizer_for, rows, make_messages):
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
        assert check_conversation("row", row, documents, chat) == []
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


def test_markers_that_leave_the_end_out_are_obeyed_and_reported(build):
    source = MARKED.replace("<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>")
    tokenizer, _ = build(source, **_IM)
    chat = ChatDocuments(ChatFormat(), tokenizer=tokenizer, max_length=100)
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "the answer"}]}
    documents = chat.encode(row)
    assert learned(documents[0], tokenizer) == ["the answer"]
    assert chat.report().template_notes == (NOTE_MARKERS,)
    assert check_conversation("f:1", row, documents, chat) == [
        "f:1: the answer that ends 'the answer' has no end-of-turn token among its targets."
    ]


def test_a_marked_answer_ending_in_a_character_of_many_tokens(build):
    source = MARKED.replace("<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>")
    tokenizer, _ = build(source, **_IM)
    chat = ChatDocuments(ChatFormat(), tokenizer=tokenizer, max_length=100)
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "ok 👩‍👩‍👧"}]}
    assert learned(chat.encode(row)[0], tokenizer) == ["ok 👩‍👩‍👧"]


@pytest.mark.parametrize("name", ["chatml", "llama3", "mistral", "zephyr"])
def test_special_tokens_spelled_in_messages_do_not_move_masks(name, tokenizer_for, make_text):
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


def test_tool_calls_are_learned_and_results_are_not(tokenizer_for):
    tokenizer = tokenizer_for("chatml")
    chat = ChatDocuments(ChatFormat(), tokenizer=tokenizer, max_length=1000)
    call = {"id": None, "function": {"name": "add", "arguments": {"a": 1}}}
    row = {
        "tools": json.dumps([{"function": {"name": "add"}}]),
        "messages": [
            {"role": "user", "content": "1+1?", "tool_calls": None},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "2", "tool_calls": None},
            {"role": "assistant", "content": "two", "tool_calls": None},
        ],
    }
    (document,) = chat.encode(row)
    assert learned(document, tokenizer) == [
        '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>',
        "two<|im_end|>",
    ]
    assert '{"function": {"name": "add"}}' in tokenizer.decode(document["input_ids"].tolist())


CONVERSATION = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "first"},
    {"role": "user", "content": "b"},
    {"role": "assistant", "content": "second"},
    {"role": "user", "content": "c"},
]


@pytest.mark.parametrize("marked", [True, False])
def test_which_answers_are_learned(marked, build, tokenizer_for):
    tokenizer = build(MARKED, **_IM)[0] if marked else tokenizer_for("chatml")

    def answers(messages, **options):
        chat = ChatDocuments(ChatFormat(**options), tokenizer=tokenizer, max_length=1000)
        return learned(chat.encode({"messages": messages})[0], tokenizer)

    assert answers(CONVERSATION) == ["first<|im_end|>", "second<|im_end|>"]
    assert answers(CONVERSATION, train_on="last") == ["second<|im_end|>"]
    for switch in ({"weight": 0}, {"train": False}):
        off = [m | switch if i == 3 else m for i, m in enumerate(CONVERSATION)]
        assert answers(off) == ["first<|im_end|>"]
        with pytest.raises(RowError, match="every answer of the conversation has weight 0"):
            answers(off, train_on="last")
    assert answers([m | {"weight": 1} for m in CONVERSATION]) == ["first<|im_end|>", "second<|im_end|>"]


def test_sharegpt_rows(tokenizer_for):
    tokenizer = tokenizer_for("chatml")
    options = ChatFormat(style="sharegpt")
    chat = ChatDocuments(options, tokenizer=tokenizer, max_length=100)
    pairs = [("system", "s"), ("human", "q"), ("gpt", "a")]
    row = {"conversations": [{"from": who, "value": text} for who, text in pairs]}
    same = {
        "messages": [
            {"role": r, "content": c} for r, c in (("system", "s"), ("user", "q"), ("assistant", "a"))
        ]
    }
    expected = ChatDocuments(ChatFormat(), tokenizer=tokenizer, max_length=100).encode(same)
    assert [d["input_ids"].tolist() for d in chat.encode(row)] == [d["input_ids"].tolist() for d in expected]
    assert list(ChatDocuments.texts(options, row)) == ["s", "q", "a"]
    with pytest.raises(RowError, match=r"message 0: 'from' is 'bot'; it must be one of system, human,"):
        chat.encode({"conversations": [{"from": "bot", "value": "x"}]})


def test_truncation_counts_answers(tokenizer_for):
    tokenizer = tokenizer_for("chatml")
    row = {"messages": CONVERSATION[:4]}
    (whole,) = ChatDocuments(ChatFormat(), tokenizer=tokenizer, max_length=1000).encode(row)
    ends = np.flatnonzero(whole["input_ids"] == tokenizer.eos_token_id)[[1, 3]]
    first = int(np.flatnonzero(whole["loss_mask"])[0])
    for length, cut in [
        (ends[1] + 1, 0),
        (ends[1], 1),
        (ends[0] + 1, 1),
        (ends[0], 2),
        (first + 1, 2),
        (first, 2),
    ]:
        chat = ChatDocuments(ChatFormat(), tokenizer=tokenizer, max_length=int(length))
        documents = chat.encode(row)
        nothing = length == first
        assert chat.report() == FormatReport(
            rows=1, documents=int(not nothing), answers=2, answers_cut=cut, rows_without_target=int(nothing)
        )
        assert len(documents) == int(not nothing)
        for document in documents:
            assert document["input_ids"].tolist() == whole["input_ids"][:length].tolist()
            assert document["loss_mask"].tolist() == whole["loss_mask"][:length].tolist()
        assert check_conversation("row", row, documents, chat) == []


def test_reports_add_up():
    one = FormatReport(
        rows=1, documents=2, answers=3, answers_cut=1, rows_without_target=0, template_notes=("a",)
    )
    two = FormatReport(
        rows=4, documents=1, answers=1, answers_cut=1, rows_without_target=3, template_notes=("b", "a")
    )
    assert one + two == FormatReport(
        rows=5, documents=3, answers=4, answers_cut=2, rows_without_target=3, template_notes=("a", "b")
    )


USER, BOT = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
BAD_ROWS = [
    ({"text": "a"}, "the column 'messages' is missing (there are text); it must be a list of messages."),
    ({"messages": "hi"}, "the column 'messages' holds 'hi'; it must be a list of messages."),
    ({"messages": []}, "the column 'messages' holds []; it must be a list of messages."),
    ({"messages": ["hi"]}, "message 0 is a str, not a mapping with role and content."),
    ({"messages": [{"content": "x"}]}, "message 0 has no role (there are content)."),
    ({"messages": [USER, {"role": "assistant"}]}, "message 1 (assistant) has no content."),
    ({"messages": [USER, BOT | {"content": 3}]}, "message 1 (assistant): the content is a int, not text."),
    (
        {"messages": [USER]},
        "the conversation has no message of the assistant, so there is nothing to learn from it.",
    ),
    (
        {"messages": [USER, BOT | {"weight": 0.5}]},
        "message 1: weight must be 0 or 1 and train true or false, not 0.5 and None.",
    ),
    ({"messages": [USER, BOT], "tools": "{"}, "the column 'tools' is not valid JSON: "),
    ({"messages": [USER, BOT], "tools": 3}, "the column 'tools' holds a int; it must be a list of tools."),
]


@pytest.mark.parametrize(("row", "sentence"), BAD_ROWS, ids=[sentence[:40] for _, sentence in BAD_ROWS])
def test_bad_rows_are_named(row, sentence, tokenizer_for):
    chat = ChatDocuments(ChatFormat(), tokenizer=tokenizer_for("chatml"), max_length=100)
    with pytest.raises(RowError) as caught:
        chat.encode_batch([{"messages": [USER, BOT]}, row])
    assert str(caught.value).startswith(sentence)
    assert caught.value.index == 1
    assert chat.report().rows == 0


def test_answers_that_cannot_be_told_from_the_rest(build):
    chat = [{"role": "system", "content": "s"}, USER, BOT]
    # A system message that is written only while a user message is the last one (as a known model has it).
    moving = layout("{{ messages[0].content if loop.last and m.role == 'user' }}[INST]{{ m.content }}[/INST]")
    deaf = layout("{% if m.role == 'user' %}{{ m.content }}<eos>{% endif %}")
    strict = "{% if messages | length < 3 %}{{ raise_exception('too short') }}{% endif %}" + layout(
        "{{ m.content }}<eos>"
    )
    for source, sentence in [
        (
            moving,
            "message 2: the chat template writes the messages before it differently when this answer follows",
        ),
        (deaf, "message 2: the chat template does not show this answer."),
        (strict, "the chat template refuses this conversation: too short"),
    ]:
        tokenizer, _ = build(source, extra=("[INST]", "[/INST]"))
        with pytest.raises(RowError) as caught:
            ChatDocuments(ChatFormat(), tokenizer=tokenizer, max_length=100).encode({"messages": chat})
        assert str(caught.value).startswith(sentence)


def test_a_tokenizer_without_a_template(tokenizer_for):
    with pytest.raises(ConfigError, match=r"the tokenizer has no chat template; set processor.chat_template"):
        ChatDocuments(ChatFormat(), tokenizer=tokenizer_for(None), max_length=100)


def test_batches_equal_single_rows(tokenizer_for, rows):
    chat = ChatDocuments(ChatFormat(), tokenizer=tokenizer_for("chatml"), max_length=64)
    for row, documents in zip(rows, chat.encode_batch(rows), strict=True):
        for one, other in zip(chat.encode(row), documents, strict=True):
            assert one["input_ids"].tolist() == other["input_ids"].tolist()
            assert one["loss_mask"].tolist() == other["loss_mask"].tolist()


def test_the_check_sees_what_is_wrong(tokenizer_for):
    tokenizer = tokenizer_for("llama3")
    chat = ChatDocuments(ChatFormat(), tokenizer=tokenizer, max_length=1000)
    row = {"messages": [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]}
    (good,) = chat.encode(row)
    ids, mask = good["input_ids"], good["loss_mask"]

    def check(ids, mask):
        return check_conversation("f.jsonl:7", row, [{"input_ids": ids, "loss_mask": mask}], chat)

    assert check(ids, mask) == []
    no_end = mask.copy()
    no_end[np.flatnonzero(mask)[-1]] = 0
    assert check(ids, no_end) == [
        "f.jsonl:7: the answer that ends 'answer' has no end-of-turn token among its targets."
    ]
    assert check(ids, np.ones_like(mask)) == ["f.jsonl:7: message 0 (user) is partly a target."]
    assert check(ids, 0 * mask) == [
        "f.jsonl:7: message 1 (assistant) is not wholly a target, or the chat template changes it."
    ]
    two = np.concatenate([ids[:1], ids]), np.concatenate([mask[:1], mask])
    assert check(*two) == ["f.jsonl:7: the document begins with two <|begin_of_text|>."]
    assert check(ids[1:], mask[1:]) == ["f.jsonl:7: the document does not begin with <|begin_of_text|>."]


def test_show(tokenizer_for):
    tokenizer = tokenizer_for("chatml")
    (document,) = ChatDocuments(ChatFormat(), tokenizer=tokenizer, max_length=100).encode(
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "x\ny"}]}
    )
    assert show(document, tokenizer, colour=False) == (
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n[[x\ny<|im_end|>]]\n"
    )
    coloured = show(document, tokenizer)
    assert "\x1b[32mx\x1b[0m\n\x1b[32my<|im_end|>\x1b[0m\n" in coloured
    assert coloured.startswith("\x1b[2m<|im_start|>user\x1b[0m\n\x1b[2mq<|im_end|>\x1b[0m\n")


@pytest.mark.stress
def test_five_thousand_short_conversations_a_second(tokenizer_for, rows):
    chat = ChatDocuments(ChatFormat(), tokenizer=tokenizer_for("chatml"), max_length=512)
    chat.encode_batch(rows)
    begin = time.perf_counter()
    chat.encode_batch(rows * 5)
    assert 5 * len(rows) / (time.perf_counter() - begin) > 2500  # half of what one thread of a laptop does
