"""Requests of Anthropic's Messages API put to workers that speak OpenAI's chat completions, and their answers put back.

Called by `wire.exchange` through `surfaces`, for workers that do not speak the Messages API themselves. Only translated
requests pay for it. What is kept, changed, dropped and refused stands in docs/api.md. `translated_stream` is the part
for streams.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from rbeerouter.core.errors import RouterError
from rbeerouter.dialects import anthropic, bodies
from rbeerouter.dialects.translated_stream import MessageStream, message_id, stop_reason, usage_of

if TYPE_CHECKING:
    from rbeerouter.dialects.surfaces import Dialect

_encode = msgspec.json.Encoder().encode
_CHAT = b"/v1/chat/completions"
_ABSENT = msgspec.Raw(b"")


class _Text(msgspec.Struct, tag="text"):
    text: str


class _Source(msgspec.Struct):
    type: str
    media_type: str = "application/octet-stream"
    data: str | None = None
    url: str | None = None
    content: str | list[_Text] | None = None


class _Image(msgspec.Struct, tag="image"):
    source: _Source


class _Document(msgspec.Struct, tag="document"):
    source: _Source
    title: str | None = None


class _Found(msgspec.Struct, tag="search_result"):
    source: str
    title: str
    content: list[_Text]


class _ToolUse(msgspec.Struct, tag="tool_use"):
    id: str
    name: str
    input: msgspec.Raw = msgspec.Raw(b"{}")


_Shown = _Text | _Image | _Document | _Found


class _ToolResult(msgspec.Struct, tag="tool_result"):
    tool_use_id: str
    content: str | list[_Shown] | None = None
    is_error: bool | None = None


class _Thinking(msgspec.Struct, tag="thinking"):
    pass


class _HiddenThinking(msgspec.Struct, tag="redacted_thinking"):
    pass


_Block = _Text | _Image | _Document | _Found | _ToolUse | _ToolResult | _Thinking | _HiddenThinking


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Block]


class _Tool(msgspec.Struct):
    name: str
    type: str | None = None
    description: str | None = None
    input_schema: msgspec.Raw = _ABSENT
    strict: bool | None = None


class _ToolChoice(msgspec.Struct):
    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class _Person(msgspec.Struct):
    user_id: str | None = None


class _Format(msgspec.Struct):
    type: str
    schema: msgspec.Raw = _ABSENT


class _OutputConfig(msgspec.Struct):
    format: _Format | None = None


class _Asked(msgspec.Struct):
    model: str
    messages: list[_Message]
    max_tokens: int | None = None
    system: str | list[_Text] | None = None
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: _Person | None = None
    tools: list[_Tool] | None = None
    tool_choice: _ToolChoice | None = None
    output_format: _Format | None = None
    output_config: _OutputConfig | None = None
    mcp_servers: list[Any] | None = None
    container: Any = None


_decode = msgspec.json.Decoder(_Asked).decode


class Messages:
    """/v1/messages. `source` is the dialect of the worker's answer."""

    path = _CHAT

    def __init__(self, source: Dialect) -> None:
        self.source = source

    def body(self, body: bytes, model: str | None) -> bytes:
        """The same request as OpenAI's chat completions. Raises RouterError for what that has no words for."""
        return _encode(_chat(_read(body), model))

    def answer(self, status: int, body: bytes) -> bytes | None:
        """A whole answer, good or bad, as the Messages API would give it; None when it is no chat completion."""
        if status >= 400:
            return anthropic.error_from(status, body)
        completion = _completion(body)
        return _encode(_answered(completion)) if completion is not None else None

    def stream(self) -> MessageStream:
        return MessageStream()


class Count(Messages):
    """/v1/messages/count_tokens: the worker itself counts, by reading the prompt and writing a single token.

    Engines have many ways to count a text, and none that all share for a conversation with tools and images. What the
    worker has read to count it stays in its prefix cache for the request that comes next.
    """

    def body(self, body: bytes, model: str | None) -> bytes:
        asked = _read(body)
        asked.max_tokens, asked.stream = 1, None
        return _encode(_chat(asked, model))

    def answer(self, status: int, body: bytes) -> bytes | None:
        if status >= 400:
            return super().answer(status, body)
        completion = _completion(body)
        usage = completion.get("usage") if completion is not None else None
        tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        return _encode({"input_tokens": tokens}) if type(tokens) is int else None


def _read(body: bytes) -> _Asked:
    try:
        return _decode(body)
    except msgspec.ValidationError as error:
        raise _refused(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RouterError("invalid_json", f"the body is not valid JSON: {error}") from None


def _refused(error: msgspec.ValidationError) -> RouterError:
    """A wrong type, a missing field, or a block of a kind that OpenAI's protocol has no words for."""
    message, _, path = str(error).partition(" - at `$")
    path = path.rstrip("`").removeprefix(".")
    if path.endswith(".type") and message.startswith("Invalid value"):
        kind = message.removeprefix("Invalid value ")
        return RouterError("invalid_json", f"{path}: {kind} cannot be sent to this model's workers", path)
    missing = message.removeprefix("Object missing required field `").rstrip("`") if "missing" in message else ""
    if missing:
        field = f"{path}.{missing}".removeprefix(".")
        return RouterError("invalid_json", f"{field}: this field is required", field)
    return bodies.wrong_type(error)


# The request


def _chat(asked: _Asked, model: str | None) -> dict[str, Any]:
    if asked.mcp_servers:
        raise RouterError("invalid_json", "mcp_servers: this model's workers cannot call them", "mcp_servers")
    if asked.container is not None:
        raise RouterError("invalid_json", "container: this model's workers have none", "container")
    body: dict[str, Any] = {"model": model or asked.model, "messages": _messages(asked)}
    for name in ("max_tokens", "temperature", "top_p", "top_k"):
        if getattr(asked, name) is not None:
            body[name] = getattr(asked, name)
    if asked.stop_sequences:
        body["stop"] = asked.stop_sequences
    if asked.metadata is not None and asked.metadata.user_id:
        body["user"] = asked.metadata.user_id
    if asked.stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    if asked.tools:
        body["tools"] = [_tool(tool, number) for number, tool in enumerate(asked.tools)]
    choice = asked.tool_choice
    if choice is not None:
        body["tool_choice"] = _tool_choice(choice)
        if choice.disable_parallel_tool_use:
            body["parallel_tool_calls"] = False
    wanted = asked.output_format or (asked.output_config.format if asked.output_config else None)
    if wanted is not None and wanted.type == "json_schema" and wanted.schema is not _ABSENT:
        schema = {"name": "answer", "schema": wanted.schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def _tool(tool: _Tool, number: int) -> dict[str, Any]:
    if tool.input_schema is _ABSENT or tool.type not in (None, "custom"):
        where = f"tools[{number}]"
        what = f"{where}: {tool.type or tool.name} has no input_schema, and this model's workers know nothing of it"
        raise RouterError("invalid_json", what, where)
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _tool_choice(choice: _ToolChoice) -> str | dict[str, Any]:
    if choice.type == "tool" and choice.name:
        return {"type": "function", "function": {"name": choice.name}}
    try:
        return {"auto": "auto", "any": "required", "none": "none"}[choice.type]
    except KeyError:
        what = f"tool_choice.type = {choice.type[:50]!r}: expected auto, any, none or tool with a name"
        raise RouterError("invalid_json", what, "tool_choice.type") from None


def _messages(asked: _Asked) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if asked.system:
        system = asked.system if isinstance(asked.system, str) else "\n\n".join(block.text for block in asked.system)
        messages.append({"role": "system", "content": system})
    for number, message in enumerate(asked.messages):
        where = f"messages[{number}]"
        if message.role not in ("user", "assistant", "system"):
            what = f"{where}.role = {message.role[:50]!r}: expected user or assistant"
            raise RouterError("invalid_json", what, f"{where}.role")
        if isinstance(message.content, str):
            messages.append({"role": message.role, "content": message.content})
        elif message.role == "assistant":
            messages.append(_assistant(message.content, where))
        else:
            messages += _user(message.role, message.content, where)
    return messages


def _assistant(blocks: list[_Block], where: str) -> dict[str, Any]:
    """What the model said before. Its thoughts are dropped: engines write their own, and know no signatures."""
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for block in blocks:
        if isinstance(block, _Text):
            texts.append(block.text)
        elif isinstance(block, _ToolUse):
            function = {"name": block.name, "arguments": bytes(block.input).decode()}
            calls.append({"id": block.id, "type": "function", "function": function})
        elif not isinstance(block, _Thinking | _HiddenThinking):
            raise _misplaced(block, where)
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) if texts or not calls else None}
    if calls:
        message["tool_calls"] = calls
    return message


def _user(role: str, blocks: list[_Block], where: str) -> list[dict[str, Any]]:
    """Results of tools become messages of their own, which must follow the calls at once; the rest comes after them.

    A result can hold only text there, so its images go with the rest.
    """
    results: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    for block in blocks:
        if isinstance(block, _ToolResult):
            content = block.content or ""
            shown = [_part(one, where) for one in content] if not isinstance(content, str) else []
            text = content if isinstance(content, str) else "\n".join(p["text"] for p in shown if p["type"] == "text")
            parts += [part for part in shown if part["type"] != "text"]
            text = f"Error: {text}" if block.is_error else text
            results.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": text})
        elif isinstance(block, _Shown):
            parts.append(_part(block, where))
        else:
            raise _misplaced(block, where)
    if not parts:
        return results or [{"role": role, "content": ""}]
    if all(part["type"] == "text" for part in parts):        # many chat templates take nothing but a text
        return [*results, {"role": role, "content": "\n\n".join(part["text"] for part in parts)}]
    return [*results, {"role": role, "content": parts}]


def _part(block: _Shown, where: str) -> dict[str, Any]:
    if isinstance(block, _Text):
        return {"type": "text", "text": block.text}
    if isinstance(block, _Found):
        text = "\n".join(one.text for one in block.content)
        return {"type": "text", "text": f"{block.title} ({block.source})\n{text}"}
    source = block.source
    if isinstance(block, _Image) and source.type == "base64" and source.data:
        return {"type": "image_url", "image_url": {"url": f"data:{source.media_type};base64,{source.data}"}}
    if isinstance(block, _Image) and source.type == "url" and source.url:
        return {"type": "image_url", "image_url": {"url": source.url}}
    if isinstance(block, _Document) and source.type in ("text", "content"):
        text = source.data if source.type == "text" else source.content
        text = "\n".join(one.text for one in text) if isinstance(text, list) else text
        if text is not None:
            return {"type": "text", "text": f"{block.title}\n{text}" if block.title else text}
    if isinstance(block, _Document) and source.type == "base64" and source.data:
        file = {"filename": block.title or "document", "file_data": f"data:{source.media_type};base64,{source.data}"}
        return {"type": "file", "file": file}
    kind = "image" if isinstance(block, _Image) else "document"
    what = f"{where}: {kind} with a source of type {source.type[:50]!r} cannot be sent to this model's workers"
    raise RouterError("invalid_json", what, where)


def _misplaced(block: _Block, where: str) -> RouterError:
    kind = type(block).__struct_config__.tag
    return RouterError("invalid_json", f"{where}: a block of type {kind} has no place in a message of this role", where)


# The answer


def _completion(body: bytes) -> dict[str, Any] | None:
    try:
        completion = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    choices = completion.get("choices") if isinstance(completion, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return None
    return completion if isinstance(choices[0].get("message"), dict) else None


def _answered(completion: dict[str, Any]) -> dict[str, Any]:
    choice = completion["choices"][0]
    message = choice["message"]
    content: list[dict[str, Any]] = []
    thought = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(thought, str):
        content.append({"type": "thinking", "thinking": thought, "signature": ""})
    text = message.get("content") or message.get("refusal")
    if isinstance(text, str):
        content.append({"type": "text", "text": text})
    name = message_id(completion.get("id"))
    calls = message.get("tool_calls")
    for number, call in enumerate(calls if isinstance(calls, list) else ()):
        if not isinstance(call, dict):
            continue
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        content.append({
            "type": "tool_use", "id": call.get("id") or f"toolu_{name}_{number}", "name": function.get("name") or "",
            "input": _arguments(function.get("arguments")),
        })  # fmt: skip
    reason, sequence = stop_reason(choice, any(block["type"] == "tool_use" for block in content))
    return {
        "id": name, "type": "message", "role": "assistant", "model": completion.get("model") or "", "content": content,
        "stop_reason": reason, "stop_sequence": sequence, "usage": usage_of(completion.get("usage")),
    }  # fmt: skip


def _arguments(text: Any) -> Any:
    """A call's arguments as an object. What a model wrote that is none is handed on under a name of its own."""
    if isinstance(text, dict):
        return text
    try:
        found = msgspec.json.decode(text or "{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError):
        found = None
    return found if isinstance(found, dict) else {"arguments": text}
