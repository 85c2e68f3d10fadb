"""Makes the checkpoints and the 200 greedy tokens that tests/generate.rs compares `pipeline generate` with.

    python tests/golden/make_golden_greedy.py       # needs torch, transformers, tokenizers; writes beside itself

greedy-gpt2/    config.json, model.safetensors, vocab.json and merges.txt: as GPT-2's own checkpoints lie on the hub
greedy-llama/   config.json, model.safetensors, tokenizer.json; four heads of queries to two of keys and values;
                likewise greedy-qwen3/, whose heads are wider than their share, and greedy-nanochat/
greedy.json     the prompt, and for each its ids, and the ids that `model.generate(do_sample=False)` adds to them

Weights are random, but large: the text does not go round in circles. Of the seeds that give 200 tokens the first is
taken whose best logit leads the second by `MARGIN` throughout, so that rounding decides nothing.
"""
import json
import shutil
from pathlib import Path

import tokenizers
import torch
import transformers
from tokenizers import ByteLevelBPETokenizer

HERE = Path(__file__).parent
PROMPT, NEW, MARGIN, DIFFERENT, VOCABULARY = "The history of the mill", 200, 0.01, 40, 300
TEXT = "The history of the mill by the river is the history of the town. The mill was built of stone by the old bridge."


def gpt2(sizes: dict) -> torch.nn.Module:
    config = transformers.GPT2Config(n_positions=256, n_embd=24, n_layer=2, n_head=4, **sizes)
    return transformers.GPT2LMHeadModel(config)


def llama(sizes: dict) -> torch.nn.Module:
    config = transformers.LlamaConfig(
        hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=256, rope_theta=5e4, tie_word_embeddings=False, **sizes,
    )
    return transformers.LlamaForCausalLM(config)


def qwen3(sizes: dict) -> torch.nn.Module:
    config = transformers.Qwen3Config(
        hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        max_position_embeddings=256, rope_theta=5e4, tie_word_embeddings=True, **sizes,
    )
    return transformers.Qwen3ForCausalLM(config)


def nanochat(sizes: dict) -> torch.nn.Module:
    config = transformers.NanoChatConfig(
        hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=256, tie_word_embeddings=False, pad_token_id=None, **sizes,
    )
    return transformers.NanoChatForCausalLM(config)


def greedy(model: torch.nn.Module, ids: list[int]) -> tuple[list[int], float]:
    prompt = torch.tensor([ids])
    out = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=NEW, do_sample=False, pad_token_id=0,
        return_dict_in_generate=True, output_logits=True,
    )
    best = torch.cat(out.logits).topk(2).values
    return out.sequences[0, len(ids):].tolist(), (best[:, 0] - best[:, 1]).min().item()


def main() -> None:
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator([TEXT] * 3, vocab_size=VOCABULARY, min_frequency=1, special_tokens=["<|endoftext|>"])
    ids = tokenizer.encode(PROMPT).ids
    sizes = dict(vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, initializer_range=0.8)
    versions = {"transformers": transformers.__version__, "torch": torch.__version__, "tokenizers": tokenizers.__version__}
    golden = versions | {"prompt": PROMPT, "prompt_ids": ids}
    for name, build in [("gpt2", gpt2), ("llama", llama), ("qwen3", qwen3), ("nanochat", nanochat)]:
        for seed in range(1000):
            torch.manual_seed(seed)
            model = build(sizes).eval()
            tokens, margin = greedy(model, ids)
            if len(tokens) == NEW and margin >= MARGIN and len(set(tokens)) >= DIFFERENT:
                break
        else:
            raise SystemExit(f"no seed gives a {name} that says enough")
        folder = HERE / f"greedy-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink()
        if name == "gpt2":
            tokenizer.save_model(str(folder))
        else:
            tokenizer.save(str(folder / "tokenizer.json"))
        golden[name] = tokens
        print(name, "seed", seed, "margin", margin, "different", len(set(tokens)))
    (HERE / "greedy.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
