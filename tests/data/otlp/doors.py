"""The server that the recorded programs talk to: a model, a gateway, and the OTLP receiver that keeps what it gets."""

from __future__ import annotations

import gzip
import json
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar

USAGE = {"prompt_tokens": 21, "completion_tokens": 9, "total_tokens": 30}


class Doors(BaseHTTPRequestHandler):
    """A model, a gateway and an OTLP receiver in one."""

    protocol_version = "HTTP/1.1"
    requests: ClassVar[list[bytes]] = []

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path.endswith("/traces"):
            self.requests.append(body)
            self._answer(200, "application/x-protobuf", b"")
        elif self.path.endswith("/chat/completions"):
            self._chat(json.loads(body))
        elif self.path.endswith("/embeddings"):
            data = [{"object": "embedding", "index": 0, "embedding": [0.25, 0.5, 0.125]}]
            self._json(200, {"object": "list", "model": "small-embed", "data": data, "usage": USAGE})
        elif self.path.startswith("/search"):
            self._json(200, {"rows": [{"name": "Ann"}], "row_count": 1})
        else:
            self._json(404, {"error": "no such route"})

    do_GET = do_POST  # noqa: N815 - http.server's name

    def _chat(self, said: dict[str, Any]) -> None:
        if said["model"] == "no-such-model":
            error = {"message": "The model `no-such-model` does not exist", "type": "invalid_request_error"}
            self._json(404, {"error": {**error, "param": None, "code": "model_not_found"}})
            return
        message: dict[str, Any] = {"role": "assistant", "content": "Ann and Bo can."}
        reason = "stop"
        if said.get("tools") and said["messages"][-1]["role"] != "tool":
            call = {"name": "find_workers", "arguments": '{"role": "forklift", "count": 2}'}
            message = {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "call_1", "type": "function", "function": call}],
            }
            reason = "tool_calls"
        head = {"id": "chatcmpl-1", "created": 1767225600, "model": said["model"]}
        if not said.get("stream"):
            choices = [{"index": 0, "message": message, "finish_reason": reason, "logprobs": None}]
            self._json(200, {**head, "object": "chat.completion", "choices": choices, "usage": USAGE})
            return
        deltas = [{"role": "assistant", "content": "Ann "}, {"content": "and Bo can."}, {}]
        lines = []
        for delta in deltas:
            choices = [{"index": 0, "delta": delta, "finish_reason": None if delta else reason}]
            lines.append({**head, "object": "chat.completion.chunk", "choices": choices})
        lines.append({**head, "object": "chat.completion.chunk", "choices": [], "usage": USAGE})
        stream = "".join(f"data: {json.dumps(line)}\n\n" for line in lines) + "data: [DONE]\n\n"
        self._answer(200, "text/event-stream", stream.encode())

    def _json(self, status: int, body: Any) -> None:
        self._answer(status, "application/json", json.dumps(body).encode())

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
