"""Serve a Llama in Hugging Face format with llama.cpp's own server: `python llamacpp.py MODEL_DIR PORT`.

Run by the Python of an environment with the packages `xllamacpp` (llama.cpp and its server) and `gguf` (its
file format). The weights are first written as GGUF into the working directory, bit by bit the same but for
the order of the rows of the query and key projections, which that format wants interleaved for its rotation.
"""

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType
from xllamacpp import CommonParams, Server

NUM_SLOTS = 32
CONTEXT_TOKENS = 32_768
"""Of all slots together: their KV lies in one pool."""
NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def tensors(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Name and bits (`uint16`) of every tensor of a bfloat16 safetensors file."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        start = file.tell()
    data = np.memmap(path, np.uint8, "r", offset=start)
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "BF16":
            raise SystemExit(f"{name} is {entry['dtype']}; only BF16 is taken")
        first, last = entry["data_offsets"]
        yield name, data[first:last].view(np.uint16).reshape(entry["shape"])


def interleaved(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows of each head so that the two halves of the rotation alternate."""
    rows, columns = weight.shape
    return weight.reshape(num_heads, 2, rows // num_heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def gguf_name(name: str) -> str:
    """What GGUF calls a tensor of a Llama."""
    stem = name.removesuffix(".weight")
    if stem in OUTER:
        return f"{OUTER[stem]}.weight"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.weight"


def convert(model: Path, out: Path) -> None:
    """Write the model and its tokeniser as one GGUF file."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    writer = GGUFWriter(out, "llama")
    writer.add_name(model.name)
    writer.add_file_type(LlamaFileType.MOSTLY_BF16)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    _add_tokeniser(writer, model, config)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, bits in tensors(model / "model.safetensors"):
        part = name.removesuffix(".weight").rpartition(".")[2]
        if bits.ndim == 1:
            as_float = (bits.astype(np.uint32) << 16).view(np.float32)
            writer.add_tensor(gguf_name(name), as_float)
            continue
        rows = interleaved(bits, heads[part]) if part in heads else bits
        as_bytes = np.ascontiguousarray(rows).view(np.uint8)
        writer.add_tensor(gguf_name(name), as_bytes, raw_dtype=GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokeniser(writer: GGUFWriter, model: Path, config: dict[str, Any]) -> None:
    tokeniser = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    special = {token["id"] for token in tokeniser["added_tokens"]}
    vocabulary = sorted(tokeniser["model"]["vocab"].items(), key=lambda item: item[1])
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokeniser["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types([TokenType.CONTROL if i in special else TokenType.NORMAL for _, i in vocabulary])
    writer.add_token_merges(merges)
    end = config["eos_token_id"]
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(end[0] if isinstance(end, list) else end)
    writer.add_add_bos_token(value=False)


def serve(file: Path, port: int) -> Server:
    """Start the server: 32 slots over one pool of KV, prompts cached, continuous batching."""
    params = CommonParams()
    params.model.path = str(file)
    params.model_alias = {"m"}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel = NUM_SLOTS
    params.n_ctx = CONTEXT_TOKENS
    params.kv_unified = True
    params.cache_prompt = True
    params.ui = False
    return Server(params)


def main() -> None:
    """Convert, serve, and stay until ended."""
    model, port = Path(sys.argv[1]), int(sys.argv[2])
    file = Path(f"{model.name}.gguf").absolute()
    convert(model, file)
    server = serve(file, port)
    sys.stderr.write(f"listening at {server.listening_address}\n")
    threading.Event().wait()


if __name__ == "__main__":
    main()
