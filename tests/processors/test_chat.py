"""Chat documents: rows, options, truncation, the report, the check before training, and how it looks."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from conf.errors import ConfigError
from processors import ChatDocuments, ChatFormat, FormatReport, RowError, check_conversation, show

LOOP = "{% for m in messages %}BODY{% endfor %}"
ASK = "{% if add_generation_prompt %}PROMPT{% endif %}"


def layout(body: str, prompt: str = "", before: str = "", after: str = "") -> str:
    return before + LOOP.replace("BODY", body) + after + ASK.replace("PROMPT", prompt)


_IM = {"extra": ("<|im_start|>", "<|im_end|>")}
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_tool_calls_are_learned_and_results_are_not(tokenizer_for, learned):
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
def test_which_answers_are_learned(marked, build, tokenizer_for, learned):
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
        assert check_conversation(row, documents, chat) == []


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
    ({"messages": ["hi"]}, "message 0 is of type str, not a mapping with role and content."),
    ({"messages": [{"content": "x"}]}, "message 0 has no role (there are content)."),
    ({"messages": [USER, {"role": "assistant"}]}, "message 1 (assistant) has no content."),
    (
        {"messages": [USER, BOT | {"content": 3}]},
        "message 1 (assistant): the content is of type int, not text.",
    ),
    (
        {"messages": [USER]},
        "the conversation has no message of the assistant, so there is nothing to learn from it.",
    ),
    (
        {"messages": [USER, BOT | {"weight": 0.5}]},
        "message 1: weight must be 0 or 1 and train true or false, not 0.5 and None.",
    ),
    ({"messages": [USER, BOT], "tools": "{"}, "the column 'tools' is not valid JSON: "),
    (
        {"messages": [USER, BOT], "tools": 3},
        "the column 'tools' holds a value of type int; it must be a list of tools.",
    ),
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
        return check_conversation(row, [{"input_ids": ids, "loss_mask": mask}], chat)

    assert check(ids, mask) == []
    no_end = mask.copy()
    no_end[np.flatnonzero(mask)[-1]] = 0
    assert check(ids, no_end) == ["the answer that ends 'answer' has no end-of-turn token among its targets."]
    assert check(ids, np.ones_like(mask)) == ["message 0 (user) is partly a target."]
    assert check(ids, 0 * mask) == [
        "message 1 (assistant) is not wholly a target, or the chat template changes it."
    ]
    two = np.concatenate([ids[:1], ids]), np.concatenate([mask[:1], mask])
    assert check(*two) == ["the document begins with two <|begin_of_text|>."]
    assert check(ids[1:], mask[1:]) == ["the document does not begin with <|begin_of_text|>."]


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
