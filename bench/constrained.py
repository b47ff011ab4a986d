"""Whether constrained answers are what they were constrained to: 25 JSON schemas and 25 tool calls, each checked with `jsonschema`."""

import json
import subprocess
import sys

import peers
from constrained_cases import SCHEMAS, TOOLS
from fusiond import Failed, Refused, Server
from models import models_folder

MODEL = "Qwen2.5-Coder-1.5B-Instruct-Q4_K_M.gguf"
# Enough for the longest answer that a schema here allows.
MOST_TOKENS = 600
# Each prompt once as greedily as can be, and once at this temperature.
ROUNDS = 1
TEMPERATURES = (0.0, 1.0)


def measure():
    """Markdown of the section."""
    model = models_folder() / MODEL
    if not model.is_file():
        return f"## Constrained answers\n\nSkipped: {MODEL} is not there (`make models QWEN=1`).\n"
    validate = validator()
    if not validate:
        return "## Constrained answers\n\nSkipped: the Python package jsonschema could not be had.\n"
    rows = []
    with Server() as server:
        server.call("POST", "/v1/models/load", {"model_path": str(model), "model_id": "m", "model_type": "lm", "context_length": 4096})
        for number in range(ROUNDS):
            temperature = TEMPERATURES[number % len(TEMPERATURES)]
            rows += [(answer, temperature, *tried(server, validate, answer, case, temperature)) for answer, case in cases()]
    return section(rows)


def cases():
    yield from ((schema_answer, case) for case in SCHEMAS)
    yield from ((tool_answer, case) for case in TOOLS)


def validator():
    """`jsonschema`'s check, fetched with pip into a folder beside the models where Python doesn't have it."""
    try:
        import jsonschema
    except ImportError:
        place = peers.folder() / "jsonschema"
        if not place.is_dir():
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(place)]
            if subprocess.run([*command, "jsonschema==4.26.0"], check=False).returncode:
                return None
        sys.path.insert(0, str(place))
        import jsonschema
    # Formats such as `date` too.
    return lambda value, schema: jsonschema.validate(value, schema, format_checker=jsonschema.FormatChecker())


def tried(server, validate, answer, case, temperature):
    """How it went: `valid`, `refused` or `invalid`, and what there is to say."""
    try:
        for value, schema in answer(server, case, temperature):
            validate(value, schema)
    except Refused as error:
        return "refused", f"{case[0]} {error}"
    except Exception as error:  # noqa: BLE001 - whatever is wrong with an answer is told, not raised
        return "invalid", f"{case[0]} {type(error).__name__}: {str(error).splitlines()[0]}"
    return "valid", ""


def schema_answer(server, case, temperature):
    prompt, schema = case
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
    choice = ask(server, prompt, temperature, response_format=wanted)
    return [(json.loads(choice["message"]["content"]), schema)]


def tool_answer(server, case, temperature):
    prompt, tools, choice = case
    named = choice if choice == "required" else {"type": "function", "function": {"name": choice}}
    answer = ask(server, prompt, temperature, tools=tools, tool_choice=named)
    calls = answer["message"].get("tool_calls")
    if not calls or answer["finish_reason"] != "tool_calls":
        raise Failed(f"no call, but {answer}")
    known = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    if choice != "required" and any(call["function"]["name"] != choice for call in calls):
        raise Failed(f"another tool than {choice} was called")
    return [(json.loads(call["function"]["arguments"]), known[call["function"]["name"]]) for call in calls]


def ask(server, prompt, temperature, **more):
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}], "temperature": temperature, "seed": 7}
    answer = server.call("POST", "/v1/chat/completions", {**body, "max_tokens": MOST_TOKENS, **more})
    return answer["choices"][0]


def section(rows):
    lines = [
        "## Constrained answers",
        "",
        f"{MODEL}; every prompt's answer checked against its schema with the Python package jsonschema. A refused request, and an",
        f"answer that isn't over after {MOST_TOKENS} tokens, count as wrong.",
        "",
        "| | prompts | valid | invalid | refused |",
        "|---|---|---|---|---|",
    ]
    for name, kind in (("JSON schemas", schema_answer), ("tools, required or named", tool_answer)):
        outcomes = [outcome for answer, _, outcome, _ in rows if answer is kind]
        counts = " | ".join(str(outcomes.count(outcome)) for outcome in ("valid", "invalid", "refused"))
        lines.append(f"| {name} | {len(outcomes)} | {counts} |")
    wrong = [f"- temperature {temperature:g}: {why}" for _, temperature, _, why in rows if why]
    return "\n".join(lines + ([""] + wrong if wrong else [])) + "\n"
