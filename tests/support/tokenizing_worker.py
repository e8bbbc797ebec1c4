"""A fault worker that has a tokenizer: /tokenize as vLLM, SGLang and llama.cpp have it, and llama.cpp's /apply-template.

Called by tests in their own event loop, as a `FaultWorker` is. A token is a byte; a conversation's template is a line
for each message, and `assistant:` where the answer is to follow.
"""

from __future__ import annotations

import json
from typing import Any

from tests.support.behaviours import whole
from tests.support.fault_worker import Connection, FaultWorker, Request


class TokenizingWorker(FaultWorker):
    """A worker whose tokenizer can be asked.

    Attributes:
        tokenized: (path, body) of what the tokenizer was asked; it is not among `requests`.
        silent: it gives no answer until the peer leaves.
        answer_with: bytes in place of each answer of the tokenizer.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.tokenized: list[tuple[str, dict[str, Any]]] = []
        self.silent = False
        self.answer_with: bytes | None = None

    async def answer(self, connection: Connection, request: Request) -> None:
        if request.method != "POST" or request.path not in ("/tokenize", "/apply-template"):
            await super().answer(connection, request)
            return
        asked = json.loads(request.body)
        self.tokenized.append((request.path, asked))
        self._wake_waiters()
        if self.silent:
            await connection.until_peer_leaves()
        await connection.write(self.answer_with or whole(200, answer_to(request.path, asked)))


def answer_to(path: str, asked: dict[str, Any]) -> dict[str, Any]:
    if "messages" in asked:
        text = templated(asked["messages"], asked.get("add_generation_prompt", True))
        if path == "/apply-template":
            return {"prompt": text}
    else:
        text = asked["content"] if "content" in asked else asked["prompt"]
    ids = tokens_of(text)
    return {"count": len(ids), "max_model_len": 4096, "tokens": ids, "token_strs": None}


def templated(messages: list[dict[str, str]], open_end: bool = True) -> str:
    lines = "".join(f"{message['role']}:{message['content']}\n" for message in messages)
    return f"{lines}assistant:" if open_end else lines


def tokens_of(text: str) -> list[int]:
    return list(text.encode())
