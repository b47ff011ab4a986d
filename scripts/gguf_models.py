#!/usr/bin/env python3
"""Make the GGUF models that no registry carries in the form in which the tests and benches want them.

  all-MiniLM-L6-v2-f16.gguf     the real sentence-transformers model, converted from the folder that `scripts/models.py` fetches
  tiny-cross-encoder.gguf       a BERT with a classification head: a reranker with rank pooling
  tiny-last-embedder.gguf       a causal Qwen3 whose last token's state is the vector
  tiny-template-reranker.gguf   a causal Qwen3 with a classification head and a prompt of its own

They go into `.made` in the models folder, where a server doesn't look for models.

The tiny ones hold random numbers, always the same: what an engine computes on them can be compared with what another computes on
the same file, and says nothing about quality. Only Python's standard library is needed. A file appears under its name when it is
whole; one that is there is left alone.
"""

import array
import json
import os
import random
import struct
import sys
from pathlib import Path

ALIGNMENT = 32
F32, F16 = 0, 1
U32, FLOAT, BOOL, STRING, LIST = 4, 6, 7, 8, 9
NORMAL, UNKNOWN, CONTROL = 1, 2, 3
MEAN, CLS, LAST, RANK = 1, 2, 3, 4

WORDS = "the a of and to in is what where who capital city france paris river water red apple fruit tree sky blue bread oven"


def make_all(folder):
    """Makes what is missing, and says what it made."""
    folder = Path(folder)
    made = folder / ".made"
    made.mkdir(exist_ok=True)
    makers = {
        "all-MiniLM-L6-v2-f16.gguf": lambda: minilm(folder / "all-MiniLM-L6-v2"),
        "tiny-cross-encoder.gguf": tiny_bert,
        "tiny-last-embedder.gguf": lambda: tiny_qwen(with_head=False),
        "tiny-template-reranker.gguf": lambda: tiny_qwen(with_head=True),
    }
    for name, maker in makers.items():
        if not (made / name).exists():
            write(made / name, *maker())
            print(f"  {name}: made", flush=True)


# --- models -----------------------------------------------------------------------------------------------------------


def minilm(folder):
    """The conversion: other names for the same tensors, matrices rounded to half precision, the vocabulary as llama.cpp has it."""
    config = json.loads((folder / "config.json").read_text())
    words = (folder / "vocab.txt").read_text().splitlines()
    values = bert_values(
        "all-MiniLM-L6-v2",
        words,
        length=config["max_position_embeddings"],
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        inner=config["intermediate_size"],
        heads=config["num_attention_heads"],
        pooling=MEAN,
    )
    tensors = []
    for name, shape, floats in safetensors(folder / "model.safetensors"):
        if (renamed := bert_name(name)) is None:
            continue
        half = len(shape) == 2 and not renamed.startswith(("position_embd", "token_types"))
        tensors.append((renamed, shape, F16 if half else F32, floats))
    return values, tensors


def tiny_bert():
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = special + WORDS.split() + list(letters[1:]) + [f"##{letter}" for letter in letters] + list(".,?!'-")
    width, inner, layers, length = 64, 128, 2, 128
    values = bert_values("tiny cross-encoder", words, length, width, layers, inner, heads=4, pooling=RANK)
    draw = Draw(1)
    tensors = [
        draw.matrix("token_embd.weight", len(words), width),
        draw.matrix("position_embd.weight", length, width, F32),
        draw.matrix("token_types.weight", 2, width, F32),
        *draw.norm("token_embd_norm", width),
    ]
    for layer in range(layers):
        block = f"blk.{layer}"
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensors += draw.linear(f"{block}.{name}", width, width)
        tensors += draw.norm(f"{block}.attn_output_norm", width)
        tensors += draw.linear(f"{block}.ffn_up", inner, width)
        tensors += draw.linear(f"{block}.ffn_down", width, inner)
        tensors += draw.norm(f"{block}.layer_output_norm", width)
    tensors += draw.linear("cls", width, width)
    tensors += draw.linear("cls.output", 1, width)
    return values, tensors


def tiny_qwen(with_head):
    tokens, merges = byte_vocabulary(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    width, inner, layers, head = 64, 128, 2, 16
    end = tokens.index("<|endoftext|>")
    values = [
        ("general.architecture", STRING, "qwen3"),
        ("general.name", STRING, "tiny template reranker" if with_head else "tiny last embedder"),
        ("qwen3.context_length", U32, 512),
        ("qwen3.embedding_length", U32, width),
        ("qwen3.block_count", U32, layers),
        ("qwen3.feed_forward_length", U32, inner),
        ("qwen3.attention.head_count", U32, 4),
        ("qwen3.attention.head_count_kv", U32, 2),
        ("qwen3.attention.key_length", U32, head),
        ("qwen3.attention.value_length", U32, head),
        ("qwen3.attention.layer_norm_rms_epsilon", FLOAT, 1e-6),
        ("qwen3.rope.freq_base", FLOAT, 1e6),
        ("qwen3.pooling_type", U32, RANK if with_head else LAST),
        ("tokenizer.ggml.model", STRING, "gpt2"),
        ("tokenizer.ggml.pre", STRING, "qwen2"),
        ("tokenizer.ggml.tokens", LIST, (STRING, tokens)),
        ("tokenizer.ggml.token_type", LIST, (5, [CONTROL if token.startswith("<|") else NORMAL for token in tokens])),
        ("tokenizer.ggml.merges", LIST, (STRING, merges)),
        ("tokenizer.ggml.bos_token_id", U32, end),
        ("tokenizer.ggml.eos_token_id", U32, end),
        ("tokenizer.ggml.padding_token_id", U32, end),
        ("tokenizer.ggml.add_bos_token", BOOL, False),
        ("tokenizer.ggml.add_eos_token", BOOL, not with_head),
    ]
    draw = Draw(2)
    tensors = [draw.matrix("token_embd.weight", len(tokens), width), draw.vector("output_norm.weight", width, 1)]
    for layer in range(layers):
        block = f"blk.{layer}"
        tensors += [
            draw.vector(f"{block}.attn_norm.weight", width, 1),
            draw.matrix(f"{block}.attn_q.weight", 4 * head, width),
            draw.matrix(f"{block}.attn_k.weight", 2 * head, width),
            draw.matrix(f"{block}.attn_v.weight", 2 * head, width),
            draw.vector(f"{block}.attn_q_norm.weight", head, 1),
            draw.vector(f"{block}.attn_k_norm.weight", head, 1),
            draw.matrix(f"{block}.attn_output.weight", width, 4 * head),
            draw.vector(f"{block}.ffn_norm.weight", width, 1),
            draw.matrix(f"{block}.ffn_gate.weight", inner, width),
            draw.matrix(f"{block}.ffn_up.weight", inner, width),
            draw.matrix(f"{block}.ffn_down.weight", width, inner),
        ]
    if with_head:
        prompt = "<|im_start|>Is it a match?\nQ: {query}\nD: {document}<|im_end|>\n<|im_start|>"
        values.append(("tokenizer.chat_template.rerank", STRING, prompt))
        values.append(("qwen3.classifier.output_labels", LIST, (STRING, ["yes", "no"])))
        tensors.append(draw.matrix("cls.output.weight", 2, width))
    return values, tensors


# --- BERT -------------------------------------------------------------------------------------------------------------


def bert_values(name, words, length, width, layers, inner, heads, pooling):
    at = words.index
    return [
        ("general.architecture", STRING, "bert"),
        ("general.name", STRING, name),
        ("bert.context_length", U32, length),
        ("bert.embedding_length", U32, width),
        ("bert.block_count", U32, layers),
        ("bert.feed_forward_length", U32, inner),
        ("bert.attention.head_count", U32, heads),
        ("bert.attention.layer_norm_epsilon", FLOAT, 1e-12),
        ("bert.attention.causal", BOOL, False),
        ("bert.pooling_type", U32, pooling),
        ("tokenizer.ggml.model", STRING, "bert"),
        ("tokenizer.ggml.token_type_count", U32, 2),
        ("tokenizer.ggml.tokens", LIST, (STRING, [wordpiece(word) for word in words])),
        ("tokenizer.ggml.token_type", LIST, (5, [kind(word) for word in words])),
        ("tokenizer.ggml.padding_token_id", U32, at("[PAD]")),
        ("tokenizer.ggml.unknown_token_id", U32, at("[UNK]")),
        # A sequence begins with the one and is classified by the other: the same token.
        ("tokenizer.ggml.bos_token_id", U32, at("[CLS]")),
        ("tokenizer.ggml.cls_token_id", U32, at("[CLS]")),
        ("tokenizer.ggml.seperator_token_id", U32, at("[SEP]")),
        ("tokenizer.ggml.mask_token_id", U32, at("[MASK]")),
    ]


def wordpiece(word):
    """llama.cpp marks where a word begins; a BERT vocabulary marks where it goes on."""
    if is_special(word):
        return word
    return word[2:] if word.startswith("##") else f"\u2581{word}"


def kind(word):
    return UNKNOWN if word == "[UNK]" else CONTROL if is_special(word) else NORMAL


def is_special(word):
    return len(word) > 2 and word.startswith("[") and word.endswith("]")


def bert_name(name):
    """Our name of a tensor; None for what the vectors don't need."""
    parts = {
        "embeddings.word_embeddings": "token_embd",
        "embeddings.position_embeddings": "position_embd",
        "embeddings.token_type_embeddings": "token_types",
        "embeddings.LayerNorm": "token_embd_norm",
        "attention.self.query": "attn_q",
        "attention.self.key": "attn_k",
        "attention.self.value": "attn_v",
        "attention.output.dense": "attn_output",
        "attention.output.LayerNorm": "attn_output_norm",
        "intermediate.dense": "ffn_up",
        "output.dense": "ffn_down",
        "output.LayerNorm": "layer_output_norm",
    }
    stem, _, end = name.rpartition(".")
    if stem.startswith("encoder.layer."):
        _, _, layer, inner = stem.split(".", 3)
        return f"blk.{layer}.{parts[inner]}.{end}"
    return f"{parts[stem]}.{end}" if stem in parts else None


def safetensors(path):
    """Name, shape and floats of every f32 tensor."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        head = json.loads(file.read(length))
        start = file.tell()
        for name, entry in head.items():
            if name == "__metadata__" or entry["dtype"] != "F32":
                continue
            begin, end = entry["data_offsets"]
            file.seek(start + begin)
            yield name, entry["shape"], little_endian(array.array("f", file.read(end - begin)))


# --- random numbers ---------------------------------------------------------------------------------------------------


class Draw:
    """Tensors of random numbers, sized so that states neither vanish nor explode."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def matrix(self, name, rows, columns, stored=F16):
        spread = columns**-0.5
        floats = array.array("f", (self.random.gauss(0, spread) for _ in range(rows * columns)))
        return (name, [rows, columns], stored, floats)

    def vector(self, name, size, around=0):
        return (name, [size], F32, array.array("f", (around + self.random.gauss(0, 0.1) for _ in range(size))))

    def linear(self, name, rows, columns):
        return [self.matrix(f"{name}.weight", rows, columns), self.vector(f"{name}.bias", rows)]

    def norm(self, name, size):
        return [self.vector(f"{name}.weight", size, 1), self.vector(f"{name}.bias", size)]


def byte_vocabulary(special):
    """Byte-level BPE without merges but one, which the format wants: every byte is a token."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    letters = {byte: chr(byte) for byte in visible} | {byte: chr(256 + at) for at, byte in enumerate(hidden)}
    return [*(letters[byte] for byte in range(256)), "is", *special], ["i s"]


# --- GGUF -------------------------------------------------------------------------------------------------------------


def write(path, values, tensors):
    unfinished = path.with_name(f".{path.name}.unfinished")
    with open(unfinished, "wb") as file:
        file.write(struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(values)))
        for key, kind, value in values:
            file.write(text(key) + struct.pack("<I", kind) + encoded(kind, value))
        offset = 0
        for name, shape, stored, floats in tensors:
            sizes = shape[::-1]
            file.write(text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, stored, offset))
            offset += padded(len(floats) * (4 if stored == F32 else 2))
        file.write(bytes(padded(file.tell()) - file.tell()))
        for _, _, stored, floats in tensors:
            data = little_endian(floats).tobytes() if stored == F32 else struct.pack(f"<{len(floats)}e", *floats)
            file.write(data + bytes(padded(len(data)) - len(data)))
    os.replace(unfinished, path)


def encoded(kind, value):
    if kind == STRING:
        return text(value)
    if kind == LIST:
        inner, entries = value
        return struct.pack("<IQ", inner, len(entries)) + b"".join(encoded(inner, entry) for entry in entries)
    return struct.pack({U32: "<I", 5: "<i", FLOAT: "<f", BOOL: "<?"}[kind], value)


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def padded(size):
    return -(-size // ALIGNMENT) * ALIGNMENT


def little_endian(floats):
    if sys.byteorder == "big":
        floats = floats[:]
        floats.byteswap()
    return floats


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: gguf_models.py MODELS_FOLDER")
    make_all(sys.argv[1])
