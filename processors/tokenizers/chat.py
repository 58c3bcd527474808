"""Conversations as a model's inputs: chat templates by name, and applying them.

Rendering itself, and the sandbox that templates run in, is ``processors.rendering``.

Shapes: B conversations, T tokens of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conf import logging
from processors.tokenizers import files
from processors.tokenizers.batch_encoding import BatchEncoding
from processors.tokenizers.calling import CallOptions, first_row
from processors.tokenizers.lengths import PaddingStrategy
from processors.tokenizers.sequences import Sequences

if TYPE_CHECKING:
    from processors.rendering import ChatTemplate, Rendered

logger = logging.get_logger(__name__)

Conversation = Sequence[Any]


class Chatting(Sequences):
    """A tokenizer's chat templates: ``chat_templates`` maps names to Jinja sources."""

    chat_templates: dict[str, str]

    @property
    def chat_template(self) -> str | dict[str, str] | None:
        """The only chat template, or all by name where there are several or none called ``default``."""
        if set(self.chat_templates) == {"default"}:
            return self.chat_templates["default"]
        return self.chat_templates or None

    @chat_template.setter
    def chat_template(self, template: str | Mapping[str, str] | None) -> None:
        named = {"default": template} if isinstance(template, str) else template
        self.chat_templates = dict(named or {})

    def get_chat_template(self, chat_template: str | None = None, tools: Sequence[Any] | None = None) -> str:
        """The source that a conversation is rendered by: ``chat_template`` itself or the one of that name.

        Without it ``tool_use`` where there are tools, else ``default``. ``ValueError`` where there is none.
        """
        if chat_template is not None:
            return self.chat_templates.get(chat_template, chat_template)
        if tools is not None and "tool_use" in self.chat_templates:
            return self.chat_templates["tool_use"]
        if "default" in self.chat_templates:
            return self.chat_templates["default"]
        if self.chat_templates:
            names = ", ".join(sorted(self.chat_templates))
            raise ValueError(
                f"chat_template: none was given and none is the default; one of {names} would do."
            )
        raise ValueError(
            "chat_template: the tokenizer has none; tokenizer.chat_template = ... or the argument would do."
        )

    def apply_chat_template(
        self,
        conversation: Conversation,
        tools: Sequence[Any] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        tokenize: bool = True,
        sanitize_control_tokens: bool = True,
        padding: bool | str | PaddingStrategy = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_dict: bool = True,
        return_assistant_tokens_mask: bool = False,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        **template_kwargs: Any,
    ) -> Any:
        """A conversation (a list of messages), or a list of them, as text or as the model's inputs.

        ``tokenize=False`` gives the text as the template writes it. Inputs are those of a call on that text
        without added special tokens, except that a special token spelled out in a message, tool or document
        stays text: data cannot end turns or forge roles. ``sanitize_control_tokens=False`` takes such tokens
        for real, as the reference does unless asked otherwise.

        ``tools``: JSON schemas, or functions with type hints and docstring. ``continue_final_message`` leaves
        the last message open (a text names its field). ``return_assistant_tokens_mask`` adds
        ``assistant_masks``, 1 for the tokens within ``{% generation %}``. ``tokenizer_kwargs``: more options
        of the call. Other names are for the template. ``ValueError`` where that cannot be done.
        """
        if return_assistant_tokens_mask and not (tokenize and return_dict):
            raise ValueError("return_assistant_tokens_mask: tokenize=True and return_dict=True are needed.")
        if return_assistant_tokens_mask and continue_final_message:
            raise ValueError("continue_final_message: does not go with return_assistant_tokens_mask.")
        conversations, batched = _conversations(conversation)
        template = self._template(self.get_chat_template(chat_template, tools), return_assistant_tokens_mask)
        request = _request(tools, documents, template_kwargs, add_generation_prompt, continue_final_message)
        protected = tokenize and sanitize_control_tokens
        rendered = [template.render(one, **request, protected=protected) for one in conversations]
        if not tokenize:
            return [one.text for one in rendered] if batched else rendered[0].text
        call = {"padding": padding, "truncation": truncation, "max_length": max_length}
        call |= {"return_tensors": return_tensors, **(tokenizer_kwargs or {}), "add_special_tokens": False}
        asked = CallOptions.of(call)
        inputs = self._encode_rendered(template, rendered, asked, batched, return_assistant_tokens_mask)
        return inputs if return_dict else inputs["input_ids"]

    def encode_message_with_chat_template(
        self,
        message: Mapping[str, Any],
        conversation_history: Sequence[Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> list[int]:
        """The ids that one more message adds to a conversation.

        Those from the first on that differ from the ids of the conversation without it; which are not all
        where a template writes a conversation's last message in another way. ``options`` as in
        ``apply_chat_template``; ``ValueError`` for a generation prompt, which is no part of a message.
        """
        if "add_generation_prompt" in options:
            raise ValueError("add_generation_prompt: is no part of a message; apply_chat_template adds it.")
        history = list(conversation_history or ())
        whole = self.apply_chat_template([*history, message], return_dict=False, **options)
        if not history:
            return whole
        before = self.apply_chat_template(history, return_dict=False, **options)
        pairs = enumerate(zip(before, whole, strict=False))
        start = next((i for i, (old, new) in pairs if old != new), min(len(before), len(whole)))
        return whole[start:]

    def save_chat_templates(
        self,
        save_directory: str | Path,
        tokenizer_config: dict[str, Any],
        filename_prefix: str | None = None,
        save_jinja_files: bool = True,
    ) -> tuple[dict[str, Any], list[str]]:
        """Write each chat template into its ``.jinja`` file; the configuration without them, and the paths.

        ``save_jinja_files=False`` writes none and puts the templates into the configuration instead, a text
        or a list of names and texts.
        """
        config = {name: value for name, value in tokenizer_config.items() if name != "chat_template"}
        if not save_jinja_files:
            named = self.chat_template
            if isinstance(named, Mapping):
                config["chat_template"] = [{"name": name, "template": text} for name, text in named.items()]
            elif named is not None:
                config["chat_template"] = named
            return config, []
        prefix, written = f"{filename_prefix}-" if filename_prefix else "", []
        for name, text in self.chat_templates.items():
            path = Path(save_directory, prefix + files.template_path(name))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            written.append(str(path))
        return config, written

    def _template(self, source: str, marked: bool) -> ChatTemplate:
        from processors.rendering import ChatTemplate

        template = ChatTemplate(self, source)  # type: ignore[arg-type]
        if marked and not template.has_markers:
            logger.warning("return_assistant_tokens_mask: the chat template has no {% generation %}.")
        return template

    def _encode_rendered(
        self,
        template: ChatTemplate,
        rendered: Sequence[Rendered],
        asked: CallOptions,
        batched: bool,
        masked: bool,
    ) -> BatchEncoding:
        """Rendered conversations as inputs, with the mask of what the assistant says if wanted."""
        if any(one.literal for one in rendered):
            inputs, spans = self._encode_spelled(template, rendered, asked)
        else:
            whole = replace(asked, return_tensors=None)
            inputs = self._encode([one.text for one in rendered], None, whole)
            assert inputs.encodings is not None
            spans = [row.offsets for row in inputs.encodings]
        if masked:
            origins = inputs.get("overflow_to_sample_mapping", range(len(rendered)))
            inputs["assistant_masks"] = [
                _within(row, rendered[origin].generated) for row, origin in zip(spans, origins, strict=True)
            ]
        if asked.return_tensors is not None:
            return inputs.convert_to_tensors(asked.return_tensors)
        if batched or asked.return_overflowing_tokens:
            return inputs
        return BatchEncoding(first_row(inputs), inputs.encodings)

    def _encode_spelled(
        self, template: ChatTemplate, rendered: Sequence[Rendered], asked: CallOptions
    ) -> tuple[BatchEncoding, list[list[tuple[int, int]]]]:
        """Inputs where messages spell special tokens, each put as the tokens of its characters.

        The Rust tokenizer has no encodings of such texts, so that rows are cut and padded here.
        """
        if asked.return_overflowing_tokens:
            raise ValueError(
                "return_overflowing_tokens: a message spells a special token, and windows of such texts are "
                "not made; sanitize_control_tokens=False would take it for real."
            )
        lengths = self._lengths_of(asked)
        limit = lengths.max_length if lengths.truncates else None
        rows, spans = [], []
        for ids, places in template.as_written(rendered):
            row = self.prepare_for_model(
                ids.tolist(),
                add_special_tokens=False,
                truncation=lengths.truncation,
                max_length=lengths.max_length,
                return_token_type_ids=asked.return_token_type_ids,
                return_special_tokens_mask=asked.return_special_tokens_mask,
                return_attention_mask=False,
                verbose=asked.verbose,
            )
            start = len(places) - limit if limit is not None and lengths.truncation_side == "left" else 0
            rows.append(row)
            spans.append([(begin, end) for begin, end in places[max(start, 0) :][:limit].tolist()])
        inputs = self.pad(
            rows,
            lengths.padding,
            lengths.max_length,
            lengths.pad_to_multiple_of,
            lengths.padding_side,
            self._gives("attention_mask", asked.return_attention_mask),
            verbose=asked.verbose,
        )
        right = lengths.padding_side == "right"
        for place, (ids, given) in enumerate(zip(inputs["input_ids"], spans, strict=True)):
            filling = [(0, 0)] * (len(ids) - len(given))
            spans[place] = [*given, *filling] if right else [*filling, *given]
        if asked.return_offsets_mapping:
            inputs["offset_mapping"] = spans
        if asked.return_length:
            inputs["length"] = [len(ids) for ids in inputs["input_ids"]]
        return inputs, spans


def plain(value: Any) -> Any:
    """A value as templates may see it: plain JSON types, with the name of its type for anything else.

    Data classes and pydantic models become mappings, NumPy's scalars plain ones; images and arrays are not
    looked at by templates, which ask only whether they are there.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    for kind in (str, int, float):  # an enumeration's members and the like have methods of their own
        if isinstance(value, kind):
            return str.__str__(value) if kind is str else kind(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return plain(value.item())
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if callable(getattr(value, "model_dump", None)):
        return plain(value.model_dump())
    return f"<{type(value).__name__}>"


def _conversations(given: Conversation) -> tuple[list[list[dict[str, Any]]], bool]:
    """One or many conversations as lists of plain messages, and whether there were many."""
    if len(given) == 0:
        raise ValueError("conversation: it is empty; a list of messages would do.")
    batched = isinstance(given[0], list | tuple) or hasattr(given[0], "messages")
    return [_messages(one) for one in (given if batched else [given])], batched


def _messages(conversation: Any) -> list[dict[str, Any]]:
    """Plain messages. Keys that are None are left out: templates ask whether a key is there."""
    messages = [plain(message) for message in getattr(conversation, "messages", conversation)]
    for message in messages:
        if not isinstance(message, dict):
            raise ValueError(f"conversation: {message!r:.60} is no message; a mapping with a role would do.")
    return [{key: value for key, value in message.items() if value is not None} for message in messages]


def _request(
    tools: Sequence[Any] | None,
    documents: Sequence[Mapping[str, Any]] | None,
    variables: Mapping[str, Any],
    add_generation_prompt: bool,
    continue_final_message: bool | str,
) -> dict[str, Any]:
    """What a template is given besides messages, as plain values."""
    from processors.tokenizers.tool_schemas import tool_schema

    if continue_final_message and add_generation_prompt:
        raise ValueError("continue_final_message: does not go with add_generation_prompt.")
    for document in documents or ():
        if not isinstance(document, Mapping):
            raise ValueError(f"documents: {document!r:.60} was given; mappings of title and text would do.")
    return {
        "tools": None if tools is None else plain([tool_schema(tool) for tool in tools]),
        "documents": plain(documents),
        "variables": plain(variables),
        "add_generation_prompt": add_generation_prompt,
        "continue_final_message": continue_final_message,
    }


def _within(places: Sequence[tuple[int, int]], generated: Sequence[tuple[int, int]]) -> list[int]:
    """1 for each token that has a character in one of the spans, else 0."""
    return [
        int(any(begin < stop and end > start for start, stop in generated) and end > begin)
        for begin, end in places
    ]
