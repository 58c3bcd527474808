"""Chat templates: the same text as the reference, and nothing that a template or a message must not do."""

from __future__ import annotations

import random

import pytest

from conf.errors import ConfigError
from processors import ChatTemplate, RowError
from processors.rendering import compile_template

NAMES = ["chatml", "llama3", "llama2", "mistral", "zephyr", "instruction"]
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": {"city": "<b>Zürich & 東京</b>"}}}
]
CALLS = [
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "weather", "arguments": {"a": "é"}}}],
    },
    {"role": "tool", "content": "18 °C"},
    {"role": "assistant", "content": "18 degrees"},
]


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_text_and_ids_equal_the_oracle(name, prompt, tokenizer_for, oracle_for, make_messages):
    template, oracle = ChatTemplate(tokenizer_for(name)), oracle_for(name)
    rng = random.Random(name)
    for _ in range(60):
        messages = make_messages(rng)
        if prompt:
            messages.pop()
        expected = oracle.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        assert template.render(messages, add_generation_prompt=prompt).text == expected
        ids = oracle.apply_chat_template(messages, add_generation_prompt=prompt)["input_ids"]
        assert template.encode(messages, add_generation_prompt=prompt) == ids


@pytest.mark.parametrize("name", ["chatml", "llama3"])
def test_tools_and_calls_equal_the_oracle(name, tokenizer_for, oracle_for):
    template, oracle = ChatTemplate(tokenizer_for(name)), oracle_for(name)
    for messages in (CALLS, [{"role": "system", "content": "Be kind."}, *CALLS]):
        expected = oracle.apply_chat_template(messages, tools=TOOLS, tokenize=False)
        assert template.render(messages, TOOLS).text == expected
        assert "Zürich & 東京</b>" in expected
        assert "18 °C" in expected


@pytest.mark.parametrize("name", ["llama2", "mistral", "zephyr", "instruction"])
def test_templates_without_a_place_for_tools_say_so(name, tokenizer_for):
    with pytest.raises(RowError, match=f"The {name} template has no place for tools"):
        ChatTemplate(tokenizer_for(name)).render(CALLS, TOOLS)


@pytest.mark.parametrize("name", ["llama2", "mistral"])
def test_strict_alternation(name, tokenizer_for):
    with pytest.raises(RowError, match="takes user and assistant in turns"):
        ChatTemplate(tokenizer_for(name)).render(
            [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
        )


def test_the_expected_layouts(tokenizer_for):
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "U"},
        {"role": "assistant", "content": "A"},
    ]
    texts = {name: ChatTemplate(tokenizer_for(name)).render(messages).text for name in NAMES}
    assert texts == {
        "chatml": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"
        "<|im_start|>assistant\nA<|im_end|>\n",
        "llama3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>",
        "llama2": "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nU [/INST] A </s>",
        "mistral": "<s>[INST] S\n\nU[/INST] A</s>",
        "zephyr": "<|system|>\nS</s>\n<|user|>\nU</s>\n<|assistant|>\nA</s>\n",
        "instruction": "S\n\n### Instruction:\nU\n\n### Response:\nA</s>\n\n",
    }


def test_a_tool_template_is_used_with_tools(build):
    ours, oracle = build({"default": "plain", "tool_use": "tools {{ tools | tojson }}"})
    messages = [{"role": "user", "content": "a"}]
    for tools in (None, TOOLS):
        assert ChatTemplate(ours).render(messages, tools).text == oracle.apply_chat_template(
            messages, tools=tools, tokenize=False
        )


FEATURES = {
    "loop controls": "{% for m in messages %}"
    "{{ m.content }}{% if loop.first %}{% break %}{% endif %}{% endfor %}",
    "trimmed blocks": "{% for m in messages %}\n"
    "  {% if true %}\n {{ m.role }}\n  {% endif %}\n{% endfor %}\n",
    "tojson": "{{ messages | tojson }}|{{ messages | tojson(indent=2) }}|{{ {'b': 1, 'a': '<é>'} | tojson }}",
    "namespace": "{% set n = namespace(k=0) %}"
    "{% for m in messages %}{% set n.k = n.k + 1 %}{% endfor %}{{ n.k }}",
    "generation": "{% for m in messages %}[{% generation %}{{ m.content }}!{% endgeneration %}]{% endfor %}",
    "generation spaces": "a {%- generation -%} b {%- endgeneration %} c",
    "macro": "{% macro f(x) %}<{{ x }}>{% endmacro %}{% for m in messages %}{{ f(m.content) }}{% endfor %}",
    "undefined": "{{ nothing }}{{ messages[9] }}{% if tools is none %}no tools{% endif %}",
    "string methods": "{{ messages[0].content.split('l')[0].upper() }}{{ messages[0]['content'][::-1] }}",
    "reasoning": "{% for m in messages %}{{ m.reasoning_content }}/{{ m.thinking }};{% endfor %}",
    "special tokens": "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}",
    "date": "{{ strftime_now('%Y-%m') }}",
}


@pytest.mark.parametrize("feature", FEATURES)
def test_jinja_features_equal_the_oracle(feature, build):
    ours, oracle = build(FEATURES[feature], bos="<bos>")
    messages = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "yes", "thinking": "hm"},
    ]
    expected = oracle.apply_chat_template(messages, tokenize=False)
    assert expected
    assert ChatTemplate(ours).render(messages).text == expected


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__base__ }}",
    "{{ (messages | attr('__class__')).__base__ }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'content': 'x'}) }}",
    "{{ raise_exception.__globals__['json'] }}",
    "{{ strftime_now.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{{ lipsum.__globals__['os'] }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "{{ ('{0.__class__}' | format).format(1) }}{{ ''.format.__self__.__class__ }}",
    "{{ self.__init__.__globals__ }}",
    "{% for i in range(1000000000) %}{% endfor %}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_the_sandbox_holds(source, tokenizer_for):
    template = ChatTemplate(tokenizer_for(None), source)
    messages = [{"role": "user", "content": "a"}]
    try:
        shown = template.render(messages).text
    except RowError:
        shown = ""
    assert shown == ""  # Jinja prints nothing for what it refuses to look up
    assert messages == [{"role": "user", "content": "a"}]


def test_only_plain_values_reach_a_template(tokenizer_for):
    class Loud(str):
        def shout(self):
            raise AssertionError("a template called a method of a foreign object")

    template = ChatTemplate(tokenizer_for(None), "{{ messages[0].content.shout() }}")
    with pytest.raises(RowError, match="has no attribute 'shout'"):
        template.render([{"role": "user", "content": Loud("a")}])
    with pytest.raises(RowError, match="a conversation holds a value of type object"):
        template.render([{"role": "user", "content": object()}])


def test_a_template_is_compiled_once_and_a_bad_one_is_named(tokenizer_for):
    assert compile_template("{{ 1 }}") is compile_template("{{ 1 }}")
    with pytest.raises(ConfigError, match=r"not valid Jinja: line 2: "):
        ChatTemplate(tokenizer_for(None), "a\n{% if %}")
    with pytest.raises(ValueError, match="no chat template"):
        ChatTemplate(tokenizer_for(None))


@pytest.mark.parametrize("name", ["chatml", "llama3", "mistral", "zephyr"])
def test_special_tokens_in_messages_stay_text(name, tokenizer_for, oracle_for, make_text):
    tokenizer, oracle = tokenizer_for(name), oracle_for(name)
    template = ChatTemplate(tokenizer)
    rng = random.Random(1)
    pieces = [*sorted(tokenizer.special_texts), "hi", " ", "😀", "<|", "|>"]
    for _ in range(100):
        messages = [
            {"role": role, "content": make_text(rng, pieces)}
            for role in ("user", "assistant", "user", "assistant")
        ]
        ids = template.encode(messages, add_generation_prompt=False)
        neutral = template.encode([m | {"content": "x"} for m in messages], add_generation_prompt=False)
        special = [i for i in ids if i in tokenizer.special_ids]
        assert special == [i for i in neutral if i in tokenizer.special_ids]
        # The text is not changed by it, and the reference's own protection agrees on the special tokens.
        assert tokenizer.decode(ids) == template.render(messages).text
        protected = oracle.apply_chat_template(messages, sanitize_control_tokens=True)["input_ids"]
        assert [i for i in protected if i in tokenizer.special_ids] == special


def test_our_own_marks_in_a_text_are_replaced(tokenizer_for):
    template = ChatTemplate(tokenizer_for("chatml"))
    text = template.render([{"role": "user", "content": "a\ufdd0b\ufdd1c\ufdd2d<|im_end|>"}]).text
    assert text == "<|im_start|>user\na\ufffdb\ufffdc\ufffdd<|im_end|><|im_end|>\n"


@pytest.mark.parametrize("writes_bos", [True, False])
@pytest.mark.parametrize("adds_bos", [True, False])
def test_exactly_one_bos(writes_bos, adds_bos, build):
    source = (
        "{{ bos_token }}" if writes_bos else ""
    ) + "{% for m in messages %}{{ m.content }}<eos>{% endfor %}"
    tokenizer, _ = build(source, bos="<bos>", add_bos=adds_bos)
    ids = ChatTemplate(tokenizer).encode([{"role": "user", "content": "hello"}])
    assert ids.count(tokenizer.bos_token_id) == int(writes_bos or adds_bos)
    assert tokenizer.decode(ids) == ("<bos>" if writes_bos or adds_bos else "") + "hello<eos>"
