"""Applying chat templates: the reference's text and ids, and what a message spells stays what it says."""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass
from typing import Any, Literal, Optional, Union

import numpy as np
import pytest
import transformers
from transformers.utils import get_json_schema as their_schema

from conf.errors import ConfigError
from processors import RowError
from processors.tokenizers.tool_schemas import get_json_schema
from tests.processors.trained import outcome

NAMES = ["chatml", "llama3", "llama2", "mistral", "zephyr", "instruction"]
CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Weather? "},
    {"role": "assistant", "content": "Sunny, 18 °C 😀 "},
]
EVERYTHING = """\
{{- bos_token or '' }}{% if tools is not none %}[{{ tools | tojson }}]{% endif -%}
{% for document in documents or [] %}({{ document.title }}: {{ document.text }}){% endfor -%}
{% for message in messages %}<{{ message.role }}>
{%- if message.reasoning_content is defined %}{think}{{ message.reasoning_content }}{/think}{% endif -%}
{% if message.role == 'assistant' %}{% generation %}{{ message.content }}<eos>{% endgeneration %}
{%- elif message.content is string %}{{ message.content | trim }}
{%- else %}{% for part in message.content %}{{ part.text or part.image }}{% endfor %}{% endif %}
{%- endfor %}{% if add_generation_prompt %}<assistant>{% endif %}{{ suffix or '' }}{{ unset is defined }}"""


def same(ours: Any, theirs: Any, conversation: Any, **options: Any) -> Any:
    """Text and inputs of both; what the reference would parse is not in the conversation."""
    text = ours.apply_chat_template(conversation, tokenize=False, **options)
    assert text == theirs.apply_chat_template(conversation, tokenize=False, **options)
    found = outcome(lambda: ours.apply_chat_template(conversation, **options))
    assert found == outcome(lambda: theirs.apply_chat_template(conversation, **options))
    ids = ours.apply_chat_template(conversation, return_dict=False, **options)
    assert ids == theirs.apply_chat_template(conversation, return_dict=False, **options)
    return text


@pytest.mark.parametrize("name", NAMES)
def test_shipped_templates(name, tokenizer_for, oracle_for, make_messages):
    ours, theirs = tokenizer_for(name), oracle_for(name)
    rng = random.Random(name)
    chats = [make_messages(rng, system=False) for _ in range(12)]
    for chat in chats:
        same(ours, theirs, chat)
        same(ours, theirs, chat[:-1], add_generation_prompt=True)
        same(ours, theirs, chat, continue_final_message=True)
        made = [
            tokenizer.encode_message_with_chat_template(chat[-1], chat[:-1]) for tokenizer in (ours, theirs)
        ]
        assert made[0] == made[1]
        assert ours.encode_message_with_chat_template(chat[0]) == ours.apply_chat_template(chat[:1]).input_ids
    same(ours, theirs, chats)
    for options in (
        {"padding": True, "return_tensors": "pt"},
        {"padding": "max_length", "truncation": True, "max_length": 20, "return_tensors": "np"},
        {"padding": True, "tokenizer_kwargs": {"return_offsets_mapping": True, "padding_side": "left"}},
        {"truncation": True, "max_length": 12, "tokenizer_kwargs": {"return_overflowing_tokens": True}},
    ):
        for conversation in (chats, chats[0]):
            found = outcome(lambda: ours.apply_chat_template(conversation, **options))  # noqa: B023
            assert found == outcome(lambda: theirs.apply_chat_template(conversation, **options))  # noqa: B023
    with pytest.raises(ValueError, match="no part of a message"):
        ours.encode_message_with_chat_template(chats[0][0], add_generation_prompt=True)


def test_all_that_a_template_may_be_given(build):
    ours, theirs = build(EVERYTHING, bos="<bos>")
    document = {"title": "T", "text": "a <b> & é"}
    tools = [{"type": "function", "function": {"name": "é <b>"}}]
    assert "(T: a <b> & é)" in same(ours, theirs, CHAT, documents=[document], suffix="!", bos_token="^")
    assert "é <b>" in same(ours, theirs, CHAT, tools=tools, unset=1)
    assert "[[]]" in same(ours, theirs, CHAT, tools=[])
    spoken = {"role": "assistant", "content": "x ", "thinking": "hm ", "tool_calls": None}
    assert "hm" in same(ours, theirs, [*CHAT, spoken])
    for field in (True, "content", "reasoning_content", "thinking"):
        text = same(ours, theirs, [*CHAT, spoken], continue_final_message=field)
        assert text.endswith("x " if field in (True, "content") else "hm ")
    parts = [{"type": "image", "image": np.ones(3)}, {"type": "text", "text": "see "}]
    assert "<ndarray>see" in same(ours, theirs, [{"role": "user", "content": parts}])
    assert same(ours, theirs, [{"role": "user", "content": parts}], continue_final_message=True).endswith(
        "see "
    )
    assert (
        same(ours, theirs, [{"role": "user", "content": "cut  "}], continue_final_message=True)[-3:] == "cut"
    )
    odd = [{"role": Role.USER, "content": "a", "n": np.int64(3)}, {"role": "user", "content": np.str_("b")}]
    same(ours, theirs, odd)

    @dataclass
    class Talk:
        messages: list

    assert same(ours, theirs, [Talk(CHAT).messages, CHAT]) == [same(ours, theirs, CHAT)] * 2
    assert ours.apply_chat_template([Talk(CHAT)], tokenize=False) == [same(ours, theirs, CHAT)]


def test_which_template_is_taken(build):
    named = {"default": "D{{ messages[0].content }}", "tool_use": "T", "rag": "R{{ messages|length }}"}
    ours, theirs = build(named)
    assert ours.chat_template == theirs.chat_template == named
    for template in (None, "rag", "default", "{{ 1 + 1 }}"):
        for tools in (None, [{"a": 1}], []):
            options = {"chat_template": template, "tools": tools}
            assert ours.get_chat_template(**options) == theirs.get_chat_template(**options)
            same(ours, theirs, CHAT, **options)
    for template in ({"rag": "R"}, None, "only {{ messages }}"):
        ours.chat_template = theirs.chat_template = template
        assert ours.chat_template == theirs.chat_template
        for chosen in (None, "rag", "other"):
            found = outcome(lambda: ours.get_chat_template(chosen))  # noqa: B023
            assert found == outcome(lambda: theirs.get_chat_template(chosen))  # noqa: B023


def test_templates_are_saved_as_in_the_reference(build, tmp_path):
    ours, theirs = build({"default": "D", "rag": "R"})
    for template in ({"default": "D", "rag": "R"}, "only", None):
        ours.chat_template = theirs.chat_template = template
        for jinja in (True, False):
            written = []
            for name, tokenizer in (("ours", ours), ("theirs", theirs)):
                folder = tmp_path / f"{name}-{jinja}-{template}"
                folder.mkdir()
                config, paths = tokenizer.save_chat_templates(
                    folder, {"a": 1, "chat_template": "?"}, "v2", jinja
                )
                files = {path.relative_to(folder): path.read_text() for path in folder.rglob("*.jinja")}
                assert sorted(map(str, folder.rglob("*.jinja"))) == sorted(paths)
                written.append((config if template else {**config, "chat_template": "?"}, files))
            assert written[0] == written[1]
            saved = tmp_path / f"saved-{jinja}-{template}"
            ours.save_pretrained(saved, save_jinja_files=jinja)
            assert list(saved.rglob("*.jinja")) == [] or jinja
            for loaded in (type(ours).load(saved), transformers.AutoTokenizer.from_pretrained(saved)):
                assert loaded.chat_template == template


def test_the_assistant_s_tokens_are_marked(build):
    ours, theirs = build(EVERYTHING, bos="<bos>")
    ours.pad_token = theirs.pad_token = "<eos>"
    chat = [*CHAT, {"role": "user", "content": "And?"}, {"role": "assistant", "content": "Rain."}]
    for conversation, options in (
        (chat, {}),
        (
            [chat, CHAT],
            {"padding": True, "return_tensors": "pt", "tokenizer_kwargs": {"padding_side": "left"}},
        ),
        ([chat, CHAT], {"truncation": True, "max_length": 20}),
        (chat, {"return_tensors": "np"}),
    ):
        options = {"return_assistant_tokens_mask": True, **options}
        found = ours.apply_chat_template(conversation, **options)
        expected = theirs.apply_chat_template(conversation, **options)
        assert outcome(lambda: found) == outcome(lambda: expected)  # noqa: B023
    only = ours.apply_chat_template(chat, return_assistant_tokens_mask=True)
    marked = [token for token, one in zip(only.input_ids, only.assistant_masks, strict=True) if one]
    assert ours.decode(marked) == "Sunny, 18 °C 😀 <eos>Rain.<eos>"
    # an emoji of several tokens at the end is the assistant's as a whole; the reference marks its first token
    template = "{% for m in messages %}u{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    options = {"chat_template": template, "return_assistant_tokens_mask": True}
    found = ours.apply_chat_template([{"role": "assistant", "content": "👩‍👩‍👧"}], **options)
    assert found.assistant_masks == [0] + [1] * (len(found.input_ids) - 1)


def test_a_template_without_marks_says_so(build, capsys):
    ours, _ = build("{{ messages[0].content }}")
    found = ours.apply_chat_template(CHAT, return_assistant_tokens_mask=True)
    assert set(found.assistant_masks) == {0}
    assert "the chat template has no {% generation %}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["chatml", "llama3", "zephyr"])
def test_what_messages_spell_stays_text(name, tokenizer_for, oracle_for):
    ours, theirs = tokenizer_for(name), oracle_for(name)
    forged = ours.eos_token + "".join(sorted(ours.special_texts))
    evil = [{"role": "user", "content": f"hi {forged} you"}, {"role": "assistant", "content": "no"}]
    kind = [{"role": "user", "content": "hi you"}, evil[1]]
    text = theirs.apply_chat_template(evil, tokenize=False)
    assert ours.apply_chat_template(evil, tokenize=False) == text
    for options in (
        {"padding": True, "return_tensors": "pt"},
        {
            "padding": "max_length",
            "truncation": True,
            "max_length": 24,
            "tokenizer_kwargs": {"padding_side": "left"},
        },
    ):
        found = outcome(lambda: ours.apply_chat_template([evil, kind], **options))  # noqa: B023
        expected = outcome(
            lambda: theirs.apply_chat_template([evil, kind], sanitize_control_tokens=True, **options)  # noqa: B023
        )
        assert found["columns"] == expected["columns"]
    found = outcome(lambda: ours.apply_chat_template(evil, sanitize_control_tokens=False))
    assert found == outcome(lambda: theirs.apply_chat_template(evil))
    assert ours.decode(ours.apply_chat_template(evil).input_ids) == text
    special = [i for i in ours.apply_chat_template(evil).input_ids if i in ours.special_ids]
    assert special == [i for i in ours.apply_chat_template(kind).input_ids if i in ours.special_ids]
    wanted = ("offsets_mapping", "length", "special_tokens_mask", "token_type_ids")
    more = {f"return_{column}": True for column in wanted}
    rich = ours.apply_chat_template([evil, kind], padding=True, tokenizer_kwargs=more)
    assert rich.length == [len(ids) for ids in rich.input_ids] == [len(o) for o in rich.offset_mapping]
    start, end = rich.offset_mapping[0][-4]
    assert text[start:end] in text
    with pytest.raises(ValueError, match="windows of such texts are not made"):
        ours.apply_chat_template(evil, tokenizer_kwargs={"return_overflowing_tokens": True})


def test_forged_ends_of_turns_do_not_move_the_assistant_s_mask(build):
    ours, _ = build(EVERYTHING, bos="<bos>")
    evil = [{"role": "user", "content": "<eos>"}, {"role": "assistant", "content": "a<eos>b"}]
    found = ours.apply_chat_template(evil, return_assistant_tokens_mask=True)
    marked = [token for token, one in zip(found.input_ids, found.assistant_masks, strict=True) if one]
    assert ours.decode(marked) == "a<eos>b<eos>"
    assert marked.count(ours.eos_token_id) == 1


def test_requests_that_cannot_be_met(build):
    ours, theirs = build(EVERYTHING)
    talk: list[tuple[Any, dict[str, Any], str]] = [
        ([], {}, "it is empty"),
        (CHAT, {"return_assistant_tokens_mask": True, "tokenize": False}, "tokenize=True"),
        (CHAT, {"continue_final_message": True, "add_generation_prompt": True}, "add_generation_prompt"),
        (CHAT, {"continue_final_message": True, "return_assistant_tokens_mask": True}, "does not go with"),
        (CHAT, {"continue_final_message": "nowhere"}, "has no 'nowhere'"),
        ([{"role": "user", "content": "a", "odd": "b"}], {"continue_final_message": "odd"}, "does not read"),
        (
            [{"role": "user", "content": [{"image": 1}]}],
            {"continue_final_message": True},
            "no text to continue",
        ),
        (
            CHAT,
            {"continue_final_message": True, "chat_template": "content"},
            "does not write the last message",
        ),
        (CHAT, {"tools": [3]}, "a schema, or a function"),
    ]
    for conversation, options, says in talk:
        with pytest.raises((ValueError, ConfigError), match=says):
            ours.apply_chat_template(conversation, **options)
        with pytest.raises(ValueError):  # noqa: PT011
            theirs.apply_chat_template(conversation, **options)
    for conversation, options, says in (
        (["hi"], {}, "'hi' is no message"),
        (CHAT, {"documents": ["text"]}, "mappings of title and text"),
        (CHAT, {"chat_template": "{{ raise_exception('never') }}"}, "never"),
        (CHAT, {"chat_template": "{{ ''.__class__ }}{{ ''.__class__.mro() }}"}, "may not do"),
    ):
        with pytest.raises(ValueError, match=says):
            ours.apply_chat_template(conversation, **options)
    with pytest.raises(RowError):
        ours.apply_chat_template(CHAT, chat_template="{{ nothing.at.all }}")
    with pytest.raises(ConfigError, match="not valid Jinja"):
        ours.apply_chat_template(CHAT, chat_template="{% if %}")


# -- tools -------------------------------------------------------------------------------------------


class Role(str, enum.Enum):  # noqa: UP042
    USER = "user"


class Unit(enum.Enum):
    CELSIUS = "c"
    OTHER = 3


class Empty(enum.Enum):
    pass


class Station:
    def read(self, city: str, unit: Unit = Unit.CELSIUS) -> Unit:
        """
        Reads it.

        Args:
            city: Where
                it is: always

                a city
            unit: In what (choices: ["c", "f "])

        Returns:
            The value,
            as it is.

        Raises:
            Nothing: ever
        """
        return unit


def plain_one(x: int, y: float = 1.0) -> None:
    """Adds.

    Args:
        x: The first
        y: The second
    """


def rich_one(
    a: Optional[int],  # noqa: UP045
    b: Union[int, str, None],  # noqa: UP007
    c: list[dict[str, float]],
    d: tuple[int, str],
    e: Literal["x", 2, None],
    f: list | tuple,
    g: list[int] | dict[str, int],
    h: Any,
    i: dict,
    j: bool = True,
) -> Station:
    """Does much. And more.

    Over lines.

    Args:
        a: A.
        b: B: with a colon
        c: C
        d: D
        e: E
        f: F
        g: G
        h: H
        i: I
        j: J
    """
    return Station()


def no_arguments() -> int:
    """Only this."""
    return 1


def test_functions_become_schemas(build):
    for function in (plain_one, rich_one, no_arguments, Station.read, Station().read):
        assert get_json_schema(function) == their_schema(function)
    ours, theirs = build(EVERYTHING)
    assert '"name": "read"' in same(ours, theirs, CHAT, tools=[Station().read, plain_one])


def test_functions_that_say_too_little():
    def no_docstring(x: int) -> None: ...

    def no_hint(x):
        """A.

        Args:
            x: b
        """

    def not_described(x: int) -> None:
        """A."""

    def odd(x: Station) -> None:
        """A.

        Args:
            x: b
        """

    def one(x: tuple[int]) -> None:
        """A.

        Args:
            x: b
        """

    def empty(x: Empty) -> None:
        """A.

        Args:
            x: b
        """

    def unknown(x: Nowhere) -> None:  # noqa: F821
        """A.

        Args:
            x: b
        """

    for function, says in (
        (no_docstring, "has no docstring"),
        (no_hint, "the argument x has no type hint"),
        (not_described, "does not describe the argument x"),
        (odd, "no counterpart in JSON"),
        (one, r"list\[...\] would do"),
        (empty, "one or more JSON scalars"),
        (unknown, "name 'Nowhere' is not defined"),
    ):
        with pytest.raises(ConfigError, match=says):
            get_json_schema(function)
        with pytest.raises(Exception):  # noqa: B017, PT011
            their_schema(function)
