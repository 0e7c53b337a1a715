"""
A stand-in for the services of the real programs, on loopback.

It speaks as much of the Messages API of Anthropic, the Responses API of OpenAI and the
``generateContent`` of Google as the programs need: a text, a call of the shell tool, a refusal.
Each :class:`Part` has a separate address, which a program gets as its service.
"""

from __future__ import annotations

import contextlib
import http.server
import itertools
import json
import threading

ANSWER = 'No index on orders(customer_id).\nIt says "so" in the plan: ü ✓.'
INPUT_TOKENS, CACHED_TOKENS, OUTPUT_TOKENS = 120, 3000, 42


class Part:
    """
    One role of the service: it calls the shell once with *command*, if given, then answers.

    With *calls*, a name and arguments, it calls the tool whose name ends with that name instead.
    With *refuses*, every request gets the service's error for a wrong key.
    """

    def __init__(self, address, *, command=None, calls=None, refuses=False):
        self.address = address
        self.command = command
        self.calls = calls
        self.refuses = refuses
        self.requests = []  #: The bodies of all requests, oldest first.

    def call_for(self, names):
        """Return name and arguments of the call to make, from the names of all tools; or None."""
        if self.calls is not None:
            wanted, arguments = self.calls
            found = [name for name in names if name.endswith(wanted)]
            return (found[0], arguments) if found else None
        found = [name for name in _SHELLS if name in names and self.command]
        return (found[0], _SHELLS[found[0]](self.command)) if found else None


#: The shell tools of the programs, with the arguments that run a command.
_SHELLS = {
    "Bash": lambda command: {"command": command, "description": "d"},
    "bash": lambda command: {"command": command, "description": "d"},
    "exec_command": lambda command: {"cmd": command},
    "shell_command": lambda command: {"command": command},
    "shell": lambda command: {"command": ["bash", "-lc", command]},
    "run_shell_command": lambda command: {"command": command, "description": "d"},
}


class Service:
    """The server; it ends with the ``with`` block."""

    def __init__(self):
        self.parts = {}
        self._numbers = itertools.count(1)
        handler = type("Handler", (_Handler,), {"parts": self.parts})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def part(self, **how):
        """Return a new part, with its address."""
        number = str(next(self._numbers))
        self.parts[number] = Part(f"http://127.0.0.1:{self._server.server_port}/{number}", **how)
        return self.parts[number]

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_error):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        _, number, path = self.path.split("/", 2)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        part = self.parts[number]
        part.requests.append(body)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for known, dialect in _DIALECTS.items():
                if known in path:
                    dialect(self, part, path, body)
                    return
            self.send_json({})

    def do_GET(self):
        self.send_json({"data": [], "models": []})

    def do_HEAD(self):
        self.send_json({})

    def log_message(self, *_arguments):
        """Keep quiet."""

    def send_json(self, value, status=200):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def send_events(self, events):
        """Send server-sent events: each a dict, its ``type`` as the event's name if it has one."""
        text = "".join(
            (f"event: {event['type']}\n" if "type" in event else "")
            + f"data: {json.dumps(event)}\n\n"
            for event in events
        )
        data = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


# --- Anthropic: /v1/messages --------------------------------------------------------------------


def _messages(handler, part, path, body):
    if part.refuses:
        error = {"type": "authentication_error", "message": "invalid x-api-key"}
        handler.send_json({"type": "error", "error": error}, 401)
    elif "count_tokens" in path:
        handler.send_json({"input_tokens": INPUT_TOKENS})
    else:
        names = [tool.get("name", "") for tool in body.get("tools", [])]
        call, text = None, json.dumps(body)
        if "toolu_call" not in text:
            call = part.call_for(names)
        block = {"type": "text", "text": ANSWER}
        if call is not None:
            block = {"type": "tool_use", "id": "toolu_call", "name": call[0], "input": call[1]}
        elif part.calls and "WaitForMcpServers" in names and "toolu_call" not in text:
            call = ("WaitForMcpServers", {})  # Claude Code starts them meanwhile.
            name = f"toolu_wait_{len(part.requests)}"
            block = {"type": "tool_use", "id": name, "name": call[0], "input": {}}
        _send_message(handler, body, block, "end_turn" if call is None else "tool_use")


def _send_message(handler, body, block, stop_reason):
    usage = {
        "input_tokens": INPUT_TOKENS,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": CACHED_TOKENS,
        "output_tokens": OUTPUT_TOKENS,
    }
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [block],
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": usage,
    }
    if not body.get("stream"):
        handler.send_json(message)
        return
    if block["type"] == "text":
        empty, delta = {**block, "text": ""}, {"type": "text_delta", "text": block["text"]}
    else:
        empty = {**block, "input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
    end = {"stop_reason": stop_reason, "stop_sequence": None}
    handler.send_events(
        [
            {
                "type": "message_start",
                "message": {**message, "content": [], "stop_reason": None},
            },
            {"type": "content_block_start", "index": 0, "content_block": empty},
            {"type": "content_block_delta", "index": 0, "delta": delta},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": end, "usage": {"output_tokens": OUTPUT_TOKENS}},
            {"type": "message_stop"},
        ]
    )


# --- OpenAI: /v1/responses ----------------------------------------------------------------------


def _responses(handler, part, _path, body):
    if part.refuses:
        error = {"message": "Incorrect API key provided", "code": "invalid_api_key"}
        handler.send_json({"error": error}, 401)
        return
    names = list(_names_of(body.get("tools", [])))
    is_first = not any("_output" in item.get("type", "") for item in body.get("input", []))
    call = part.call_for([name for _, name in names]) if is_first else None
    item = {
        "type": "message",
        "id": "m1",
        "role": "assistant",
        "content": [{"type": "output_text", "text": ANSWER}],
    }
    if call is not None:
        [space] = [space for space, name in names if name == call[0]][:1]
        item = {"type": "function_call", "id": "f1", "call_id": "c1", **space}
        item |= {"name": call[0], "arguments": json.dumps(call[1])}
    usage = {
        "input_tokens": INPUT_TOKENS + CACHED_TOKENS,
        "input_tokens_details": {"cached_tokens": CACHED_TOKENS},
        "output_tokens": OUTPUT_TOKENS,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": INPUT_TOKENS + CACHED_TOKENS + OUTPUT_TOKENS,
    }
    handler.send_events(
        [
            {"type": "response.created", "response": {"id": "r1"}},
            {"type": "response.output_item.done", "output_index": 0, "item": item},
            {"type": "response.completed", "response": {"id": "r1", "usage": usage}},
        ]
    )


def _names_of(tools):
    """Yield the name of each tool, with the field of a call that names its namespace, if any."""
    for tool in tools:
        if tool.get("type") == "namespace":
            space = {"namespace": tool["name"]}
            yield from ((space, inner["name"]) for inner in tool.get("tools", []))
        else:
            yield {}, tool.get("name", "")


# --- Google: /v1beta/models/…:generateContent ---------------------------------------------------


def _generate(handler, part, path, body):
    if part.refuses:
        error = {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}
        handler.send_json({"error": error}, 400)
    elif "countTokens" in path:
        handler.send_json({"totalTokens": INPUT_TOKENS})
    elif "streamGenerateContent" in path:
        handler.send_events([_content(_parts(part, body))])
    else:
        # Gemini CLI asks a small model which large one to ask.
        choice = {"complexity_reasoning": "r", "complexity_score": 1, "reasoning": "r"}
        handler.send_json(_content([{"text": json.dumps({**choice, "model_choice": "flash"})}]))


def _parts(part, body):
    declared = [each for tool in body.get("tools", []) for each in tool["functionDeclarations"]]
    is_first = '"functionResponse"' not in json.dumps(body["contents"])
    call = part.call_for([each["name"] for each in declared]) if is_first else None
    if call is None:
        return [{"text": ANSWER}]
    return [{"functionCall": {"name": call[0], "args": call[1]}}]


def _content(parts):
    usage = {
        "promptTokenCount": INPUT_TOKENS + CACHED_TOKENS,
        "cachedContentTokenCount": CACHED_TOKENS,
        "candidatesTokenCount": OUTPUT_TOKENS,
        "totalTokenCount": INPUT_TOKENS + CACHED_TOKENS + OUTPUT_TOKENS,
    }
    content = {"role": "model", "parts": parts}
    return {
        "candidates": [{"content": content, "finishReason": "STOP", "index": 0}],
        "usageMetadata": usage,
        "modelVersion": "gemini-2.5-flash",
    }


_DIALECTS = {"v1/messages": _messages, "v1/responses": _responses, "/models/": _generate}
