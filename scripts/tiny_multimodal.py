#!/usr/bin/env python3
"""Make tiny multimodal models of random weights, for the tests: a language model and a projector for each way of seeing.

No registry carries a small vision model, and a random one takes the very same path. What it says means nothing, but it
depends on every pixel, and llama-server must say the same of the same files. Each model is made of the same seed every time.

  python3 scripts/tiny_multimodal.py FOLDER

  vision   llama     + mlp             one vector a patch, in a line (LLaVA)
  grid     qwen2vl   + qwen2vl_merger  cells on a grid, M-RoPE, as many as the image is large (Qwen2-VL)
  whole    llama     + gemma3          cells that look at each other, computed at once (Gemma 3)
  sound    llama     + ultravox        a Whisper encoder (Ultravox)
"""

import argparse
import array
import random
import struct
from pathlib import Path

WIDTH = 64  # of the language models
HEADS = 4
LAYERS = 2
FEED_FORWARD = 128
SEEN = 32  # width of the encoders
SEEN_LAYERS = 3
PATCH = 14

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<start_of_image>", "<end_of_image>"]
MERGES = ["t h", "th e", "i n", "e r", "a n", "o u", "Ġ t", "Ġ a"]
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
F32, F16 = 0, 1


class Gguf:
    """One file: metadata, then tensors."""

    def __init__(self, architecture, seed):
        self.random = random.Random(seed)
        self.values = {"general.architecture": architecture}
        self.tensors = []

    def tensor(self, name, *shape, scale=None, data=None, kind=F32):
        """The first of `shape` is the one whose elements lie side by side: a layer's inputs."""
        count = 1
        for size in shape:
            count *= size
        if data is None:
            scale = shape[0] ** -0.5 if scale is None else scale
            data = [self.random.gauss(0, scale) for _ in range(count)]
        assert len(data) == count, name
        raw = struct.pack(f"<{count}e", *data) if kind == F16 else array.array("f", data).tobytes()
        self.tensors.append((name, shape, kind, raw))

    def ones(self, name, size):
        self.tensor(name, size, data=[1.0] * size)

    def small(self, name, *shape):
        self.tensor(name, *shape, scale=0.1)

    def write(self, path):
        head = [b"GGUF", struct.pack("<IQQ", 3, len(self.tensors), len(self.values))]
        for key, value in self.values.items():
            head += [text(key), typed(value)]
        offset = 0
        for name, shape, kind, raw in self.tensors:
            head.append(text(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", size) for size in shape))
            head.append(struct.pack("<IQ", kind, offset))
            offset += padded(len(raw))
        head = b"".join(head)
        body = b"".join(raw.ljust(padded(len(raw)), b"\0") for _, _, _, raw in self.tensors)
        path.write_bytes(head.ljust(padded(len(head)), b"\0") + body)


def padded(size):
    return (size + 31) // 32 * 32


def text(value):
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def typed(value):
    kind, raw = plain(value) if not isinstance(value, list) else (ARRAY, None)
    if raw is None:
        kinds, raws = zip(*map(plain, value))
        # Lists of numbers are signed in files that converters write, and llama.cpp insists on it.
        element = INT32 if kinds[0] == UINT32 else kinds[0]
        raw = struct.pack("<IQ", element, len(value)) + b"".join(raws)
    return struct.pack("<I", kind) + raw


def plain(value):
    if isinstance(value, bool):
        return BOOL, struct.pack("<?", value)
    if isinstance(value, int):
        return UINT32, struct.pack("<I", value)
    if isinstance(value, float):
        return FLOAT32, struct.pack("<f", value)
    return STRING, text(value)


def byte_letters():
    """The letters that stand for bytes in byte-level vocabularies: printable ones for themselves, the others shifted."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {byte: chr(byte) for byte in shown}
    letters |= {byte: chr(256 + place) for place, byte in enumerate(hidden)}
    return [letters[byte] for byte in range(256)]


def language_model(architecture, seed):
    file = Gguf(architecture, seed)
    letters = byte_letters()
    merged = [merge.replace(" ", "") for merge in MERGES]
    vocabulary = letters + merged + SPECIAL
    dimensions = WIDTH // HEADS
    settings = {
        "context_length": 4096,
        "embedding_length": WIDTH,
        "block_count": LAYERS,
        "feed_forward_length": FEED_FORWARD,
        "attention.head_count": HEADS,
        "attention.head_count_kv": HEADS,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": dimensions,
        "rope.freq_base": 10000.0,
        "vocab_size": len(vocabulary),
    }
    if architecture == "qwen2vl":
        settings["rope.dimension_sections"] = [2, 3, 3, 0]
    file.values |= {f"{architecture}.{key}": value for key, value in settings.items()}
    file.values |= {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": vocabulary,
        "tokenizer.ggml.token_type": [1] * (len(vocabulary) - len(SPECIAL)) + [3] * len(SPECIAL),
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.eos_token_id": vocabulary.index("<|im_end|>"),
        "tokenizer.ggml.padding_token_id": vocabulary.index("<|endoftext|>"),
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    }
    file.tensor("token_embd.weight", WIDTH, len(vocabulary), scale=1.0)
    file.ones("output_norm.weight", WIDTH)
    # What can't be read is never said, so that an answer is text whatever the weights.
    rows = [[file.random.gauss(0, 0.5) for _ in range(WIDTH)] for _ in vocabulary]
    said = [token.replace("Ġ", " ").isascii() and token not in SPECIAL for token in vocabulary]
    file.tensor("output.weight", WIDTH, len(vocabulary), data=[x if keep else 0.0 for row, keep in zip(rows, said) for x in row])
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        file.ones(f"{block}.attn_norm.weight", WIDTH)
        file.ones(f"{block}.ffn_norm.weight", WIDTH)
        for name in ("attn_q", "attn_k", "attn_v"):
            file.tensor(f"{block}.{name}.weight", WIDTH, WIDTH, scale=0.25)
            if architecture == "qwen2vl":
                file.small(f"{block}.{name}.bias", WIDTH)
        file.tensor(f"{block}.attn_output.weight", WIDTH, WIDTH, scale=0.25)
        file.tensor(f"{block}.ffn_gate.weight", WIDTH, FEED_FORWARD)
        file.tensor(f"{block}.ffn_up.weight", WIDTH, FEED_FORWARD)
        file.tensor(f"{block}.ffn_down.weight", FEED_FORWARD, WIDTH)
    return file


def encoder(kind, prefix, modality, seed):
    file = Gguf("clip", seed)
    settings = {
        "embedding_length": SEEN,
        "feed_forward_length": 2 * SEEN,
        "block_count": SEEN_LAYERS,
        "projection_dim": WIDTH,
        "attention.head_count": 2,
        "attention.layer_norm_epsilon": 1e-5,
    }
    file.values |= {f"clip.{modality}.{key}": value for key, value in settings.items()}
    file.values |= {f"clip.has_{modality}_encoder": True, "clip.projector_type": kind, "clip.use_gelu": True}
    for layer in range(SEEN_LAYERS):
        block = f"{prefix}.blk.{layer}"
        for name in ("ln1", "ln2"):
            file.ones(f"{block}.{name}.weight", SEEN)
            file.small(f"{block}.{name}.bias", SEEN)
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            file.tensor(f"{block}.{name}.weight", SEEN, SEEN)
            if not (name == "attn_k" and modality == "audio"):
                file.small(f"{block}.{name}.bias", SEEN)
        file.tensor(f"{block}.ffn_up.weight", SEEN, 2 * SEEN)
        file.small(f"{block}.ffn_up.bias", 2 * SEEN)
        file.tensor(f"{block}.ffn_down.weight", 2 * SEEN, SEEN)
        file.small(f"{block}.ffn_down.bias", SEEN)
    file.ones(f"{prefix}.post_ln.weight", SEEN)
    file.small(f"{prefix}.post_ln.bias", SEEN)
    return file


def image_encoder(kind, size, seed):
    file = encoder(kind, "v", "vision", seed)
    file.values |= {
        "clip.vision.image_size": size,
        "clip.vision.patch_size": PATCH,
        "clip.vision.image_mean": [0.5, 0.5, 0.5],
        "clip.vision.image_std": [0.25, 0.25, 0.25],
    }
    file.tensor("v.patch_embd.weight", PATCH, PATCH, 3, SEEN, scale=0.05)
    return file


def vision():
    file = image_encoder("mlp", 8 * PATCH, 12)
    file.tensor("v.class_embd", SEEN, scale=1.0)
    file.tensor("v.position_embd.weight", SEEN, 8 * 8 + 1, scale=0.5)
    file.ones("v.pre_ln.weight", SEEN)
    file.small("v.pre_ln.bias", SEEN)
    file.tensor("mm.0.weight", SEEN, WIDTH)
    file.small("mm.0.bias", WIDTH)
    file.tensor("mm.2.weight", WIDTH, WIDTH, scale=0.4)
    file.small("mm.2.bias", WIDTH)
    return language_model("llama", 11), file


def grid():
    file = image_encoder("qwen2vl_merger", 8 * PATCH, 22)
    file.values |= {"clip.vision.image_min_pixels": (4 * PATCH) ** 2, "clip.vision.image_max_pixels": (32 * PATCH) ** 2}
    file.tensor("v.patch_embd.weight.1", PATCH, PATCH, 3, SEEN, scale=0.05)
    file.tensor("mm.0.weight", 4 * SEEN, 4 * SEEN)
    file.small("mm.0.bias", 4 * SEEN)
    file.tensor("mm.2.weight", 4 * SEEN, WIDTH, scale=0.4)
    file.small("mm.2.bias", WIDTH)
    return language_model("qwen2vl", 21), file


def whole():
    file = image_encoder("gemma3", 16 * PATCH, 32)
    file.values["clip.vision.projector.scale_factor"] = 2
    file.small("v.patch_embd.bias", SEEN)
    file.tensor("v.position_embd.weight", SEEN, 16 * 16, scale=0.5)
    file.tensor("mm.input_projection.weight", WIDTH, SEEN, scale=0.3)
    file.ones("mm.soft_emb_norm.weight", SEEN)
    return language_model("llama", 31), file


def sound():
    file = encoder("ultravox", "a", "audio", 42)
    file.values |= {"clip.audio.num_mel_bins": 80, "clip.audio.projector.stack_factor": 4}
    file.tensor("a.conv1d.1.weight", 3, 80, SEEN, scale=0.1, kind=F16)
    file.small("a.conv1d.1.bias", 1, SEEN)
    file.tensor("a.conv1d.2.weight", 3, SEEN, SEEN, scale=0.1, kind=F16)
    file.small("a.conv1d.2.bias", 1, SEEN)
    file.tensor("a.position_embd.weight", SEEN, 1500, scale=0.1)
    file.ones("mm.a.norm_pre.weight", 4 * SEEN)
    file.tensor("mm.a.mlp.1.weight", 4 * SEEN, 2 * WIDTH)
    file.ones("mm.a.norm_mid.weight", WIDTH)
    file.tensor("mm.a.mlp.2.weight", WIDTH, WIDTH)
    return language_model("llama", 41), file


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for make in (vision, grid, whole, sound):
        model, projector = make()
        model.write(folder / f"tiny-{make.__name__}.gguf")
        projector.write(folder / f"mmproj-tiny-{make.__name__}.gguf")


if __name__ == "__main__":
    main()
